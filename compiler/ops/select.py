"""Operators that choose indices of axes: Slice, Split, Gather, Tile, Expand."""

from __future__ import annotations

import numpy as np

from systolith.compiler.ops.registry import NodeView, constant, operand, register
from systolith.compiler.ops.values import Builder, Const, Pending, Value
from systolith.reference.reshape import Reshape
from systolith.reference.select import Select
from systolith.reference.take import Take

__all__ = ["broadcast", "convert_slice", "reshaped", "select"]

#: An axis is taken whole, or these indices of it.
Chosen = np.ndarray | None


def select(
    builder: Builder, node: NodeView, value: Value, chosen: list[Chosen], name: str, fill: int = 0
) -> Value:
    """The value with these indices of each axis; itself, where nothing is left out or repeated."""
    shape = value.shape
    indices = tuple(
        None if index is None or np.array_equal(index, np.arange(extent)) else tuple(int(i) for i in index)
        for index, extent in zip(chosen, shape, strict=True)
    )
    if all(index is None for index in indices):
        return value
    new = tuple(extent if index is None else len(index) for index, extent in zip(indices, shape, strict=True))
    op = Select(indices=indices, fill=fill)
    return builder.move(value, node.name, node.op_type, op, new, name)


def reshaped(builder: Builder, node: NodeView, value: Value, shape: tuple[int, ...], name: str) -> Value:
    """The value with another shape; itself, where it has it already."""
    if value.shape == shape:
        return value
    return builder.move(value, node.name, "Reshape", Reshape(shape=shape), shape, name)


def bounds_are_constant(node: NodeView) -> bool:
    """all operands but the first must be constant."""
    return all(value is None or isinstance(value, Const) for value in node.values[1:])


def result_is_not_empty(node: NodeView) -> bool:
    """no axis of a result may be empty."""
    return all(index is None or len(index) > 0 for index in _slices(node))


def _slices(node: NodeView) -> list[Chosen]:
    """Indices of each axis that a Slice of any opset takes."""
    shape = node.values[0].shape
    if "starts" in node.attrs:
        starts, ends = list(node.attrs["starts"]), list(node.attrs["ends"])
        axes, steps = node.attrs.get("axes"), None
    else:
        starts, ends, axes, steps = (
            None if (array := constant(node, index)) is None else array.reshape(-1).tolist()
            for index in range(1, 5)
        )
    axes = list(range(len(starts))) if axes is None else list(axes)
    steps = [1] * len(starts) if steps is None else steps
    chosen: list[Chosen] = [None] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        extent = shape[axis % len(shape)]
        start, end = (bound + extent if bound < 0 else bound for bound in (start, end))
        low, high = (0, extent) if step > 0 else (-1, extent - 1)
        start = min(max(start, 0), high)
        end = min(max(end, low), extent)
        chosen[axis % len(shape)] = np.arange(start, end, step)
    return chosen


@register(
    "Slice",
    attributes=("axes", "ends", "starts"),
    constraints=(bounds_are_constant, result_is_not_empty),
    moves=True,
)
def convert_slice(builder: Builder, node: NodeView) -> Value:
    """Any axes and steps, backwards too."""
    return select(builder, node, node.values[0], _slices(node), node.outputs[0])


def parts_add_up(node: NodeView) -> bool:
    """the parts of Split must add up to the axis, and none may be empty."""
    sizes = _sizes(node)
    axis = node.attrs.get("axis", 0)
    return all(size > 0 for size in sizes) and sum(sizes) == node.values[0].shape[axis]


def _sizes(node: NodeView) -> list[int]:
    stated = node.attrs.get("split")
    if stated is None and node.value(1) is not None:
        stated = constant(node, 1).reshape(-1).tolist()
    if stated is not None:
        return list(stated)
    extent, count = node.values[0].shape[node.attrs.get("axis", 0)], len(node.outputs)
    size = -(-extent // count)
    return [min(size, extent - at * size) for at in range(count)]


@register(
    "Split",
    attributes=("axis", "num_outputs", "split"),
    constraints=(bounds_are_constant, parts_add_up),
    moves=True,
)
def convert_split(builder: Builder, node: NodeView) -> tuple[Value, ...]:
    """One slice per result that something reads."""
    value = node.values[0]
    if isinstance(value, Pending) and len(node.used) > 1:
        # Else each part would be computed from the beginning.
        value = operand(node, 0)
    axis, at, parts = node.attrs.get("axis", 0) % len(value.shape), 0, []
    for size, name in zip(_sizes(node), node.outputs, strict=True):
        chosen: list[Chosen] = [None] * len(value.shape)
        chosen[axis] = np.arange(at, at + size)
        read = not node.used or name in node.used
        parts.append(select(builder, node, value, chosen, name) if read else value)
        at += size
    return tuple(parts)


def indices_are_constant(node: NodeView) -> bool:
    """the indices must be constant, and the data computed."""
    return isinstance(node.value(1), Const) and not isinstance(node.value(0), Const)


def indices_are_inside(node: NodeView) -> bool:
    """every index must lie on the axis."""
    index, shape = node.value(1).array, node.values[0].shape
    extent = shape[node.attrs.get("axis", 0)]
    return index.size > 0 and bool(np.all((index >= -extent) & (index < extent)))


@register("Gather", attributes=("axis",), constraints=(indices_are_constant, indices_are_inside), moves=True)
def convert_gather(builder: Builder, node: NodeView) -> Value:
    """Constant indices of an axis, of any shape, which takes the place of the axis."""
    value, index = node.values[0], node.value(1).array
    shape = value.shape
    axis = node.attrs.get("axis", 0) % len(shape)
    index = index % shape[axis]
    new = (*shape[:axis], *index.shape, *shape[axis + 1 :])
    if index.ndim == 0:
        op = Take(axis=axis, index=int(index))
        return builder.move(value, node.name, "Gather", op, new, node.outputs[0])
    chosen: list[Chosen] = [None] * len(shape)
    chosen[axis] = index.reshape(-1)
    last = index.ndim == 1
    value = select(builder, node, value, chosen, node.outputs[0] if last else f"{node.outputs[0]}_taken")
    return reshaped(builder, node, value, new, node.outputs[0])


@register("Tile", constraints=(bounds_are_constant,), moves=True)
def convert_tile(builder: Builder, node: NodeView) -> Value:
    """Copies one behind the other."""
    shape = node.values[0].shape
    chosen = [np.tile(np.arange(n), int(r)) for n, r in zip(shape, constant(node, 1), strict=True)]
    return select(builder, node, node.values[0], chosen, node.outputs[0])


def _expanded(node: NodeView) -> tuple[int, ...]:
    return np.broadcast_shapes(node.values[0].shape, tuple(constant(node, 1).reshape(-1).tolist()))


@register("Expand", constraints=(bounds_are_constant,), moves=True)
def convert_expand(builder: Builder, node: NodeView) -> Value:
    """Axes of extent 1 repeated."""
    return broadcast(builder, node, node.values[0], _expanded(node), node.outputs[0])


def broadcast(builder: Builder, node: NodeView, value: Value, shape: tuple[int, ...], name: str) -> Value:
    """The value as NumPy broadcasts it to a shape."""
    lifted = (1,) * (len(shape) - len(value.shape)) + value.shape
    if lifted == shape:
        return reshaped(builder, node, value, shape, name)
    value = reshaped(builder, node, value, lifted, f"{name}_lifted")
    chosen = [
        np.zeros(n, np.int64) if old != n else np.arange(n) for old, n in zip(lifted, shape, strict=True)
    ]
    return select(builder, node, value, chosen, name)
