"""Operators that move elements: Reshape, Flatten, Squeeze, Unsqueeze, Transpose; and those that do
nothing."""

from __future__ import annotations

import math

import numpy as np

from systolith.compiler.base.errors import ModelError, UnsupportedError
from systolith.compiler.ops.registry import NodeView, constant, register
from systolith.compiler.ops.values import Builder, Const, Value
from systolith.reference.reshape import Reshape
from systolith.reference.transpose import Transpose

__all__ = ["convert_reshape", "convert_transpose"]


def _reshape(builder: Builder, node: NodeView, shape: tuple[int, ...]) -> Value:
    value = node.values[0]
    if math.prod(shape) != math.prod(value.shape):
        raise UnsupportedError(
            "import", node.name, f"shape {value.shape} cannot become {shape}", "correct the shape"
        )
    return builder.move(value, node.name, node.op_type, Reshape(shape=shape), shape, node.outputs[0])


def _list(node: NodeView) -> list[int]:
    shape = constant(node, 1)
    if shape.ndim != 1:
        raise ModelError(
            "import",
            node.name,
            f"the shape that Reshape reads must be a list, not an array of shape {list(shape.shape)}",
            "give it one axis",
        )
    return shape.tolist()


@register("Reshape", attributes=("allowzero", "shape"), moves=True)
def convert_reshape(builder: Builder, node: NodeView) -> Value:
    """Zeros copy an extent (unless allowzero is 1), one -1 is inferred."""
    wanted = node.attrs["shape"] if "shape" in node.attrs else _list(node)
    old = node.values[0].shape
    if not node.attrs.get("allowzero", 0):
        wanted = [
            old[axis] if extent == 0 and axis < len(old) else extent for axis, extent in enumerate(wanted)
        ]
    known = math.prod(extent for extent in wanted if extent != -1)
    return _reshape(
        builder,
        node,
        tuple(int(math.prod(old) // max(known, 1) if extent == -1 else extent) for extent in wanted),
    )


@register("Flatten", attributes=("axis",), moves=True)
def convert_flatten(builder: Builder, node: NodeView) -> Value:
    """Two axes: those before `axis`, and the rest."""
    old = node.values[0].shape
    axis = node.attrs.get("axis", 1)
    axis = axis + len(old) if axis < 0 else axis
    return _reshape(builder, node, (math.prod(old[:axis]), math.prod(old[axis:])))


def _axes(node: NodeView) -> list[int] | None:
    if "axes" in node.attrs:
        return list(node.attrs["axes"])
    axes = constant(node, 1)
    return None if axes is None else axes.reshape(-1).tolist()


@register("Squeeze", attributes=("axes",), moves=True)
def convert_squeeze(builder: Builder, node: NodeView) -> Value:
    """Axes of extent 1 go: those named, or all."""
    old, axes = node.values[0].shape, _axes(node)
    gone = (
        {axis for axis, extent in enumerate(old) if extent == 1}
        if axes is None
        else {axis % len(old) for axis in axes}
    )
    return _reshape(builder, node, tuple(extent for axis, extent in enumerate(old) if axis not in gone))


@register("Unsqueeze", attributes=("axes",), moves=True)
def convert_unsqueeze(builder: Builder, node: NodeView) -> Value:
    """Axes of extent 1 come."""
    old, axes = list(node.values[0].shape), _axes(node)
    rank = len(old) + len(axes)
    new = {axis % rank for axis in axes}
    return _reshape(builder, node, tuple(1 if axis in new else old.pop(0) for axis in range(rank)))


@register("Transpose", attributes=("perm",), moves=True)
def convert_transpose(builder: Builder, node: NodeView) -> Value:
    """Axes permuted; reversed where perm is left out."""
    old = node.values[0].shape
    perm = tuple(node.attrs.get("perm", tuple(range(len(old)))[::-1]))
    return builder.move(
        node.values[0],
        node.name,
        "Transpose",
        Transpose(perm=perm),
        tuple(old[axis] for axis in perm),
        node.outputs[0],
    )


def inference_only(node: NodeView) -> bool:
    """training_mode must be absent or 0, and nothing may read the output mask."""
    mode = node.value(2)
    return not node.used.intersection(node.outputs[1:]) and (
        mode is None or (isinstance(mode, Const) and not np.any(mode.array))
    )


@register("Identity", moves=True)
def convert_identity(builder: Builder, node: NodeView) -> Value:
    """The value itself."""
    return node.values[0]


@register("Dropout", attributes=("ratio", "seed"), constraints=(inference_only,), moves=True)
def convert_dropout(builder: Builder, node: NodeView) -> Value:
    """The value itself."""
    return node.values[0]
