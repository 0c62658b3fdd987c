# amaranth: UnusedElaboratable=no
"""The walk of LOAD and STORE over planes and rows, its checks and its bursts, against plain loops."""

import dataclasses
import random

import pytest

from systolith.hw.engine.transfer import RowWalker
from systolith.sim.benches.checks import command_bits
from systolith.spec.isa import Engine, Region, Space, isa_for
from systolith.spec.regs import ErrorCode
from tests.hw.engine_bench import TINY
from tests.hw.kit import chance, send, simulate

BUSES = [dataclasses.replace(TINY, name=f"bus{bits}", bus_bits=bits) for bits in (32, 64, 128)]
ARCHS = pytest.mark.parametrize("arch", BUSES, ids=lambda arch: arch.name)
#: Base and size of a region; neither is a multiple of a page.
REGIONS = {Region.PROGRAM: (0x1240, 0x1230), Region.DATA: (0x7_0C80, 0x2344)}
FIELDS = ("addr", "len", "begins", "ends")
ROW = ("sram", "first", "last", "beats", "final", "error")


def capacity(arch, space):
    """Bytes of an SRAM."""
    return {
        Space.ACT: arch.act_bytes,
        Space.WEIGHT: arch.weight_bytes,
        Space.PARAM: arch.param_bytes,
        Space.TABLE: arch.table_bytes,
    }[space]


def fault(arch, instr, offset, sram):
    """Why a row may not be moved."""
    _, size = REGIONS[instr.region]
    store = instr.mnemonic == "STORE"
    space = Space.ACT if store else Space(instr.space)
    if offset + instr.bytes > size or (store and instr.region == Region.PROGRAM):
        return ErrorCode.REGION
    aligned = not (offset | sram | instr.bytes) % arch.bus_bytes
    if sram + instr.bytes > capacity(arch, space) or (space is not Space.ACT and not aligned):
        return ErrorCode.OPERAND_RANGE
    return ErrorCode.NONE


