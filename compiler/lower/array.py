"""What convolution, matrix product and average pooling share: rectangles of a result on the array."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from systolith.compiler.lower.context import Lowering
from systolith.compiler.lower.spatial import Views, Window
from systolith.compiler.lower.tile_blocks import TileBlock, TileSpan, spans
from systolith.reference.graph import Requant
from systolith.spec import timing
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Destination, Mode, OperandA

__all__ = ["Layer", "emit_rectangle"]


def _chunks(count: int, size: int) -> list[tuple[int, int]]:
    """(first, length) of as few, evenly sized pieces as possible."""
    pieces = -(-count // size)
    step = -(-count // pieces)
    return [(i, min(step, count - i)) for i in range(0, count, step)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What all instructions of one node share, or of one phase of it.

    A phase writes every `spread`-th row and column of the result, from `phase` on.
    """

    window: Window
    pad: int
    bias: np.ndarray
    spread: tuple[int, int] = (1, 1)
    phase: tuple[int, int] = (0, 0)


def emit_rectangle(
    low: Lowering,
    layer: Layer,
    views: Views,
    blocks: list[TileBlock],
    requant: Requant,
    out_rows: range,
    out_cols: range,
    key: tuple,
) -> None:
    """One rectangle of the output, box by box: pixels outside, channels inside, so that the next layer can
    start early."""
    arch, window = low.arch, layer.window
    x, y = views.x, views.y
    if (
        window.kernel == (1, 1) == window.strides
        and window.pads == (0, 0)
        and layer.spread == (1, 1)
        and all(
            view.first[1] == out_cols.start and view.extents[1] == len(out_cols)
            for view in (x, y, views.other or y)
        )
    ):
        # A 1 x 1 kernel sees one long row of pixels.
        views = views.flattened(out_rows)
        out_rows, out_cols = range(1), range(views.y.extents[1])
    most = max(1, arch.acc_depth // 2)
    boxes: list[tuple[range, range]] = []
    if len(out_cols) <= most:
        boxes += [
            (range(out_rows[row], out_rows[row] + rows), out_cols)
            for row, rows in _chunks(len(out_rows), max(1, most // len(out_cols)))
        ]
    else:
        for row in out_rows:
            boxes += [
                (range(row, row + 1), range(out_cols[col], out_cols[col] + cols))
                for col, cols in _chunks(len(out_cols), most)
            ]
    for rows, cols in boxes:
        pixels = len(rows) * len(cols)
        lead = _lead(low, blocks, window, pixels)
        # These begin with what the layer before has long finished, and end with what it finishes last.
        begun = [low.accumulators(pixels) for _ in range(lead)]
        for half in (0, 1):
            for block, acc in zip(blocks, begun, strict=False):
                half_kt = range(block.kt // 2) if half == 0 else range(block.kt // 2, block.kt)
                span = TileSpan(range(1), range(1), half_kt)
                _matmul(
                    low,
                    layer,
                    views,
                    block,
                    span,
                    _tile(low, block) + span.first(block),
                    rows,
                    cols,
                    acc,
                    first=half == 0,
                    final=half == 1,
                )
                if half:
                    _output(low, layer, views, block, requant, rows, cols, acc, key)
        for block in blocks[lead:]:
            acc = low.accumulators(pixels)
            taken = spans(block, window.kernel[0], _most_tiles(arch), low.worth(pixels))
            whole = [*range(len(block.tiles))]
            skipped = sorted({*whole}.difference(*(span.tiles(block) for span in taken)))
            low.skip(block.key, len(skipped), block.macs(skipped, arch.rows) * pixels)
            for span in taken:
                # Asked for just before its use: what is streamed stays only for a while.
                tile = _tile(low, block, None if [*span.tiles(block)] == whole else span)
                _matmul(
                    low,
                    layer,
                    views,
                    block,
                    span,
                    tile,
                    rows,
                    cols,
                    acc,
                    first=span is taken[0],
                    final=span is taken[-1],
                )
            _output(low, layer, views, block, requant, rows, cols, acc, key)


def _most_tiles(arch: ArchConfig) -> int:
    """Tiles that one MATMUL takes: two such spans fit the weight SRAM, where they are streamed."""
    return max(1, arch.weight_bytes // arch.tile_bytes // 2)


def _lead(low: Lowering, blocks: list[TileBlock], window: Window, pixels: int) -> int:
    """How many blocks to begin before the layer before is done, so that the array works while its last
    results drain.

    Each takes an instruction more, which memory must deliver.
    """
    arch, block = low.arch, blocks[0]
    busy = block.kt * max(pixels, arch.weight_load_cycles)
    drain = arch.rows + timing.DRAIN
    if (
        block.mode is not Mode.DENSE
        or window.kernel != (1, 1)
        or block.kx > 1
        or block.kt < 2
        or block.kt > _most_tiles(arch)
        or busy > 4 * drain
        or not all(block.kept.all() for block in blocks)
    ):
        return 0

    def cycles(lead: int) -> int:
        return max(
            (2 * len(blocks) + lead) * low.word_cycles,
            len(blocks) * busy + max(0, drain - lead * (busy // 2)),
        )

    return min(range(min(len(blocks), arch.acc_depth // 2 // pixels) + 1), key=cycles)


def _tile(low: Lowering, block: TileBlock, span: TileSpan | None = None) -> int:
    """First tile, in the weight SRAM, of a block (None), or of a span of it that is kept alone."""
    if span is None:
        return low.weights(block.key, lambda: block.tiles)
    first = span.first(block)
    return low.weights((*block.key, first, span.count), lambda: block.tiles[first : first + span.count])


def _matmul(
    low: Lowering,
    layer: Layer,
    views: Views,
    block: TileBlock,
    span: TileSpan,
    tile: int,
    rows: range,
    cols: range,
    acc: int,
    *,
    first: bool,
    final: bool,
) -> None:
    x, window = views.x, layer.window
    (sy, sx), dy = window.strides, window.dilations[0]
    height, width, channels = x.extents
    pitch = width * channels
    y0 = rows.start * sy - window.pads[0] - x.first[0] + span.ky.start * dy
    x0 = (
        (cols.start * sx - window.pads[1] - x.first[1]) * channels
        + block.channel
        + span.kx.start * block.kx_x
        + span.kt.start * low.arch.rows
    )
    depthwise = block.mode is Mode.DEPTHWISE
    low.emit(
        "MATMUL",
        mode=block.mode,
        base=x.address + y0 * pitch + x0,
        y0=y0,
        x0=x0,
        height=height,
        row_bytes=pitch,
        pad=layer.pad,
        ky=len(span.ky),
        ky_addr=dy * pitch,
        ky_y=dy,
        kx=len(span.kx),
        kx_x=block.kx_x,
        kt=len(span.kt),
        oy=len(rows),
        oy_addr=sy * pitch,
        oy_y=sy,
        ox=(len(cols) - 1) * sx + block.taps if depthwise else len(cols),
        ox_x=channels if depthwise else sx * channels,
        taps=block.taps,
        stride=sx if depthwise else 1,
        tile=tile,
        acc=acc,
        accumulate=not first,
        final=final,
    )


def _output(
    low: Lowering,
    layer: Layer,
    views: Views,
    block: TileBlock,
    requant: Requant,
    rows: range,
    cols: range,
    acc: int,
    key: tuple,
) -> None:
    y, bias = views.y, layer.bias
    _, width, channels = y.extents
    kept = slice(block.first, block.first + block.count)
    mult, shift = (np.broadcast_to(v, len(bias))[kept] for v in (requant.mult, requant.shift))
    param = low.params((*key, block.key), bias[kept], mult, shift)
    (sy, sx), (py, px) = layer.spread, layer.phase
    at = (rows.start * sy + py, cols.start * sx + px, block.first)
    pixels = {"ny": len(rows), "nx": len(cols)}
    target = {"dst": y.at(at), "dst_row": sy * width * channels, "dst_px": sx * channels}
    operands = low.output_operands(requant)
    if low.chain is None:
        low.emit("OUTPUT", acc=acc, **pixels, channels=block.count, param=param, **target, **operands)
    else:
        other = views.other
        low.emit(
            "OUTPUT",
            dest=Destination.VECTOR,
            acc=acc,
            **pixels,
            channels=block.count,
            param=param,
            **operands,
        )
        low.emit(
            low.chain.mnemonic,
            a_source=OperandA.OUTPUT,
            **pixels,
            bytes=block.count,
            b=other.at(at),
            b_row=other.extents[1] * channels,
            b_px=channels,
            **target,
            **low.chain.operands,
        )
