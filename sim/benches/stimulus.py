"""Random instructions for one engine at a time: any operands whose effect is defined."""

from __future__ import annotations

import random

import numpy as np

from systolith.spec.arch import ArchConfig
from systolith.spec.cells import GATE
from systolith.spec.isa import Cell, Destination, Instr, Mode, OperandA, Region, Space, isa_for

__all__ = [
    "acc_entries",
    "aligned_load",
    "depends_on_time",
    "edge_bytes",
    "matmul",
    "random_binary",
    "random_cell",
    "random_gates",
    "random_load",
    "random_matmul",
    "random_output",
    "random_pool",
    "random_store",
]


def matmul(arch: ArchConfig, **operands: int) -> Instr:
    """A MATMUL whose window is the whole activation SRAM, unless `operands` say otherwise."""
    return isa_for(arch).make("MATMUL", **{"height": 1, "row_bytes": arch.act_bytes, **operands})


def random_load(arch: ArchConfig, rng: random.Random) -> Instr:
    """Bytes from anywhere in the first 3,000 of a region to the first 2,500 or so of the activation SRAM, in
    up to 3 dimensions."""
    length, rows, planes = rng.randint(1, 90), rng.randint(1, 5), rng.randint(1, 3)
    row = length + rng.randint(0, 9)
    return isa_for(arch).make(
        "LOAD",
        space=Space.ACT,
        region=rng.choice(list(Region)),
        offset=rng.randint(0, 1500),
        planes=planes,
        rows=rows,
        bytes=length,
        ext_row=rng.randint(0, 150),
        ext_plane=rng.randint(0, 300),
        base=rng.randint(0, 1000),
        row=row,
        plane=row * rows + rng.randint(0, 20),
    )


