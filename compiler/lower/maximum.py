"""The larger of two tensors on the vector unit: a window of two rows, as far apart as the operands."""

from __future__ import annotations

from systolith.compiler.base.layout import Layout
from systolith.compiler.lower.context import Lowering
from systolith.compiler.lower.operands import bring, materialise
from systolith.compiler.lower.pieces import Box, Operand, View, in_boxes
from systolith.compiler.lower.registry import Temporary, lowering
from systolith.compiler.lower.vector import copy
from systolith.reference.maximum import Maximum

__all__ = ["lower_maximum"]


@lowering(Maximum)
def lower_maximum(low: Lowering, op: Maximum) -> Temporary:
    """Maximum; all lie in the order of the first operand that is computed."""
    tensors, inputs = low.graph.tensors, low.node.inputs
    order = next(low.places[name].layout.order for name in inputs if tensors[name].data is None)
    temporary: Temporary = []
    for name in inputs:
        materialise(low, name, order, temporary)
        bring(low, name, order)
    places = [low.places[name] for name in inputs]
    y = low.place(low.node.output, Layout(order=order))

    def compute(box: Box, result: View, operands: list[View]) -> None:
        first, second = sorted(view.at((box[0].start,)) for view in operands)
        target = result.at((box[0].start,))
        copy(low, [len(box[0])], (first, [1]), (target, [1]), op.table, apart=second - first)

    in_boxes(
        low,
        Operand(name=low.node.output, place=y, extents=(y.bytes,)),
        [
            Operand(name=name, place=place, extents=(y.bytes,))
            for name, place in zip(inputs, places, strict=True)
        ],
        (0,),
        compute,
    )
    for name in set(inputs):
        if tensors[name].data is not None:
            low.places.pop(name)
    return temporary
