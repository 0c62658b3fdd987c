"""LRN: each element times a function of the squares of the channels around it."""

from __future__ import annotations

import numpy as np

from systolith.compiler.ops.affine import convolution
from systolith.compiler.ops.mul import product_of
from systolith.compiler.ops.operands import fitting, func_of
from systolith.compiler.ops.powers import DIGITS, function_of_sum, square_digits
from systolith.compiler.ops.registry import NodeView, operand, register
from systolith.compiler.ops.select import reshaped
from systolith.compiler.ops.values import Builder, Value

__all__ = ["convert_lrn"]

#: Growth of the divisor over the sums' range from which on they get a second, finer format.
_STEEP = 2.0


def has_channels(node: NodeView) -> bool:
    """the input must have three axes or more."""
    return len(node.values[0].shape) >= 3


def divisor_is_positive(node: NodeView) -> bool:
    """bias must be positive, and alpha and beta not negative."""
    return (
        node.attrs.get("bias", 1.0) > 0
        and node.attrs.get("alpha", 1e-4) >= 0
        and node.attrs.get("beta", 0.75) >= 0
    )


@register(
    "LRN",
    attributes=("alpha", "beta", "bias", "size"),
    constraints=(has_channels, divisor_is_positive),
)
def convert_lrn(builder: Builder, node: NodeView) -> Value:
    """A product of the channels' squares with a band of ones, a table, and a product with the operand."""
    x, name, size = operand(node, 0), node.outputs[0], node.attrs["size"]
    alpha, beta = float(node.attrs.get("alpha", 1e-4)), float(node.attrs.get("beta", 0.75))
    bias, shape, channels = float(node.attrs.get("bias", 1.0)), x.shape, x.shape[1]
    held = square_digits(builder, node, x.tensor, 1, f"{name}_squares")
    value = func_of(builder, held)
    if len(shape) > 4:
        flat = (shape[0], channels * len(DIGITS), int(np.prod(shape[2:])))
        value = reshaped(builder, node, value, flat, f"{name}_flat")
    near = np.arange(channels)[:, None] - np.arange(channels)
    band = ((near <= (size - 1) // 2) & (-near <= size // 2)).astype(np.int8)
    weights = np.concatenate([band * digit for digit in DIGITS], axis=1)[:, :, None, None]
    sums = convolution(
        builder,
        node,
        value,
        weights.astype(np.int8),
        np.ones(channels),
        np.zeros(channels),
        (shape[0], channels, *value.shape[2:]),
        strides=(1, 1),
        dilations=(1, 1),
        pads=(0, 0, 0, 0),
        group=1,
    )
    most = float(min(size, channels)) * 255.0 * 255.0 * builder.tensors[held].scale
    share = alpha / size

    def factor(total: np.ndarray) -> np.ndarray:
        return (bias + share * total) ** -beta

    growth = 1.0 + share * most / bias
    ends = [most]
    while growth > _STEEP and len(ends) < 4:
        ends.insert(0, ends[0] / 8)
        growth /= 8
    scale, zero = fitting(0.0, float(factor(np.zeros(1))[0]))
    made = function_of_sum(
        builder,
        node,
        f"{name}_factor",
        sums.build,
        sums.inputs,
        sums.shape,
        factor,
        ends,
        scale,
        zero,
        -128,
        127,
    )
    lifted = reshaped(builder, node, func_of(builder, made), shape, f"{name}_factors")
    return product_of(builder, node, (x.tensor, lifted.tensor))
