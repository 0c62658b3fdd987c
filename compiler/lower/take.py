"""One index of an axis: a copy."""

from __future__ import annotations

from systolith.compiler.lower.context import Lowering
from systolith.compiler.lower.moving import move
from systolith.compiler.lower.nest import whole_strides
from systolith.compiler.lower.registry import Order, lowering
from systolith.reference.take import Take

__all__ = ["lower_take"]


@lowering(Take, order=Order.ROW_MAJOR)
def lower_take(low: Lowering, op: Take) -> None:
    """Take; both lie row-major."""
    x, y = (low.places[name] for name in (low.node.inputs[0], low.node.output))
    shape = low.graph.tensors[low.node.inputs[0]].shape
    strides = whole_strides(shape)
    extents = [extent for axis, extent in enumerate(shape) if axis != op.axis]
    source = (
        x.address + op.index * strides[op.axis],
        [step for axis, step in enumerate(strides) if axis != op.axis],
    )
    move(low, extents, source, x.external, (y.address, whole_strides(extents)), y.external)
