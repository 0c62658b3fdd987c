"""Conv in one and two dimensions, and BatchNormalization of a quantised tensor, which is a depthwise 1 x 1
convolution."""

from __future__ import annotations

import numpy as np

from systolith.compiler.errors import UnsupportedError
from systolith.compiler.ops.registry import NodeView, constant, operand, register
from systolith.compiler.ops.values import Builder, Const, Func, Pending, Value
from systolith.compiler.ops.weighted import Linear, int8_weights
from systolith.compiler.ops.window import known_auto_pad, one_or_two_dimensions, pads_not_negative, window_of
from systolith.reference.conv import Conv

__all__ = ["channel_affine", "convert_conv"]


def group_divides(node: NodeView) -> bool:
    """group must divide the channels of input and output."""
    group, weights = node.attrs.get("group", 1), node.value(1)
    return not isinstance(weights, Const) or (
        weights.shape[0] % group == 0 and node.values[0].shape[1] == weights.shape[1] * group
    )


@register(
    "Conv",
    attributes=("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"),
    constraints=(one_or_two_dimensions, known_auto_pad, pads_not_negative, group_divides),
)
def convert_conv(builder: Builder, node: NodeView) -> Value:
    """A convolution that waits for the scale of its result."""
    x = operand(node, 0)
    weights, w_scale = int8_weights(node, 1, 0)
    if weights.ndim != len(x.shape):
        raise UnsupportedError(
            "import",
            node.name,
            f"weights of {weights.ndim} axes do not fit an input of {len(x.shape)}",
            "correct the weights",
        )
    window = window_of(node, weights.shape[2:])
    weights = weights if weights.ndim == 4 else weights[:, :, None, :]
    return _pending(
        builder,
        node,
        x,
        weights,
        w_scale,
        _bias(node, 2, len(w_scale)),
        window.shape(x.shape, len(w_scale)),
        strides=window.strides,
        dilations=window.dilations,
        pads=window.pads,
        group=node.attrs.get("group", 1),
    )


def channel_affine(
    builder: Builder, node: NodeView, x: Func, factor: np.ndarray, offset: np.ndarray
) -> Value:
    """``x * factor[c] + offset[c]``: weights of 127 (so that the offset keeps seven bits below a step of x),
    scale factor / 127."""
    channels = x.shape[1]
    weights = np.full((channels, 1, 1, 1), 127, np.int8)
    return _pending(
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


@register("BatchNormalization", attributes=("epsilon", "momentum", "spatial", "training_mode"))
def convert_batch_normalization(builder: Builder, node: NodeView) -> Value:
    """What the folding pass leaves: a normalisation without a convolution before it."""
    if node.attrs.get("training_mode", 0) or node.attrs.get("spatial", 1) != 1:
        raise UnsupportedError(
            "import",
            node.name,
            "training_mode 1 or spatial 0 of BatchNormalization is not supported",
            "export for inference",
        )
    scale, bias, mean, variance = (constant(node, index).astype(np.float64) for index in range(1, 5))
    factor = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    value = node.values[0]
    if isinstance(value, Pending) and value.linear is not None and not value.clamps:
        from systolith.compiler.ops.arithmetic import fold_affine

        return fold_affine(node, value, factor, bias - mean * factor)
    x = operand(node, 0)
    if len(x.shape) not in (3, 4):
        raise UnsupportedError(
            "import",
            node.name,
            "BatchNormalization needs one or two spatial axes",
            "fold it into the layer before",
        )
    return channel_affine(builder, node, x, factor, bias - mean * factor)


def _bias(node: NodeView, index: int, channels: int) -> np.ndarray:
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


def _pending(
    builder: Builder,
    node: NodeView,
    x: Func,
    weights: np.ndarray,
    w_scale: np.ndarray,
    bias: np.ndarray,
    shape: tuple[int, ...],
    **attributes,
) -> Pending:
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
