"""Any function of one int8, on the vector unit."""

from __future__ import annotations

from systolith.compiler.lower.context import Lowering
from systolith.compiler.lower.pieces import Box, Operand, View, in_boxes
from systolith.compiler.lower.registry import lowering
from systolith.compiler.lower.vector import copy
from systolith.reference.lookup import Lookup

__all__ = ["lower_lookup"]


@lowering(Lookup, alike=True)
def lower_lookup(low: Lowering, op: Lookup) -> None:
    """Lookup: input and output lie alike."""
    x = low.places[low.node.inputs[0]]
    y = low.place(low.node.output, x.layout)

    def compute(box: Box, result: View, operands: list[View]) -> None:
        copy(
            low,
            [len(box[0])],
            (operands[0].at((box[0].start,)), [1]),
            (result.at((box[0].start,)), [1]),
            op.table,
        )

    in_boxes(
        low,
        Operand(name=low.node.output, place=y, extents=(y.bytes,)),
        [Operand(name=low.node.inputs[0], place=x, extents=(x.bytes,))],
        (0,),
        compute,
    )
