"""Add, multiply, look up, and copy on the vector unit, over any broadcast."""

from __future__ import annotations

from itertools import product

import numpy as np

from systolith.compiler.lower.context import Lowering
from systolith.compiler.lower.nest import merge_loops
from systolith.compiler.lower.pieces import Box, Operand, View, in_boxes
from systolith.reference.elementwise import Add, Lookup, Mul

__all__ = ["binary_operands", "copy", "lower_binary", "lower_lookup"]


def _emit_nest(
    low: Lowering,
    mnemonic: str,
    extents: list[int],
    strides: list[tuple[int, ...]],
    bases: tuple[int, ...],
    make,
) -> None:
    """Cover a nest with instructions of at most rows x pixels x bytes; ``make(bases, row, px, ny, nx,
    bytes)`` gives the operands."""
    limits = {f.name: f.max for f in low.format(mnemonic).fields}
    extents, strides = merge_loops(extents, strides)
    if extents and all(step == 1 for step in strides[-1]):
        length, extents, strides = extents[-1], extents[:-1], strides[:-1]
    else:
        length = 1
    step = min(length, limits["bytes"] // low.arch.act_width * low.arch.act_width)
    pieces, rest = divmod(length, step)
    unit = (1,) * len(bases)
    for at, bytes_, count in ((0, step, pieces), (pieces * step, rest, 1)):
        if not bytes_:
            continue
        loops = list(zip(extents, strides, strict=True))
        if count > 1:
            loops.append((count, tuple(step * u for u in unit)))
        # A loop that is longer than its field allows is split in two.
        split = []
        for extent, steps in loops:
            if extent > limits["ny"]:
                inner = next(i for i in range(limits["ny"], 0, -1) if extent % i == 0)
                split += [(extent // inner, tuple(s * inner for s in steps)), (inner, steps)]
            else:
                split.append((extent, steps))
        while len(split) < 2:
            split.insert(0, (1, (0,) * len(bases)))
        outer, (row, px) = split[:-2], split[-2:]
        for index in product(*(range(extent) for extent, _ in outer)):
            start = tuple(
                base + at + sum(i * steps[k] for i, (_, steps) in zip(index, outer, strict=True))
                for k, base in enumerate(bases)
            )
            low.emit(mnemonic, **make(start, row[1], px[1], row[0], px[0], bytes_))


def copy(
    low: Lowering,
    extents: list[int],
    src: tuple[int, list[int]],
    dst: tuple[int, list[int]],
    table: np.ndarray | None = None,
) -> None:
    """``dst[i...] = table[src[i...]]`` over a nest; `src` and `dst` are (address, byte strides)."""
    operands = low.table(table)

    def make(start, row, px, ny, nx, count):
        return dict(
            ny=ny,
            nx=nx,
            bytes=count,
            base=start[0],
            y0=0,
            x0=0,
            height=1,
            row_bytes=1,
            ky=1,
            kx=1,
            oy_addr=row[0],
            oy_y=0,
            ox_x=px[0],
            dst=start[1],
            dst_row=row[1],
            dst_px=px[1],
            **operands,
        )

    # The window must hold every position: x runs from 0 by ox_x.
    def windowed(start, row, px, ny, nx, count):
        return make(start, row, px, ny, nx, count) | {"row_bytes": px[0] * (nx - 1) + 1}

    _emit_nest(low, "POOL", extents, list(zip(src[1], dst[1], strict=True)), (src[0], dst[0]), windowed)


def lower_lookup(low: Lowering, op: Lookup) -> None:
    """Lookup: input and output lie alike."""
    x, y = (low.places[name] for name in (low.node.inputs[0], low.node.output))

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


def binary_operands(low: Lowering, op: Add | Mul, swapped: bool = False) -> dict[str, int]:
    """The numeric operands of ADD or MUL; `swapped` exchanges a and b."""
    zeros = (op.b_zero, op.a_zero) if swapped else (op.a_zero, op.b_zero)
    mults = (op.a_mult, op.b_mult if isinstance(op, Add) else 0)
    if swapped and isinstance(op, Add):
        mults = mults[::-1]
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


def lower_binary(low: Lowering, op: Add | Mul, operands: list[Operand]) -> None:
    """Add or Mul; `operands` are a and b in the memory order of the result, with extent 1 where they are
    broadcast."""
    y = low.places[low.node.output]
    shape = low.graph.tensors[low.node.output].shape
    extents = tuple(shape[axis] for axis in y.layout.order)
    common = binary_operands(low, op)

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

        _emit_nest(
            low,
            "ADD" if isinstance(op, Add) else "MUL",
            list(map(len, box)),
            list(zip(*strides, strict=True)),
            tuple(bases),
            make,
        )

    in_boxes(
        low, Operand(name=low.node.output, place=y, extents=extents), operands, range(len(extents)), compute
    )
