"""What an instruction reads and writes: intervals of bytes (or entries) in each memory.

Tokens are made from these. An interval holds all that the functional machine touches there, and is not much
larger (tests/reference/test_footprint.py says how much). The proof of order has its own list, `accesses`.
"""

from __future__ import annotations

from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Destination, Instr, Mode, OperandA, Region
from systolith.spec.numerics import TABLE_SIZE

__all__ = ["Footprint", "footprint"]

#: (space, first, end, writes); space is 'act', 'weight', 'param', 'table', 'acc' or 'data'.
Footprint = tuple[str, int, int, bool]


def footprint(instr: Instr, arch: ArchConfig) -> list[Footprint]:
    """Bounding intervals; an interval that wraps round the end of its memory becomes the whole memory."""
    match instr.mnemonic:
        case "NOP" | "HALT":
            return []
        case "LOAD" | "STORE":
            return _transfer(instr, arch)
        case "MATMUL":
            return _matmul(instr, arch)
        case "OUTPUT":
            pixels = instr.ny * instr.nx
            prints = [
                ("acc", instr.acc, instr.acc + pixels, False),
                (
                    "param",
                    instr.param * arch.param_line_bytes,
                    (instr.param + 1) * arch.param_line_bytes,
                    False,
                ),
                *(_table(instr) if instr.dest != Destination.CELL else []),
            ]
            if instr.dest == Destination.ACT:
                prints.append(
                    _nest(
                        instr.dst,
                        instr.channels,
                        ((instr.ny, instr.dst_row), (instr.nx, instr.dst_px)),
                        arch,
                        True,
                    )
                )
            return prints
        case "ADD" | "MUL":

            def loops(name: str) -> tuple[tuple[int, int], ...]:
                return (instr.ny, instr.operands[f"{name}_row"]), (instr.nx, instr.operands[f"{name}_px"])

            prints = [
                _nest(instr.b, instr.bytes, loops("b"), arch, False),
                _nest(instr.dst, instr.bytes, loops("dst"), arch, True),
                *_table(instr),
            ]
            if instr.a_source == OperandA.ACT:
                prints.append(_nest(instr.a, instr.bytes, loops("a"), arch, False))
            return prints
        case "POOL":
            return [
                *_window(instr, arch, instr.bytes),
                _nest(
                    instr.dst, instr.bytes, ((instr.ny, instr.dst_row), (instr.nx, instr.dst_px)), arch, True
                ),
                *_table(instr),
            ]
        case "CELL":
            units = instr.units
            written = [instr.state, instr.state_high, instr.dst, *([instr.dst_low] if instr.wide else [])]
            return [_nest(base, units, (), arch, True) for base in written]
        case _:
            raise AssertionError(f"{instr.mnemonic} has no rule for what it reads and writes")


def _table(instr: Instr) -> list[Footprint]:
    return [("table", instr.slot * TABLE_SIZE, (instr.slot + 1) * TABLE_SIZE, False)] if instr.table else []


def _nest(
    base: int, length: int, loops: tuple[tuple[int, int], ...], arch: ArchConfig, writes: bool
) -> Footprint:
    size = arch.act_bytes
    # A step in the upper half of the address field is a step backwards.
    steps = [(count - 1) * (step - size if step > size // 2 else step) for count, step in loops]
    low = base + sum(min(0, s) for s in steps)
    high = base + sum(max(0, s) for s in steps) + length
    return ("act", low, high, writes) if 0 <= low and high <= size else ("act", 0, size, writes)


def _extent(origin: int, steps: list[int], low: int, high: int) -> tuple[int, int] | None:
    """Range of ``origin + sum of some multiples`` clipped to [low, high)."""
    first, last = max(origin, low), min(origin + sum(steps), high - 1)
    return (first, last) if first <= last else None


def _window(instr: Instr, arch: ArchConfig, length: int) -> list[Footprint]:
    pool = instr.mnemonic == "POOL"
    ny, nx = (instr.ny, instr.nx) if pool else (instr.oy, instr.ox)
    ys = _extent(instr.y0, [(instr.ky - 1) * instr.ky_y, (ny - 1) * instr.oy_y], 0, instr.height)
    spread = 0 if pool else length - 1
    chunks = 0 if pool else (instr.kt - 1) * arch.rows
    xs = _extent(
        instr.x0, [(instr.kx - 1) * instr.kx_x, (nx - 1) * instr.ox_x, chunks, spread], 0, instr.row_bytes
    )
    if ys is None or xs is None:
        return []
    size = arch.act_bytes
    # Addresses move with y by one pitch, whichever loop moves it. Without a y step the pitch does not matter.
    pitches = {instr.ky_addr // instr.ky_y} if instr.ky > 1 and instr.ky_y else set()
    if ny > 1 and instr.oy_y:
        pitches.add(instr.oy_addr // instr.oy_y)
    exact = (instr.ky == 1 or (instr.ky_y and instr.ky_addr % instr.ky_y == 0)) and (
        ny == 1 or (instr.oy_y and instr.oy_addr % instr.oy_y == 0)
    )
    simple = exact and len(pitches) <= 1
    if not simple:
        loops = ((instr.ky, instr.ky_addr), (ny, instr.oy_addr), (instr.kx, instr.kx_x), (nx, instr.ox_x))
        return [_nest(instr.base, length + chunks, loops, arch, False)]
    pitch = next(iter(pitches), 0)
    origin = instr.base - instr.y0 * pitch - instr.x0
    low = (origin + ys[0] * pitch + xs[0]) % size
    high = low + (ys[1] - ys[0]) * pitch + xs[1] - xs[0] + (length if pool else 1)
    return [("act", low, high, False) if high <= size else ("act", 0, size, False)]


def _matmul(instr: Instr, arch: ArchConfig) -> list[Footprint]:
    tiles = instr.ky * instr.kx * instr.kt
    entries = instr.oy * ((instr.ox - instr.taps) // instr.stride + 1) if instr.ox >= instr.taps else 0
    width = arch.rows if instr.mode == Mode.DENSE else arch.cols
    return [
        *_window(instr, arch, width),
        ("weight", instr.tile * arch.tile_bytes, (instr.tile + tiles) * arch.tile_bytes, False),
        *([("acc", instr.acc, instr.acc + entries, True)] if entries else []),
    ]


def _transfer(instr: Instr, arch: ArchConfig) -> list[Footprint]:
    load = instr.mnemonic == "LOAD"
    space = ("act", "weight", "param", "table")[instr.space] if load else "act"
    size = {
        "act": arch.act_bytes,
        "weight": arch.weight_bytes,
        "param": arch.param_bytes,
        "table": arch.table_bytes,
    }[space]
    local = instr.base + (instr.planes - 1) * instr.plane + (instr.rows - 1) * instr.row + instr.bytes
    prints: list[Footprint] = [(space, instr.base, local, load) if local <= size else (space, 0, size, load)]
    if instr.region == Region.DATA:
        end = (
            instr.offset
            + (instr.planes - 1) * instr.ext_plane
            + (instr.rows - 1) * instr.ext_row
            + instr.bytes
        )
        prints.append(
            ("data", instr.offset, end, not load) if end < 1 << 32 else ("data", 0, 1 << 32, not load)
        )
    return prints
