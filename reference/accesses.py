"""What an instruction reads and writes, exactly: every run of bytes, listed by walking its loops.

The functional machine touches these bytes and no others, which tests hold for every instruction. The proof of
order (`hazards`) stands on this list. The maker of the order has a list of its own (`footprint`), by
arithmetic on the ends of the loops instead of a walk, so that neither can hide a mistake of the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Destination, Instr, Mode, OperandA, Region, Space, isa_for
from systolith.spec.numerics import TABLE_SIZE

__all__ = ["Access", "Hull", "accesses", "hulls"]

#: (space, first, end, writes)
Hull = tuple[str, int, int, bool]


@dataclass(frozen=True, slots=True, eq=False)
class Access:
    """Runs of one memory that an instruction reads, or writes.

    Parameters
    ----------
    space : str             'act', 'weight', 'param', 'table', 'acc' or 'data'; bytes, of 'acc' entries
    writes : bool
    starts, lengths : [n]   first byte of each run, and how many; at least one run, none of them empty
    modulo : int or None    size of a memory whose addresses wrap: a run that passes its end goes on at 0
    """

    space: str
    writes: bool
    starts: np.ndarray
    lengths: np.ndarray
    modulo: int | None

    def hull(self) -> Hull:
        """The interval from the first byte to the last; the whole memory where a run passes its end."""
        ends = self.starts + self.lengths
        low, high = int(self.starts.min()), int(ends.max())
        if self.modulo is not None and high > self.modulo:
            low, high = 0, self.modulo
        return self.space, low, high, self.writes

    def cells(self) -> np.ndarray:
        """Every byte, once, in order."""
        lane = np.arange(int(self.lengths.max()))
        within = lane < self.lengths[:, None]
        cells = np.unique((self.starts[:, None] + lane)[within])
        return cells if self.modulo is None else np.unique(cells % self.modulo)


def accesses(instr: Instr, arch: ArchConfig) -> list[Access]:
    """What is read and what is written; a memory that is both read and written is listed twice."""
    return [access for access in _RULES[instr.mnemonic](instr, arch) if access.starts.size]


def hulls(instr: Instr, arch: ArchConfig) -> list[Hull]:
    """One interval for each access."""
    return [access.hull() for access in accesses(instr, arch)]


def _runs(
    space: str,
    starts: np.ndarray,
    lengths: int | np.ndarray,
    modulo: int | None = None,
    *,
    writes: bool = False,
) -> Access:
    return Access(space, writes, starts.ravel(), np.broadcast_to(lengths, starts.shape).ravel(), modulo)


def _block(space: str, first: int, count: int, *, writes: bool = False) -> Access:
    return _runs(space, np.arange(first, first + bool(count)), count, writes=writes)


def _nest(instr: Instr, arch: ArchConfig, name: str, length: int, *, writes: bool = False) -> Access:
    """Pixels of an operand that is walked row by row."""
    y, x = np.arange(instr.ny)[:, None], np.arange(instr.nx)
    steps = instr.operands
    starts = (steps[name] + y * steps[f"{name}_row"] + x * steps[f"{name}_px"]) % arch.act_bytes
    return _runs("act", starts, length, arch.act_bytes, writes=writes)


def _table(instr: Instr) -> list[Access]:
    return [_block("table", instr.slot * TABLE_SIZE, TABLE_SIZE)] if instr.table else []


def _output(instr: Instr, arch: ArchConfig) -> list[Access]:
    line = arch.param_line_bytes
    found = [_block("acc", instr.acc, instr.ny * instr.nx), _block("param", instr.param * line, line)]
    if instr.dest != Destination.CELL:
        found += _table(instr)
    if instr.dest == Destination.ACT:
        found.append(_nest(instr, arch, "dst", instr.channels, writes=True))
    return found


def _binary(instr: Instr, arch: ArchConfig) -> list[Access]:
    names = ("b",) if instr.a_source == OperandA.OUTPUT else ("a", "b")
    return [
        *(_nest(instr, arch, name, instr.bytes) for name in names),
        _nest(instr, arch, "dst", instr.bytes, writes=True),
        *_table(instr),
    ]


def _pool(instr: Instr, arch: ArchConfig) -> list[Access]:
    window = _Window(instr, arch, (instr.ny, instr.nx, 1), chunk=0)
    inside = (window.x >= 0) & (window.x < instr.row_bytes)
    return [
        window.runs(np.zeros_like(window.x), inside * instr.bytes),
        _nest(instr, arch, "dst", instr.bytes, writes=True),
        *_table(instr),
    ]


def _cell(instr: Instr, arch: ArchConfig) -> list[Access]:
    state = [instr.state, instr.state_high]
    hidden = [instr.dst, instr.dst_low] if instr.wide else [instr.dst]
    return [
        _runs("act", np.array([base]), instr.units, arch.act_bytes, writes=writes)
        for bases, writes in ((state, False), (state + hidden, True))
        for base in bases
    ]


def _matmul(instr: Instr, arch: ArchConfig) -> list[Access]:
    width = arch.cols if instr.mode == Mode.DEPTHWISE else arch.rows
    tiles = instr.ky * instr.kx * instr.kt
    counted = len(range(instr.taps - 1, instr.ox, instr.stride))
    window = _Window(instr, arch, (instr.oy, instr.ox, instr.kt), chunk=arch.rows)
    entries = instr.acc, instr.oy * counted
    return [
        window.runs(np.clip(-window.x, 0, width), np.clip(instr.row_bytes - window.x, 0, width)),
        _block("weight", instr.tile * arch.tile_bytes, tiles * arch.tile_bytes),
        *([_block("acc", *entries)] if instr.accumulate else []),
        _block("acc", *entries, writes=True),
    ]


class _Window:
    """The vectors of MATMUL and POOL.

    Parameters
    ----------
    counts : of output rows, of vectors in each, of chunks in a run
    chunk : int   step from chunk to chunk, in bytes
    """

    def __init__(self, instr: Instr, arch: ArchConfig, counts: tuple[int, int, int], chunk: int) -> None:
        oy, ox, kt = (np.arange(count) for count in counts)
        ky, kx = np.arange(instr.ky)[:, None], np.arange(instr.kx)[:, None, None]
        across = kx * instr.kx_x + kt[:, None] * chunk + ox * instr.ox_x
        y, self.x = instr.y0 + ky * instr.ky_y + oy * instr.oy_y, instr.x0 + across
        if arch.compact:
            y, self.x = (_wrapped(value, arch, name) for value, name in ((y, "y0"), (self.x, "x0")))
        down = instr.base + ky * instr.ky_addr + oy * instr.oy_addr
        self._rows, self._across = down[(y >= 0) & (y < instr.height)], across
        self._modulo = arch.act_bytes

    def runs(self, first: np.ndarray, end: np.ndarray) -> Access:
        """Bytes `first` to `end` of the vectors at each x, in the rows that exist."""
        kept = first < end
        starts = (self._rows[:, None] + (self._across + first)[kept]) % self._modulo
        return _runs("act", starts, (end - first)[kept], self._modulo)


def _wrapped(value: np.ndarray, arch: ArchConfig, name: str) -> np.ndarray:
    """A coordinate of a compact core, which has no more bits than the operand that it starts from."""
    bits = next(field.bits for field in isa_for(arch).by_mnemonic["MATMUL"].fields if field.name == name)
    half = 1 << bits - 1
    wrapped: np.ndarray = (value + half) % (2 * half) - half
    return wrapped


def _transfer(instr: Instr, arch: ArchConfig) -> list[Access]:
    load = instr.mnemonic == "LOAD"
    space = Space(instr.space).name.lower() if load else "act"
    bits = {field.name: field.bits for field in isa_for(arch).by_mnemonic[instr.mnemonic].fields}
    plane, row = np.arange(instr.planes)[:, None], np.arange(instr.rows)
    local = (instr.base + plane * instr.plane + row * instr.row) % (1 << bits["base"])
    found = [_runs(space, local, instr.bytes, writes=load)]
    if instr.region == Region.DATA:
        external = (instr.offset + plane * instr.ext_plane + row * instr.ext_row) % (1 << bits["offset"])
        found.append(_runs("data", external, instr.bytes, writes=not load))
    return found


_RULES: dict[str, Callable[[Instr, ArchConfig], list[Access]]] = {
    "NOP": lambda instr, arch: [],
    "HALT": lambda instr, arch: [],
    "LOAD": _transfer,
    "STORE": _transfer,
    "MATMUL": _matmul,
    "OUTPUT": _output,
    "ADD": _binary,
    "MUL": _binary,
    "POOL": _pool,
    "CELL": _cell,
}
