"""Add and multiply on the vector unit, over any broadcast."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from systolith.compiler.base.layout import Layout, row_major
from systolith.compiler.lower.context import Chain, Lowering, Place
from systolith.compiler.lower.operands import bring
from systolith.compiler.lower.pieces import Box, Operand, View, in_boxes
from systolith.compiler.lower.registry import Temporary, lowering
from systolith.compiler.lower.vector import emit_nest
from systolith.reference.add import Add
from systolith.reference.mul import Mul

__all__ = ["lower_binary"]

_MNEMONICS = {Add: "ADD", Mul: "MUL"}


def _operands(low: Lowering, op: Add | Mul, swapped: bool = False) -> dict[str, int]:
    """The numeric operands of ADD or MUL; `swapped` exchanges a and b."""
    zeros = (op.b_zero, op.a_zero) if swapped else (op.a_zero, op.b_zero)
    mults = (op.a_mult, 0)
    if isinstance(op, Add):
        mults = (op.b_mult, op.a_mult) if swapped else (op.a_mult, op.b_mult)
    return dict(
        a_zero=zeros[0],
        b_zero=zeros[1],
        a_mult=mults[0],
        b_mult=mults[1],
        shift=op.shift,
        zero=op.zero,
        low=op.low,
        high=op.high,
        **low.table(op.table),
    )


def _chained(low: Lowering, op: Add | Mul, other: str, swapped: bool) -> Chain:
    return Chain(mnemonic=_MNEMONICS[type(op)], other=other, operands=_operands(low, op, swapped))


def _compute(low: Lowering, op: Add | Mul, operands: list[Operand]) -> None:
    """Add or Mul; `operands` are a and b in the memory order of the result, with extent 1 where they are
    broadcast."""
    y = low.places[low.node.output]
    shape = low.graph.tensors[low.node.output].shape
    extents = tuple(shape[axis] for axis in y.layout.order)
    common = _operands(low, op)

    def compute(box: Box, result: View, views: list[View]) -> None:
        bases, strides = [], []
        for view, operand in zip((*views, result), (*operands, None), strict=True):
            wide = [operand is None or operand.extents[axis] == extents[axis] for axis in range(len(extents))]
            bases.append(view.at([r.start if w else 0 for r, w in zip(box, wide, strict=True)]))
            strides.append([step if w else 0 for step, w in zip(view.strides, wide, strict=True)])

        def make(start, row, px, ny, nx, count):
            return dict(
                ny=ny,
                nx=nx,
                bytes=count,
                a=start[0],
                a_row=row[0],
                a_px=px[0],
                b=start[1],
                b_row=row[1],
                b_px=px[1],
                dst=start[2],
                dst_row=row[2],
                dst_px=px[2],
                **common,
            )

        emit_nest(
            low,
            _MNEMONICS[type(op)],
            list(map(len, box)),
            list(zip(*strides, strict=True)),
            tuple(bases),
            make,
        )

    in_boxes(
        low, Operand(name=low.node.output, place=y, extents=extents), operands, range(len(extents)), compute
    )


@lowering(Add, Mul, joins=_chained)
def lower_binary(low: Lowering, op: Add | Mul) -> Temporary:
    """Add or Mul; the result lies as the largest computed operand does."""
    node, graph = low.node, low.graph
    shape = graph.tensors[node.output].shape
    computed = [name for name in node.inputs if graph.tensors[name].data is None]
    lead = max(computed, key=lambda name: low.places[name].bytes)
    lead_shape = graph.tensors[lead].shape
    order = (
        low.places[lead].layout.order
        if len(lead_shape) == len(shape) and low.places[lead].layout.flatten is None
        else row_major(shape)
    )
    temporary: Temporary = []
    operands = []
    for name in node.inputs:
        extents = (1,) * (len(shape) - len(graph.tensors[name].shape)) + graph.tensors[name].shape
        own = tuple(axis - (len(shape) - len(graph.tensors[name].shape)) for axis in order)
        own = tuple(axis for axis in own if axis >= 0)
        if graph.tensors[name].data is not None:
            # A constant is spread over the innermost axis, where the vector unit cannot broadcast.
            inner = next((axis for axis in reversed(order) if shape[axis] > 1), order[-1])
            spread = [extent if axis != inner else shape[axis] for axis, extent in enumerate(extents)]
            data = np.broadcast_to(graph.tensors[name].data.reshape(extents), spread)
            address, size = low.constant(data.transpose(order))
            temporary.append((address, size))
            place = Place(address=address, bytes=size, layout=Layout(order=order))
            extents = tuple(spread)
        else:
            bring(low, name, own)
            place = low.places[name]
        own_extents = tuple(extents[axis] for axis in order)
        operands.append(Operand(name=name, place=place, extents=own_extents, window=_broadcast(own_extents)))
    low.place(node.output, Layout(order=order))
    _compute(low, op, operands)
    return temporary


def _broadcast(extents: tuple[int, ...]) -> Callable[[Box], Box]:
    """The part of an operand that a box of the result needs, where an extent of 1 serves every index."""
    return lambda box: tuple(r if extent > 1 else range(1) for r, extent in zip(box, extents, strict=True))