def pieces(arch, instr):
    """The bursts of an instruction as dictionaries; the last has an error where a row may not be moved."""
    base, _ = REGIONS[instr.region]
    # Addresses of SRAM bytes wrap where their operand does.
    sram_limit = 1 << next(f.bits for f in isa_for(arch).by_mnemonic["LOAD"].fields if f.name == "base")
    for plane in range(instr.planes):
        for row in range(instr.rows):
            offset = (instr.offset + plane * instr.ext_plane + row * instr.ext_row) % 2**32
            sram = (instr.base + plane * instr.plane + row * instr.row) % sram_limit
            error = fault(arch, instr, offset, sram)
            if error is not ErrorCode.NONE:
                yield {"error": error}
                return
            start = base + offset
            lane, end = start % arch.bus_bytes, start + instr.bytes
            addr, begins = start - lane, True
            while addr < end:
                # To the end of the row, of the page, or 16 beats on, whichever comes first.
                stop = min(-(-end // arch.bus_bytes) * arch.bus_bytes, addr // 4096 * 4096 + 4096)
                stop = min(stop, addr + 16 * arch.bus_bytes)
                yield {
                    "addr": addr,
                    "len": (stop - addr) // arch.bus_bytes - 1,
                    "begins": begins,
                    "ends": stop >= end,
                    "sram": (sram - lane + addr - (start - lane)) % sram_limit,
                    "first": lane,
                    "last": (end - 1) % arch.bus_bytes,
                    "beats": (lane + instr.bytes - 1) // arch.bus_bytes,
                    "final": plane == instr.planes - 1 and row == instr.rows - 1,
                    "error": ErrorCode.NONE,
                    "space": Space(instr.space) if instr.mnemonic == "LOAD" else None,
                }
                addr, begins = stop, False


def run(arch, engine, instrs, *, stall=0.0, seed=0, idle=40):
    """All pieces of a walk, with the cycles in which they were taken, until nothing comes any more."""
    dut = RowWalker(arch, engine)
    rng = random.Random(f"walk {seed}")
    found, cycles = [], []
    signals = [getattr(dut.pieces.payload, name) for name in FIELDS]
    signals += [getattr(dut.pieces.payload.row, name) for name in (*ROW, "space")]

    async def feed(ctx):
        for name, region in (("program", Region.PROGRAM), ("data", Region.DATA)):
            window = getattr(dut.regions, name)
            base, size = REGIONS[region]
            ctx.set(window.base, base)
            ctx.set(window.size, size)
        await send(ctx, dut.cmd, [command_bits(arch, engine, i, rng) for i in instrs], rng, stall)

    async def watch(ctx):
        quiet = cycle = 0
        while quiet < idle:
            ready = not chance(rng, stall)
            ctx.set(dut.pieces.ready, ready)
            _, _, valid, failed, *values = await ctx.tick().sample(dut.pieces.valid, dut.failed, *signals)
            if valid and ready:
                piece = dict(zip((*FIELDS, *ROW, "space"), values, strict=True))
                piece["error"] = ErrorCode(piece["error"])
                piece["space"] = Space(piece["space"]) if engine is Engine.LOAD else None
                if piece["error"] is not ErrorCode.NONE:
                    assert failed and not piece["ends"]
                    piece = {"error": piece["error"]}
                found.append(piece)
                cycles.append(cycle)
            quiet = 0 if valid else quiet + 1
            cycle += 1

    simulate(dut, watch, beside=[feed], seed=seed)
    return found, cycles


def random_instr(arch, engine, rng):
    """Any rows, often at the end of a region or an SRAM; sometimes one of them lies a little outside."""
    region = Region.DATA if engine is Engine.STORE else rng.choice(list(Region))
    _, size = REGIONS[region]
    space = Space.ACT if engine is Engine.STORE else rng.choice(list(Space))
    unit = 1 if space is Space.ACT else arch.bus_bytes
    rows, planes = rng.randint(1, 3), rng.randint(1, 3)
    length = unit * rng.choice((1, rng.randint(1, 1 + 90 // unit), rng.randint(1, 1 + 1200 // unit)))
    step = rng.choice((0, length, length + unit * rng.randrange(9)))
    plane = step * rows + unit * rng.randrange(5)
    span = (planes - 1) * plane + (rows - 1) * step + length
    ends = rng.choice((0, 0, 0, 1)) * rng.choice((0, 0, unit))

    def place(limit):
        """A first byte, in the middle or so that the last row ends with the memory or behind it."""
        last = max(0, limit - span) // unit * unit
        return rng.choice((rng.randrange(0, last + unit, unit), last + ends))

    return isa_for(arch).make(
        engine.name,
        **({} if engine is Engine.STORE else {"space": space}),
        region=region,
        offset=place(size),
        base=min(place(capacity(arch, space)), capacity(arch, space) - unit),
        rows=rows,
        planes=planes,
        bytes=length,
        ext_row=step,
        row=step,
        ext_plane=plane,
        plane=plane,
    )


@pytest.mark.parametrize("stall", [0.0, 0.5])
@pytest.mark.parametrize("engine", [Engine.LOAD, Engine.STORE])
@ARCHS
def test_pieces_are_those_of_plain_loops(arch, engine, stall):
    seed = f"{arch.name} {engine.name} {stall}"
    rng = random.Random(seed)
    good = [
        i for i in (random_instr(arch, engine, rng) for _ in range(60)) if "addr" in [*pieces(arch, i)][-1]
    ]
    expected = [piece for instr in good for piece in pieces(arch, instr)]
    found, _ = run(arch, engine, good, stall=stall, seed=seed)
    for index, (piece, want) in enumerate(zip(found, expected, strict=False)):
        assert piece == want, f"seed {seed}, piece {index}"
    assert len(found) == len(expected) > 60
    assert any(not piece["ends"] for piece in expected), "no row was split"
    spaces = {piece["space"] for piece in expected}
    assert spaces == (set(Space) if engine is Engine.LOAD else {None})


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("engine", [Engine.LOAD, Engine.STORE])
@ARCHS
def test_a_row_that_fails_is_the_last_piece(arch, engine, seed):
    rng = random.Random(f"{arch.name} {engine.name} {seed}")
    instrs = []
    while not instrs or "addr" in [*pieces(arch, instrs[-1])][-1]:
        instrs.append(random_instr(arch, engine, rng))
    # What follows is never looked at.
    instrs = [*instrs[-3:], random_instr(arch, engine, rng)]
    expected = []
    for instr in instrs:
        expected += pieces(arch, instr)
        if expected[-1]["error"] is not ErrorCode.NONE:
            break
    found, _ = run(arch, engine, instrs, stall=0.3 * (seed % 2), seed=seed)
    assert found == expected, f"seed {seed}"


@pytest.mark.parametrize("beyond", [0, 1])
@pytest.mark.parametrize("space", Space)
@ARCHS
def test_the_last_row_of_each_sram_and_one_that_is_longer(arch, space, beyond):
    unit = 1 if space is Space.ACT else arch.bus_bytes
    instr = isa_for(arch).make(
        "LOAD", space=space, region=Region.DATA, bytes=unit * (1 + beyond), base=capacity(arch, space) - unit
    )
    (piece,), _ = run(arch, Engine.LOAD, [instr])
    assert piece["error"] is (ErrorCode.OPERAND_RANGE if beyond else ErrorCode.NONE)


@pytest.mark.parametrize("beyond", [0, 1])
@pytest.mark.parametrize("region", Region)
@pytest.mark.parametrize("engine", [Engine.LOAD, Engine.STORE])
def test_the_last_byte_of_each_region_and_the_one_behind_it(engine, region, beyond):
    _, size = REGIONS[region]
    instr = isa_for(TINY).make(engine.name, region=region, offset=size - 1 + beyond, bytes=1)
    (piece,), _ = run(TINY, engine, [instr])
    refused = beyond or (engine is Engine.STORE and region == Region.PROGRAM)
    assert piece["error"] is (ErrorCode.REGION if refused else ErrorCode.NONE)


def test_an_offset_that_wraps_is_outside_unless_it_comes_back():
    make = isa_for(TINY).make
    # The second row's offset is 2**32 - 16, which is no place, or 16 again, which is one.
    down = make("LOAD", region=Region.DATA, offset=16, rows=2, bytes=1, ext_row=2**32 - 32, row=1)
    (first, second), _ = run(TINY, Engine.LOAD, [down])
    assert (first["error"], second["error"]) == (ErrorCode.NONE, ErrorCode.REGION)
    same = make("LOAD", region=Region.DATA, offset=32, rows=2, bytes=1, ext_row=2**32 - 16, row=1)
    found, _ = run(TINY, Engine.LOAD, [same])
    assert [piece["addr"] - REGIONS[Region.DATA][0] for piece in found] == [32, 16]


@pytest.mark.parametrize("engine", [Engine.LOAD, Engine.STORE])
def test_a_row_whose_end_wraps_is_outside(engine):
    instr = isa_for(TINY).make(engine.name, region=Region.DATA, offset=2**32 - 16, bytes=48)
    assert run(TINY, engine, [instr])[0] == [{"error": ErrorCode.REGION}]


@ARCHS
def test_one_row_per_cycle_and_a_cycle_more_for_a_row_that_is_split(arch):
    b = arch.bus_bytes
    rows = isa_for(arch).make("LOAD", rows=20, bytes=b, ext_row=b, row=b)
    _, cycles = run(arch, Engine.LOAD, [rows])
    assert cycles == list(range(cycles[0], cycles[0] + 20))
    long = isa_for(arch).make("LOAD", bytes=48 * b)
    _, cycles = run(arch, Engine.LOAD, [long])
    assert [after - before for before, after in zip(cycles, cycles[1:], strict=False)] == [2, 2]


def test_only_load_and_store_have_rows():
    with pytest.raises(ValueError, match="^Engine must be LOAD or STORE, not "):
        RowWalker(TINY, Engine.MATRIX)
