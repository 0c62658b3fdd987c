"""Nests of loops on the vector unit, and the copy that is made of them."""

from __future__ import annotations

from itertools import product

import numpy as np

from systolith.compiler.lower.context import Lowering
from systolith.compiler.lower.nest import merge_loops

__all__ = ["copy", "emit_nest"]


def emit_nest(
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
    apart: int = 0,
) -> None:
    """``dst[i...] = table[src[i...]]`` over a nest; `src` and `dst` are (address, byte strides).

    With `apart`, what is copied is the larger of two elements so many bytes from one another.
    """
    rows = {"ky": 2, "ky_addr": apart, "ky_y": 1, "height": 2} if apart else {"ky": 1, "height": 1}
    operands = low.table(table)

    def make(start, row, px, ny, nx, count):
        return dict(
            ny=ny,
            nx=nx,
            bytes=count,
            base=start[0],
            y0=0,
            x0=0,
            row_bytes=1,
            kx=1,
            oy_addr=row[0],
            oy_y=0,
            ox_x=px[0],
            dst=start[1],
            dst_row=row[1],
            dst_px=px[1],
            **rows,
            **operands,
        )

    # The window must hold every position: x runs from 0 by ox_x.
    def windowed(start, row, px, ny, nx, count):
        return make(start, row, px, ny, nx, count) | {"row_bytes": px[0] * (nx - 1) + 1}

    emit_nest(low, "POOL", extents, list(zip(src[1], dst[1], strict=True)), (src[0], dst[0]), windowed)
