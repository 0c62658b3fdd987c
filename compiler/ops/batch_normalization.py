"""BatchNormalization of a quantised tensor: inside the weighted sum before it, or a depthwise 1 x 1
convolution."""

from __future__ import annotations

import numpy as np

from systolith.compiler.ops.affine import channel_affine, fold_affine
from systolith.compiler.ops.registry import NodeView, constant, operand, register
from systolith.compiler.ops.select import bounds_are_constant, reshaped
from systolith.compiler.ops.values import Builder, Pending, Value

__all__ = ["convert_batch_normalization"]


def for_inference(node: NodeView) -> bool:
    """training_mode must be 0: export for inference."""
    return not node.attrs.get("training_mode", 0)


def one_number_per_channel(node: NodeView) -> bool:
    """scale, bias, mean and variance must be one number per channel (per element, with spatial 0), and the
    channels the second of two axes or more."""
    shape = node.values[0].shape
    wanted = shape[1:2] if node.attrs.get("spatial", 1) else shape[1:]
    return len(shape) >= 2 and all(value.shape == wanted for value in node.values[1:5])


def factors_are_finite(node: NodeView) -> bool:
    """scale, mean and variance must give neither NaN nor infinity."""
    return all(bool(np.all(np.isfinite(array))) for array in _factors(node))


def _factors(node: NodeView) -> tuple[np.ndarray, np.ndarray]:
    """Per channel, what multiplies and what is added."""
    scale, bias, mean, variance = (constant(node, index).astype(np.float64) for index in range(1, 5))
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
        return factor, bias - mean * factor


@register(
    "BatchNormalization",
    attributes=("epsilon", "momentum", "spatial", "training_mode"),
    constraints=(for_inference, bounds_are_constant, one_number_per_channel, factors_are_finite),
)
def convert_batch_normalization(builder: Builder, node: NodeView) -> Value:
    """What the folding pass leaves: a normalisation without a convolution before it."""
    factor, offset = _factors(node)
    value = node.values[0]
    if factor.ndim > 1:
        x, flat = operand(node, 0), (value.shape[0], factor.size)
        row = reshaped(builder, node, x, flat, f"{node.outputs[0]}_row")
        scaled = channel_affine(builder, node, row, factor.ravel(), offset.ravel())
        return reshaped(builder, node, scaled, value.shape, node.outputs[0])
    if isinstance(value, Pending) and value.linear is not None and not value.clamps:
        if value.linear.out_axis % len(value.shape) == 1:
            return fold_affine(node, value, factor, offset)
    return channel_affine(builder, node, operand(node, 0), factor, offset)
