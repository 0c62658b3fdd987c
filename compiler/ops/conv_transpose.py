"""ConvTranspose in one and two dimensions."""

from __future__ import annotations

import numpy as np

from systolith.compiler.ops.affine import bias_of
from systolith.compiler.ops.registry import NodeView, operand, register
from systolith.compiler.ops.values import Builder, Const, Pending, Value
from systolith.compiler.ops.weighted import Linear, int8_weights
from systolith.compiler.ops.window import known_auto_pad, one_or_two_dimensions
from systolith.reference.conv_transpose import ConvTranspose
from systolith.reference.graph import Requant

__all__ = ["convert_conv_transpose", "spread_of"]


def weights_fit_the_channels(node: NodeView) -> bool:
    """the weights must have as many axes as the input, and group must divide its channels."""
    weights, x = node.value(1), node.values[0]
    return not isinstance(weights, Const) or (
        weights.array.ndim == len(x.shape)
        and weights.shape[0] == x.shape[1]
        and x.shape[1] % node.attrs.get("group", 1) == 0
    )


def attributes_fit(node: NodeView) -> bool:
    """strides, dilations, pads, output_padding and output_shape must fit the spatial axes and leave a
    result."""
    rank, attrs = len(node.values[0].shape) - 2, node.attrs
    counts = {
        "strides": 1,
        "dilations": 1,
        "output_padding": 1,
        "output_shape": 1,
        "kernel_shape": 1,
        "pads": 2,
    }
    if any(name in attrs and len(attrs[name]) != n * rank for name, n in counts.items()):
        return False
    if min(*attrs.get("strides", (1,)), *attrs.get("dilations", (1,)), 1) < 1:
        return False
    weights = node.value(1)
    return not isinstance(weights, Const) or min(spread_of(node, weights.shape[2:])[1]) > 0


def spread_of(node: NodeView, kernel: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """(pads before, extents of the result) per spatial axis."""
    spatial, attrs = node.values[0].shape[2:], node.attrs
    rank = len(spatial)
    strides, dilations = (attrs.get(name, (1,) * rank) for name in ("strides", "dilations"))
    extra, pads = attrs.get("output_padding", (0,) * rank), attrs.get("pads", (0,) * 2 * rank)
    auto, stated = attrs.get("auto_pad", b"NOTSET"), attrs.get("output_shape")
    before, extents = [], []
    for axis, size in enumerate(spatial):
        full = (size - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1 + extra[axis]
        out = stated[axis] if stated else size * strides[axis] if auto.startswith(b"SAME") else None
        if out is None:
            first, last = (0, 0) if auto == b"VALID" else (pads[axis], pads[axis + rank])
            before.append(first)
            extents.append(full - first - last)
        else:
            total = max(full - out, 0)
            before.append(total // 2 if auto == b"SAME_UPPER" else total - total // 2)
            extents.append(out)
    return before, extents


@register(
    "ConvTranspose",
    attributes=(
        "auto_pad",
        "dilations",
        "group",
        "kernel_shape",
        "output_padding",
        "output_shape",
        "pads",
        "strides",
    ),
    constraints=(one_or_two_dimensions, weights_fit_the_channels, known_auto_pad, attributes_fit),
)
def convert_conv_transpose(builder: Builder, node: NodeView) -> Value:
    """A transposed convolution that waits for the scale of its result."""
    x = operand(node, 0)
    weights, w_scale = int8_weights(node, 1, 1)
    group = node.attrs.get("group", 1)
    before, extents = spread_of(node, weights.shape[2:])
    channels = weights.shape[1] * group
    # [C, M / group, ...] as [M, C / group, ...].
    kernels = weights.reshape(group, weights.shape[0] // group, *weights.shape[1:]).swapaxes(1, 2)
    kernels = kernels.reshape(channels, weights.shape[0] // group, *weights.shape[2:])
    kernels = kernels if kernels.ndim == 4 else kernels[:, :, None, :]
    return transposed(
        builder,
        node,
        x.tensor,
        kernels,
        np.tile(w_scale, group),
        bias_of(node, 2, channels),
        before=before,
        extents=extents,
        strides=node.attrs.get("strides", (1,) * len(extents)),
        dilations=node.attrs.get("dilations", (1,) * len(extents)),
        group=group,
    )


def transposed(
    builder: Builder,
    node: NodeView,
    name: str,
    kernels: np.ndarray,
    w_scale: np.ndarray,
    bias: np.ndarray,
    *,
    before: list[int],
    extents: list[int],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    group: int,
) -> Pending:
    """A transposed convolution of a tensor that waits for the scale of its result; `kernels` are
    [M, C / group, KH, KW], the geometry is per spatial axis."""
    tensor = builder.tensors[name]

    def two(values: tuple[int, ...] | list[int], fill: int) -> tuple[int, int]:
        first, last = (fill, *values) if len(values) == 1 else values
        return int(first), int(last)

    def make(weights: np.ndarray, bias: np.ndarray, requant: Requant) -> ConvTranspose:
        return ConvTranspose(
            weights=weights,
            bias=bias,
            strides=two(strides, 1),
            dilations=two(dilations, 1),
            pads=two(before, 0),
            out=two(extents, 1),
            group=group,
            x_zero=tensor.zero_point,
            requant=requant,
        )

    linear = Linear(
        node=node,
        make=make,
        weights=kernels,
        axis=0,
        x_scale=tensor.scale,
        x_zero=tensor.zero_point,
        w_scale=w_scale,
        bias=bias,
        out_axis=1,
    )
    return Pending(
        node=node.name,
        op_type=node.op_type,
        shape=(tensor.shape[0], len(kernels), *map(int, extents)),
        build=linear.build,
        inputs=(name,),
        sources=(node.name,),
        linear=linear,
    )