def aligned_load(arch: ArchConfig, rng: random.Random) -> Instr:
    """Whole beats to the weight, parameter or table SRAM, in up to 3 dimensions."""
    beat = arch.bus_bytes
    space = rng.choice((Space.WEIGHT, Space.PARAM, Space.TABLE))
    size = {Space.WEIGHT: arch.weight_bytes, Space.PARAM: arch.param_bytes, Space.TABLE: arch.table_bytes}[
        space
    ] // beat
    planes, rows = rng.randint(1, 2), rng.randint(1, 3)
    length = rng.randint(1, max(1, min(40, size // (planes * rows))))
    row = length
    last = (planes - 1) * rows * row + (rows - 1) * row + length
    return isa_for(arch).make(
        "LOAD",
        space=space,
        region=rng.choice(list(Region)),
        offset=beat * rng.randint(0, 60),
        planes=planes,
        rows=rows,
        bytes=beat * length,
        ext_row=beat * rng.randint(0, 9),
        ext_plane=beat * rng.randint(0, 20),
        base=beat * rng.randint(0, size - last),
        row=beat * row,
        plane=beat * row * rows,
    )


def random_store(arch: ArchConfig, rng: random.Random) -> Instr:
    """Bytes from anywhere in the first 2,300 of the activation SRAM to the first 6,000 of DATA; no row meets
    another of its own."""
    return isa_for(arch).make(
        "STORE",
        region=Region.DATA,
        offset=rng.randint(0, 3000),
        planes=rng.randint(1, 3),
        rows=rng.randint(1, 5),
        bytes=rng.randint(1, 90),
        ext_row=rng.randint(90, 150),
        ext_plane=rng.randint(700, 900),
        base=rng.randint(0, 1000),
        row=rng.randint(0, 100),
        plane=rng.randint(0, 400),
    )


def random_matmul(arch: ArchConfig, rng: random.Random, acc: int, tiles: int) -> Instr:
    """Any MATMUL on accumulator entries from `acc` on and weight tiles below `tiles`.

    Of a DEPTHWISE one, the rows of its tiles beyond the taps must hold zeros: they would see the previous row
    of outputs.
    """
    depthwise = arch.depthwise and rng.random() < 0.3
    bytes_, room = arch.act_bytes, arch.acc_depth - acc
    taps = rng.randint(1, arch.rows) if depthwise else 1
    oy = rng.randint(1, min(3, room))
    ox = rng.randint(1, max(1, min(6, room // oy))) + taps - 1
    ky, kx, kt = rng.randint(1, 2), rng.randint(1, 3), 1 if depthwise else rng.randint(1, 3)
    return matmul(
        arch,
        mode=Mode.DEPTHWISE if depthwise else Mode.DENSE,
        base=rng.randrange(bytes_),
        y0=rng.randint(-3, 3),
        x0=rng.choice([0, rng.randint(-2 * bytes_, 2 * bytes_ - 1), rng.randint(-20, 20)]),
        height=rng.randint(1, 6),
        row_bytes=rng.choice([rng.randint(1, 40), 2 * bytes_ - 1]),
        pad=rng.randint(-128, 127),
        ky=ky,
        ky_addr=rng.randrange(bytes_),
        ky_y=rng.choice([0, 1, 2, 255]),
        kx=kx,
        kx_x=rng.choice([1, 4, bytes_ - 1]),
        kt=kt,
        oy=oy,
        oy_addr=rng.randrange(bytes_),
        oy_y=rng.choice([0, 1, 2]),
        ox=ox,
        ox_x=rng.choice([1, 3, 8, bytes_ - 1]),
        taps=taps,
        stride=rng.randint(1, 3) if depthwise else 1,
        tile=rng.randrange(tiles - ky * kx * kt),
        acc=acc,
        accumulate=rng.randint(0, 1),
        final=rng.randint(0, 1),
        high=rng.randint(0, 1),
    )


def acc_entries(instr: Instr) -> int:
    """Accumulator entries that a MATMUL writes."""
    return instr.oy * len(range(instr.taps - 1, instr.ox, instr.stride))


def random_output(arch: ArchConfig, rng: random.Random, pixels: int) -> Instr:
    """An OUTPUT of at most `pixels` pixels; sometimes with bounds the wrong way round."""
    ny = rng.randint(1, 3)
    nx = rng.randint(1, max(1, pixels // ny))
    ny = min(ny, pixels // nx)
    bounds = sorted((rng.randint(-128, 127), rng.randint(-128, 127)), reverse=rng.random() < 0.1)
    low, high = rng.choice(((-128, 127), bounds))
    return isa_for(arch).make(
        "OUTPUT",
        dest=rng.choice(list(Destination)),
        acc=rng.randrange(arch.acc_depth - ny * nx + 1),
        ny=ny,
        nx=nx,
        channels=rng.randint(1, arch.cols),
        dst=rng.randrange(arch.act_bytes),
        dst_row=rng.randrange(arch.act_bytes),
        dst_px=rng.randrange(arch.act_bytes),
        param=rng.randrange(arch.param_rows),
        zero=rng.randint(-128, 127),
        low=low,
        high=high,
        table=rng.randrange(2),
        slot=rng.randrange(arch.table_slots),
    )


def random_binary(arch: ArchConfig, rng: random.Random) -> Instr:
    """ADD or MUL, with multipliers and shifts that saturate, vanish or tie."""

    def address() -> int:
        return rng.randrange(arch.act_bytes)

    small = rng.random() < 0.6

    def mult() -> int:
        return rng.choice((-1, 1)) << rng.randrange(6) if small else rng.randint(-(1 << 16), (1 << 16) - 1)

    bounds = sorted((rng.randint(-128, 127), rng.randint(-128, 127)), reverse=rng.random() < 0.1)
    low, high = rng.choice(((-128, 127), (-128, 127), bounds))
    return isa_for(arch).make(
        rng.choice(("ADD", "MUL")),
        ny=rng.randint(1, 3),
        nx=rng.randint(1, 3),
        bytes=rng.randint(1, 3 * arch.lanes),
        a_source=rng.randrange(2),
        a=address(),
        a_row=address(),
        a_px=address(),
        b=address(),
        b_row=address(),
        b_px=address(),
        dst=address(),
        dst_row=address(),
        dst_px=address(),
        a_zero=rng.randint(-128, 127),
        b_zero=rng.randint(-128, 127),
        a_mult=mult(),
        b_mult=mult(),
        shift=rng.randrange(1, 10) if small else rng.choice((rng.randrange(64), 17, 20)),
        zero=rng.choice((0, rng.randint(-128, 127))),
        low=low,
        high=high,
        table=rng.randrange(2),
        slot=rng.randrange(arch.table_slots),
    )


def random_pool(arch: ArchConfig, rng: random.Random) -> Instr:
    """A POOL over a small tensor with padding on every side, anywhere in the SRAM."""
    pixel = rng.randint(1, 2 * arch.lanes)
    height, width = rng.randint(1, 5), rng.randint(1, 5)
    pitch = width * pixel + rng.randrange(3)
    top, left = rng.randrange(3), rng.randrange(3)
    step = rng.randint(1, 2)
    return isa_for(arch).make(
        "POOL",
        ny=rng.randint(1, 3),
        nx=rng.randint(1, 3),
        bytes=pixel,
        base=(rng.randrange(arch.act_bytes) - top * pitch - left * pixel) % arch.act_bytes,
        y0=-top,
        x0=-left * pixel,
        height=height,
        row_bytes=width * pixel,
        ky=rng.randint(1, 3),
        ky_addr=pitch,
        ky_y=1,
        kx=rng.randint(1, 3),
        kx_x=pixel,
        oy_addr=step * pitch,
        oy_y=step,
        ox_x=step * pixel,
        dst=rng.randrange(arch.act_bytes),
        dst_row=rng.randrange(arch.act_bytes),
        dst_px=rng.randrange(arch.act_bytes),
        table=rng.randrange(2),
        slot=rng.randrange(arch.table_slots),
    )


def random_cell(arch: ArchConfig, rng: random.Random, kind: Cell | None = None) -> Instr:
    """A CELL anywhere in the SRAM; its state's low bytes, high bytes and the bytes of the hidden state do not
    meet."""
    starts = rng.sample(range(0, arch.act_bytes, arch.cols), 4)
    skew = rng.randrange(arch.cols)
    state, state_high, dst, dst_low = ((start + skew) % arch.act_bytes for start in starts)
    return isa_for(arch).make(
        "CELL",
        kind=rng.choice(list(Cell)) if kind is None else kind,
        units=rng.randint(1, arch.cols),
        state=state,
        state_high=state_high,
        dst=dst,
        wide=rng.randrange(2),
        dst_low=dst_low,
        shift=rng.randint(0, 7),
        alpha=rng.choice((0, 1, 1 << 15, rng.randint(0, 1 << 15))),
    )


def _extremes(rng: random.Random, count: int, low: int, high: int) -> np.ndarray:
    """Both ends, the neighbourhood of zero, and anything between."""
    return np.array(
        [
            rng.choice((low, high, rng.randint(-300, 300), rng.randint(low, high), rng.randint(low, high)))
            for _ in range(count)
        ],
        np.int16,
    )


def random_gates(arch: ArchConfig, instr: Instr, rng: random.Random) -> list[np.ndarray]:
    """The chunks that OUTPUT would send for one CELL."""
    sizes = [min(arch.lanes, instr.units - first) for first in range(0, instr.units, arch.lanes)] * Cell(
        instr.kind
    ).gates
    return [_extremes(rng, size, GATE.min, GATE.max) for size in sizes]


def edge_bytes(rng: random.Random, size: int) -> np.ndarray:
    """Contents of an activation SRAM, as int8, in which states of 16 bits at both ends are frequent."""
    return np.array(rng.choices((-128, 127, 0, -1, *range(-128, 128, 37)), k=size), np.int8)


def depends_on_time(arch: ArchConfig, instr: Instr) -> bool:
    """Whether a vector instruction writes bytes that it may also read: its result depends on how far reads
    run ahead of writes.

    `random_cell` draws none that does: a CELL reads the state of a chunk before it writes it.
    """
    if instr.mnemonic == "CELL":
        return False
    y, x, lane = np.arange(instr.ny)[:, None, None], np.arange(instr.nx)[:, None], np.arange(instr.bytes)

    def touched(base: int, row: int, px: int) -> set[int]:
        return set(((base + y * row + x * px + lane) % arch.act_bytes).ravel().tolist())

    if instr.mnemonic == "POOL":
        reads = set().union(
            *(
                touched(instr.base + ky * instr.ky_addr + kx * instr.kx_x, instr.oy_addr, instr.ox_x)
                for ky in range(instr.ky)
                for kx in range(instr.kx)
            )
        )
    else:
        reads = touched(instr.b, instr.b_row, instr.b_px)
        if instr.a_source == OperandA.ACT:
            reads |= touched(instr.a, instr.a_row, instr.a_px)
    return bool(reads & touched(instr.dst, instr.dst_row, instr.dst_px))
