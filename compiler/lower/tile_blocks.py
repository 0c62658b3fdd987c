"""How weights become tiles of the array: tile blocks, and the spans of their tiles that one instruction
takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from systolith.compiler.lower.spatial import Window
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Mode

__all__ = ["TileBlock", "TileSpan", "convolution_blocks", "dense_blocks", "kept_runs", "spans"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TileBlock:
    """The tiles of one block of up to C output channels, and how the array computes them.

    Parameters
    ----------
    key : hashable          identifies the weights within the node
    first, count : int      output channels
    channel : int           first input channel
    mode : Mode
    kx, kx_x, kt : int      runs of a kernel row, bytes between them, chunks of R in each
    taps : int              vectors before the first result (DEPTHWISE), else 1
    tiles : int8 [kh * kx * kt, R, C]
    length : int            bytes of a run that meet weights; 0 where a tile that is all zero has to stay
    """

    key: tuple
    first: int
    count: int
    channel: int
    mode: Mode
    kx: int
    kx_x: int
    kt: int
    taps: int
    tiles: np.ndarray
    length: int = 0

    @property
    def kept(self) -> np.ndarray:
        """bool [kh * kx * kt]: the tiles that the array must see."""
        return self.tiles.any(axis=(1, 2)) if self.length else np.ones(len(self.tiles), bool)

    def macs(self, tiles: Sequence[int], rows: int) -> int:
        """Multiply-accumulates of one vector with these tiles of R rows."""
        return self.count * sum(min(rows, self.length - tile % self.kt * rows) for tile in tiles)


def kept_runs(kept: Sequence[bool], worth: int) -> list[range]:
    """Maximal runs of what is kept, joined over gaps shorter than `worth`; something at least."""
    found: list[range] = []
    for index in np.flatnonzero(kept).tolist() or [0]:
        if found and index - found[-1].stop < worth:
            found[-1] = range(found[-1].start, index + 1)
        else:
            found.append(range(index, index + 1))
    return found


def dense_blocks(weights: np.ndarray, group: int, dilation: int, rows: int, cols: int) -> list[TileBlock]:
    """Tile blocks of a dense or grouped convolution; `weights` are [M, C / group, kh, kw]."""
    m, per_group, kh, kw = weights.shape
    channels, mg = per_group * group, m // group
    # Several small groups share a tile block: their weights stand on the diagonal of the tile.
    together = 1 if group == 1 else max(1, min(rows // per_group, cols // mg, group))
    contiguous = group == 1 and dilation == 1
    blocks = []
    for g in range(0, group, together):
        groups = min(together, group - g)
        for first, count in (
            [(0, mg * groups)] if groups > 1 else [(i, min(cols, mg - i)) for i in range(0, mg, cols)]
        ):
            inputs = per_group * groups
            runs, length = (1, kw * inputs) if contiguous else (kw, inputs)
            kt = -(-length // rows)
            dense = np.zeros((kh, kw, inputs, cols), np.int8)
            for i in range(groups):
                part = weights[(g + i) * mg : (g + i + 1) * mg]
                part = part[first : first + count] if groups == 1 else part
                at = 0 if groups == 1 else i * mg
                dense[:, :, i * per_group : (i + 1) * per_group, at : at + len(part)] = part.transpose(
                    2, 3, 1, 0
                )
            tiles = np.zeros((kh * runs, kt * rows, cols), np.int8)
            tiles[:, :length] = dense.reshape(kh * runs, length, cols)
            blocks.append(
                TileBlock(
                    key=(g, first),
                    first=g * mg + first,
                    count=count,
                    channel=g * per_group,
                    mode=Mode.DENSE,
                    kx=runs,
                    kx_x=dilation * channels,
                    kt=kt,
                    taps=1,
                    tiles=tiles.reshape(-1, rows, cols),
                    length=length if group == 1 else 0,
                )
            )
    return blocks


def _depthwise_blocks(weights: np.ndarray, dilation: int, rows: int, cols: int) -> list[TileBlock] | None:
    """Tile blocks in the array's FIR mode, or None where the kernel does not fit it."""
    channels, _, kh, kw = weights.shape
    span = (kw - 1) * dilation + 1
    if span > rows and dilation > 1:
        return None
    runs = -(-span // rows)
    taps = min(span, rows)
    blocks = []
    for first in range(0, channels, cols):
        part = weights[first : first + cols, 0]
        tiles = np.zeros((kh, runs, rows, cols), np.int8)
        for j in range(kw):
            run, tap = divmod(j * dilation, rows) if runs > 1 else (0, j * dilation)
            # The newest vector meets row 0, so the last tap of the kernel stands there.
            tiles[:, run, taps - 1 - tap, : len(part)] = part[:, :, j].T
        blocks.append(
            TileBlock(
                key=(first,),
                first=first,
                count=len(part),
                channel=first,
                mode=Mode.DEPTHWISE,
                kx=runs,
                kx_x=rows * channels,
                kt=1,
                taps=taps,
                tiles=tiles.reshape(-1, rows, cols),
            )
        )
    return blocks


def convolution_blocks(arch: ArchConfig, weights: np.ndarray, group: int, window: Window) -> list[TileBlock]:
    """The tile blocks of a convolution: in FIR mode where it is depthwise and fits, else dense."""
    dilation = window.dilations[1]
    if (
        arch.depthwise
        and group > 1
        and weights.shape[0] == group
        and weights.shape[1] == 1
        and window.strides[1] <= 16
    ):
        blocks = _depthwise_blocks(weights, dilation, arch.rows, arch.cols)
        if blocks is not None:
            return blocks
    return dense_blocks(weights, group, dilation, arch.rows, arch.cols)


@dataclass(frozen=True, slots=True)
class TileSpan:
    """Consecutive tiles of a tile block, which one MATMUL takes: kernel rows, runs, chunks."""

    ky: range
    kx: range
    kt: range

    def first(self, block: TileBlock) -> int:
        """The first of these tiles."""
        return (self.ky.start * block.kx + self.kx.start) * block.kt + self.kt.start

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.ky) * len(self.kx) * len(self.kt)

    def tiles(self, block: TileBlock) -> range:
        """Their numbers in the block."""
        return range(self.first(block), self.first(block) + self.count)


def spans(block: TileBlock, kernel_rows: int, most: int, worth: int) -> list[TileSpan]:
    """A tile block in spans of at most `most` tiles, cut along kernel rows first.

    Tiles that are all zero are left out: whole kernel rows of a convolution, chunks of a product, where at
    least `worth` follow one another or they lie at an end.
    """

    def cut(extents: list[range], size: int) -> list[range]:
        return [
            range(i, min(i + size, extent.stop))
            for extent in extents
            for i in range(extent.start, extent.stop, size)
        ]

    kt, kx, ky = range(block.kt), range(block.kx), [range(kernel_rows)]
    if kernel_rows * block.kx == 1:
        return [TileSpan(ky[0], kx, part) for part in cut(kept_runs(block.kept, worth), most)]
    row = block.kt * block.kx
    ky = kept_runs(block.kept.reshape(kernel_rows, row).any(axis=1), -(-worth // row))
    return [
        TileSpan(*parts)
        for parts in product(
            cut(ky, max(1, most // row)), cut([kx], max(1, most // block.kt)), cut([kt], most)
        )
    ]
