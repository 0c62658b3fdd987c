"""Concatenation: copies."""

from __future__ import annotations

from systolith.compiler.base.layout import Layout
from systolith.compiler.lower.context import Lowering
from systolith.compiler.lower.moving import move, strides_of
from systolith.compiler.lower.nest import whole_strides
from systolith.compiler.lower.operands import bring, materialise
from systolith.compiler.lower.registry import Temporary, lowering
from systolith.reference.concat import Concat

__all__ = ["lower_concat"]


@lowering(Concat)
def lower_concat(low: Lowering, op: Concat) -> Temporary:
    """Concat: each input is copied to its place; all lie in the order of the first that is computed."""
    tensors, inputs = low.graph.tensors, low.node.inputs
    order = next(low.places[name].layout.order for name in inputs if tensors[name].data is None)
    temporary: Temporary = []
    for name in inputs:
        materialise(low, name, order, temporary)
        bring(low, name, order)
    y = low.place(low.node.output, Layout(order=order))
    out = strides_of(low.graph.tensors[low.node.output].shape, order)
    target = [out[axis] for axis in order]
    at = 0
    for name in low.node.inputs:
        shape, place = low.graph.tensors[name].shape, low.places[name]
        extents = [shape[axis] for axis in order]
        source = place.address, whole_strides(extents)
        into = y.address + at * out[op.axis], target
        move(low, extents, source, place.external, into, y.external)
        at += shape[op.axis]
    for name in set(inputs):
        if tensors[name].data is not None:
            low.places.pop(name)
    return temporary
