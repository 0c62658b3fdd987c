"""Operands as int8 tensors: computed ones as they are, constants in the format that fits them."""

from __future__ import annotations

import numpy as np

from systolith.compiler.ops.registry import NodeView, operand
from systolith.compiler.ops.select import broadcast
from systolith.compiler.ops.values import Builder, Const, Func, Value, dequantised

__all__ = [
    "bounds",
    "broadcast_shape",
    "fitted",
    "fitting",
    "func_of",
    "shapes_broadcast",
    "spread",
    "tensor_of",
]


def fitting(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of the narrowest int8 format that holds these two and 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32((high - low) / 255)) or 1.0
    return scale, int(np.clip(-128 - round(low / scale), -128, 127))


def fitted(builder: Builder, value: Const, name: str) -> str:
    """A constant as a tensor: its own integers where it has one scale for them, else in the format that fits
    it."""
    if value.ints is not None and value.ints.dtype == np.int8 and value.scale.size == 1:
        return builder.constant(name, value.ints, value.scale.item(), int(value.zero.item()))
    real = value.real
    finite = real[np.isfinite(real)]
    scale, zero = fitting(float(finite.min(initial=0)), float(finite.max(initial=0)))
    return builder.quantise(Const(np.clip(real, -3e38, 3e38).astype(np.float32)), name, name, scale, zero)


def tensor_of(builder: Builder, node: NodeView, index: int) -> str:
    """The tensor that holds an operand."""
    value = node.value(index)
    if isinstance(value, Const):
        return fitted(builder, value, node.proto.input[index])
    return operand(node, index).tensor


def bounds(builder: Builder, name: str) -> tuple[float, float]:
    """The smallest and the largest number that a tensor can hold."""
    tensor = builder.tensors[name]
    if tensor.data is not None:
        codes = int(tensor.data.min()), int(tensor.data.max())
    else:
        codes = -128, 127
    low, high = ((code - tensor.zero_point) * tensor.scale for code in codes)
    return low, high


def broadcast_shape(node: NodeView) -> tuple[int, ...]:
    """Shape of the result of an element-wise operator."""
    return tuple(np.broadcast_shapes(*(value.shape for value in node.values if value is not None)))


def shapes_broadcast(node: NodeView) -> bool:
    """the shapes of the operands must broadcast."""
    try:
        broadcast_shape(node)
    except ValueError:
        return False
    return True


def spread(builder: Builder, node: NodeView, value: Value, shape: tuple[int, ...], name: str) -> Value:
    """A value, constant or computed, as NumPy broadcasts it to a shape."""
    if isinstance(value, Const):
        return value if value.shape == shape else Const(np.broadcast_to(value.array, shape))
    return broadcast(builder, node, value, shape, name)


def func_of(builder: Builder, name: str) -> Func:
    """A tensor of the graph as a value."""
    tensor = builder.tensors[name]
    return Func(name, tensor.shape, dequantised(tensor.scale, tensor.zero_point), pure=True)
