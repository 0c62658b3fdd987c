"""Conv in one and two dimensions, and BatchNormalization of a quantised tensor, which is a depthwise 1 x 1
convolution."""

from __future__ import annotations

import numpy as np

from systolith.compiler.base.errors import ModelError, QuantiseError, UnsupportedError
from systolith.compiler.ops.affine import bias_of, channel_affine, convolution, fold_affine
from systolith.compiler.ops.registry import NodeView, constant, operand, register
from systolith.compiler.ops.values import Builder, Const, Pending, Value
from systolith.compiler.ops.weighted import int8_weights
from systolith.compiler.ops.window import known_auto_pad, one_or_two_dimensions, pads_not_negative, window_of

__all__ = ["convert_batch_normalization", "convert_conv"]


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
    channels = node.values[0].shape[1:2]
    if any(array.shape != channels for array in (scale, bias, mean, variance)):
        raise ModelError(
            "import",
            node.name,
            "scale, bias, mean and variance of BatchNormalization are not one number per channel",
            "correct its operands",
        )
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
        offset = bias - mean * factor
    if not np.all(np.isfinite(factor)) or not np.all(np.isfinite(offset)):
        raise QuantiseError(
            "quantise",
            node.name,
            "scale, mean and variance of BatchNormalization give NaN or infinity",
            "train or export the model again",
        )
    value = node.values[0]
    if isinstance(value, Pending) and value.linear is not None and not value.clamps:
        return fold_affine(node, value, factor, offset)
    x = operand(node, 0)
    if len(x.shape) not in (3, 4):
        raise UnsupportedError(
            "import",
            node.name,
            "BatchNormalization needs one or two spatial axes",
            "fold it into the layer before",
        )
    return channel_affine(builder, node, x, factor, offset)
