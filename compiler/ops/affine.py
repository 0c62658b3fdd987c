"""A factor and an offset per channel: inside a weighted sum, or as a depthwise 1 x 1 convolution."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from systolith.compiler.base.errors import UnsupportedError
from systolith.compiler.ops.registry import NodeView, constant
from systolith.compiler.ops.values import Builder, Func, Pending, Value
from systolith.compiler.ops.weighted import Linear
from systolith.reference.conv import Conv
from systolith.reference.reshape import Reshape

__all__ = ["bias_of", "channel_affine", "convolution", "fold_affine"]


def fold_affine(node: NodeView, value: Pending, factor: np.ndarray, offset: np.ndarray) -> Pending:
    """``value * factor[m] + offset[m]``, inside the weighted sum that `value` is."""
    linear = value.linear
    linear = replace(linear, w_scale=linear.w_scale * factor, bias=linear.bias * factor + offset)
    return replace(value, linear=linear, build=linear.build, sources=(*value.sources, node.name))


def channel_affine(
    builder: Builder, node: NodeView, x: Func, factor: np.ndarray, offset: np.ndarray
) -> Value:
    """``x * factor[c] + offset[c]`` along axis 1 of any tensor: weights of 127 (so that the offset keeps
    seven bits below a step of x), scale factor / 127."""
    shape, channels = x.shape, x.shape[1]
    if len(shape) not in (3, 4):
        flat = (shape[0], channels, prod(shape[2:]))
        x = builder.move(x, node.name, "Reshape", Reshape(shape=flat), flat, f"{node.outputs[0]}_flat")
    weights = np.full((channels, 1, 1, 1), 127, np.int8)
    pending = convolution(
        builder,
        node,
        x,
        weights,
        factor / 127.0,
        offset,
        x.shape,
        strides=(1, 1),
        dilations=(1, 1),
        pads=(0, 0, 0, 0),
        group=channels,
    )
    if x.shape == shape:
        return pending
    return builder.move(pending, node.name, "Reshape", Reshape(shape=shape), shape, node.outputs[0])


def convolution(
    builder: Builder,
    node: NodeView,
    x: Func,
    weights: np.ndarray,
    w_scale: np.ndarray,
    bias: np.ndarray,
    shape: tuple[int, ...],
    **attributes,
) -> Pending:
    """``conv(x, weights) + bias`` that waits for the scale of its result; `attributes` as of `Conv`."""
    tensor = builder.tensors[x.tensor]

    def make(weights, bias, requant) -> Conv:
        return Conv(weights=weights, bias=bias, x_zero=tensor.zero_point, requant=requant, **attributes)

    linear = Linear(
        node=node,
        make=make,
        weights=weights,
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
        shape=shape,
        build=linear.build,
        inputs=(x.tensor,),
        sources=(node.name,),
        linear=linear,
    )


def bias_of(node: NodeView, index: int, channels: int) -> np.ndarray:
    """Operand `index` as one number per output channel; zeros where it is left out."""
    if constant(node, index) is None:
        return np.zeros(channels)
    bias = node.value(index).real
    if bias.size != channels:
        raise UnsupportedError(
            "import",
            node.name,
            f"the bias has {bias.size} elements for {channels} output channels",
            "correct the bias",
        )
    return bias.reshape(-1)
