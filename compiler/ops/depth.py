"""DepthToSpace and SpaceToDepth: elements moved."""

from __future__ import annotations

from systolith.compiler.ops.registry import NodeView, register
from systolith.compiler.ops.values import Builder, Value
from systolith.reference.graph import Op
from systolith.reference.reshape import Reshape
from systolith.reference.transpose import Transpose

__all__ = ["convert_depth_to_space", "convert_space_to_depth"]


def blocks_fit(node: NodeView) -> bool:
    """the input must have four axes that the blocks divide."""
    shape, size = node.values[0].shape, node.attrs["blocksize"]
    if len(shape) != 4 or size < 1:
        return False
    if node.op_type == "DepthToSpace":
        return shape[1] % (size * size) == 0
    return shape[2] % size == 0 == shape[3] % size


def mode_known(node: NodeView) -> bool:
    """mode must be DCR or CRD."""
    return node.attrs.get("mode", b"DCR") in (b"DCR", b"CRD")


def _moved(
    builder: Builder, node: NodeView, inner: tuple[int, ...], perm: tuple[int, ...], shape: tuple[int, ...]
) -> Value:
    value, name = node.values[0], node.outputs[0]
    turned = tuple(inner[axis] for axis in perm)
    steps: tuple[tuple[Op, tuple[int, ...], str], ...] = (
        (Reshape(shape=inner), inner, f"{name}_inner"),
        (Transpose(perm=perm), turned, f"{name}_turned"),
        (Reshape(shape=shape), shape, name),
    )
    for op, new, label in steps:
        value = builder.move(value, node.name, node.op_type, op, new, label)
    return value


@register("DepthToSpace", attributes=("blocksize", "mode"), constraints=(blocks_fit, mode_known), moves=True)
def convert_depth_to_space(builder: Builder, node: NodeView) -> Value:
    """Channels become blocks of pixels."""
    (n, c, h, w), size = node.values[0].shape, node.attrs["blocksize"]
    left = c // (size * size)
    shape = (n, left, h * size, w * size)
    if node.attrs.get("mode", b"DCR") == b"DCR":
        return _moved(builder, node, (n, size, size, left, h, w), (0, 3, 4, 1, 5, 2), shape)
    return _moved(builder, node, (n, left, size, size, h, w), (0, 1, 4, 2, 5, 3), shape)


@register("SpaceToDepth", attributes=("blocksize",), constraints=(blocks_fit,), moves=True)
def convert_space_to_depth(builder: Builder, node: NodeView) -> Value:
    """Blocks of pixels become channels."""
    (n, c, h, w), size = node.values[0].shape, node.attrs["blocksize"]
    shape = (n, c * size * size, h // size, w // size)
    return _moved(builder, node, (n, c, h // size, size, w // size, size), (0, 3, 5, 1, 2, 4), shape)
