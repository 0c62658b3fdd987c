"""Conv in one and two dimensions."""

from __future__ import annotations

from systolith.compiler.ops.affine import bias_of, convolution
from systolith.compiler.ops.registry import NodeView, operand, register
from systolith.compiler.ops.values import Builder, Const, Value
from systolith.compiler.ops.weighted import int8_weights
from systolith.compiler.ops.window import known_auto_pad, one_or_two_dimensions, pads_not_negative, window_of

__all__ = ["convert_conv"]


def weights_fit_the_input(node: NodeView) -> bool:
    """the weights must have as many axes as the input."""
    weights = node.value(1)
    return not isinstance(weights, Const) or weights.array.ndim == len(node.values[0].shape)


def group_divides(node: NodeView) -> bool:
    """group must divide the channels of input and output."""
    group, weights = node.attrs.get("group", 1), node.value(1)
    return not isinstance(weights, Const) or (
        weights.shape[0] % group == 0 and node.values[0].shape[1] == weights.shape[1] * group
    )


@register(
    "Conv",
    attributes=("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"),
    constraints=(
        one_or_two_dimensions,
        weights_fit_the_input,
        known_auto_pad,
        pads_not_negative,
        group_divides,
    ),
)
def convert_conv(builder: Builder, node: NodeView) -> Value:
    """A convolution that waits for the scale of its result."""
    x = operand(node, 0)
    weights, w_scale = int8_weights(node, 1, 0)
    window = window_of(node, weights.shape[2:])
    weights = weights if weights.ndim == 4 else weights[:, :, None, :]
    return convolution(
        builder,
        node,
        x,
        weights,
        w_scale,
        bias_of(node, 2, len(w_scale)),
        window.shape(x.shape, len(w_scale)),
        strides=window.strides,
        dilations=window.dilations,
        pads=window.pads,
        group=node.attrs.get("group", 1),
    )
