"""Operands as int8 tensors: computed ones as they are, constants in the format that fits them."""

from __future__ import annotations

import numpy as np

from systolith.compiler.base.formats import Format
from systolith.compiler.ops.registry import NodeView, operand
from systolith.compiler.ops.select import broadcast
from systolith.compiler.ops.values import Builder, Const, Func, Quant, Value, dequantised, quantised

__all__ = [
    "bounds",
    "broadcast_shape",
    "fitting",
    "func_of",
    "held",
    "shapes_broadcast",
    "spread",
    "tensor_of",
    "unchanged",
]

#: What infinity counts as.
_LARGEST = float(np.finfo(np.float32).max)


def fitting(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of the narrowest int8 format that holds these two and 0."""
    chosen = Format.covering(low, high)
    return chosen.scale, chosen.zero


def tensor_of(builder: Builder, node: NodeView, index: int) -> str:
    """The tensor that holds an operand: of a constant its own integers where it has one scale for them, else
    those of the format that fits it."""
    value = node.value(index)
    if not isinstance(value, Const):
        return operand(node, index).tensor
    return held(builder, node, index, value)


def held(builder: Builder, node: NodeView, index: int, value: Const) -> str:
    """The tensor that holds a constant: operand `index`, or what is made of it."""
    given = value
    if value.ints is None or value.ints.dtype != np.int8 or value.scale.size != 1:
        real = np.clip(value.real, -_LARGEST, _LARGEST).astype(np.float32)
        chosen = Format.of(value.real)
        ints = quantised(real, chosen.scale, chosen.zero)
        value = Const(value.array, ints, np.array([chosen.scale]), np.array([chosen.zero]))
        if node.in_float and given is node.value(index):
            node.note(index, value)
    return builder.constant(node.proto.input[index], value.ints, value.scale.item(), int(value.zero.item()))


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


def unchanged(node: NodeView, neutral: float, positions: tuple[int, ...]) -> Value | None:
    """The other operand, where one of two at these positions is nothing but the neutral element."""
    for position in positions:
        const, value = node.values[position], node.values[1 - position]
        if not isinstance(const, Const) or isinstance(value, Const | Quant) or value is None:
            continue
        if np.all(const.array == neutral) and broadcast_shape(node) == value.shape:
            return value
    return None


def spread(builder: Builder, node: NodeView, value: Value, shape: tuple[int, ...], name: str) -> Value:
    """A value, constant or computed, as NumPy broadcasts it to a shape."""
    if isinstance(value, Const):
        return value if value.shape == shape else Const(np.broadcast_to(value.array, shape))
    return broadcast(builder, node, value, shape, name)


def func_of(builder: Builder, name: str) -> Func:
    """A tensor of the graph as a value."""
    tensor = builder.tensors[name]
    return Func(name, tensor.shape, dequantised(tensor.scale, tensor.zero_point), pure=True)
