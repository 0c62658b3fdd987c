"""LpPool and GlobalLpPool for p of 1 and 2."""

from __future__ import annotations

import numpy as np

from systolith.compiler.ops.affine import convolution
from systolith.compiler.ops.operands import func_of
from systolith.compiler.ops.powers import DIGITS, absolute, function_of_sum, square_digits
from systolith.compiler.ops.registry import NodeView, operand, register
from systolith.compiler.ops.select import reshaped
from systolith.compiler.ops.values import Builder, Pending, Value
from systolith.compiler.ops.window import known_auto_pad, one_or_two_dimensions, pads_not_negative, window_of

__all__ = ["convert_global_lp_pool", "convert_lp_pool"]

#: Ranges of a sum whose root is taken, and by how much each is longer than the one before.
_RANGES, _COARSER = 4, 6.0


def one_or_two(node: NodeView) -> bool:
    """p must be 1 or 2."""
    return node.attrs.get("p", 2) in (1, 2)


def _convert(builder: Builder, node: NodeView, kernel: tuple[int, ...]) -> Value:
    x, name, p = operand(node, 0), node.outputs[0], node.attrs.get("p", 2)
    window = window_of(node, kernel)
    channels = x.shape[1]
    if p == 1:
        held, parts = absolute(builder, node, x.tensor, f"{name}_magnitude"), (1,)
    else:
        # The digits of a channel lie side by side, so that each channel is a group.
        apart = (*x.shape[:2], 1, *x.shape[2:])
        lifted = reshaped(builder, node, x, apart, f"{name}_lifted")
        held, parts = square_digits(builder, node, lifted.tensor, 2, f"{name}_digits"), DIGITS
    tensor = builder.tensors[held]
    value: Value = func_of(builder, held)
    value = reshaped(
        builder, node, value, (x.shape[0], channels * len(parts), *x.shape[2:]), f"{name}_channels"
    )
    weights = np.array(parts, np.int8).reshape(1, len(parts), 1, 1)
    sums = convolution(
        builder,
        node,
        value,
        np.broadcast_to(weights, (channels, len(parts), *window.kernel)),
        np.ones(channels),
        np.zeros(channels),
        window.shape(x.shape, channels),
        strides=window.strides,
        dilations=window.dilations,
        pads=window.reach,
        group=channels,
    )
    if p == 1:
        return sums
    most = float(sum(parts)) * window.kernel[0] * window.kernel[1] * 255 * tensor.scale

    def compose(builder: Builder, name: str, scale: float, zero: int, low: int, high: int) -> str:
        end = min(most, ((high - zero + 1) * scale) ** 2) or most
        ends = [end / _COARSER**at for at in reversed(range(_RANGES))]
        return function_of_sum(
            builder, node, name, sums.build, sums.inputs, sums.shape, np.sqrt, ends, scale, zero, low, high
        )

    return Pending(
        node=node.name,
        op_type=node.op_type,
        shape=sums.shape,
        build=None,
        inputs=(),
        sources=(node.name,),
        compose=compose,
    )


@register(
    "LpPool",
    attributes=("auto_pad", "ceil_mode", "dilations", "kernel_shape", "p", "pads", "strides"),
    constraints=(one_or_two_dimensions, one_or_two, known_auto_pad, pads_not_negative),
)
def convert_lp_pool(builder: Builder, node: NodeView) -> Value:
    """A convolution of magnitudes, or of exact squares, and the root of its sums."""
    return _convert(builder, node, tuple(node.attrs["kernel_shape"]))


@register("GlobalLpPool", attributes=("p",), constraints=(one_or_two_dimensions, one_or_two))
def convert_global_lp_pool(builder: Builder, node: NodeView) -> Value:
    """The same over each channel."""
    return _convert(builder, node, node.values[0].shape[2:])
