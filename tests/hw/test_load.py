"""LOAD against a plain loop over bytes."""

import dataclasses
import random

import pytest
from amaranth.sim import Simulator

from systolith.sim.benches.stimulus import random_load
from systolith.sim.benches.tops import LoadTop
from systolith.spec.arch import PRESETS
from systolith.spec.isa import Region, Space, isa_for
from systolith.spec.regs import ErrorCode
from tests.hw.axi_memory import AxiMemory

TINY = PRESETS["tiny"]
NARROW = dataclasses.replace(TINY, name="narrow", bus_bits=32)
PROGRAM, DATA, SIZE = 0x1000, 0x4000, 0x4000
ARCHS = pytest.mark.parametrize("arch", [TINY, NARROW], ids=lambda arch: arch.name)


def encoded(arch, instr):
    """Operands as the hardware takes them."""
    return {f.name: instr.operands[f.name] - f.bias for f in isa_for(arch).by_mnemonic[instr.mnemonic].fields}


def run(arch, instrs, *, stall=0.0, latency=1, seed=0, bad=None, limit=20000, stop_at=None):
    """Execute; returns SRAM contents by space, the completed count, the error and the cycles."""
    dut = LoadTop(arch)
    rng = random.Random(seed)
    contents = bytearray(rng.randbytes(SIZE + DATA - PROGRAM))
    memory = AxiMemory(dut.axi, contents, base=PROGRAM, latency=latency, stall=stall, seed=seed, bad=bad)
    srams = {
        Space.ACT: bytearray(arch.act_bytes),
        Space.WEIGHT: bytearray(arch.weight_bytes),
        Space.PARAM: bytearray(arch.param_bytes),
        Space.TABLE: bytearray(arch.table_bytes),
    }
    ports = {Space.ACT: dut.act, Space.WEIGHT: dut.weights, Space.PARAM: dut.params, Space.TABLE: dut.tables}
    result = {"done": 0, "error": None, "cycles": 0, "srams": srams, "contents": contents, "memory": memory}

    async def srams_process(ctx):
        while True:
            grants = {space: rng.random() >= stall for space in ports}
            for space, port in ports.items():
                ctx.set(port.ready, grants[space])
            watched = []
            for space, port in ports.items():
                watched += [
                    port.valid,
                    *(
                        (port.addr, port.mask, port.data.as_value())
                        if space is Space.ACT
                        else (port.beat, port.data)
                    ),
                ]
            _, _, *v = await ctx.tick().sample(*watched)
            if v[0] and grants[Space.ACT]:
                for lane in range(arch.act_width):
                    if v[2] >> lane & 1:
                        srams[Space.ACT][(v[1] + lane) % arch.act_bytes] = v[3] >> 8 * lane & 255
            for i, space in enumerate((Space.WEIGHT, Space.PARAM, Space.TABLE)):
                valid, beat, data = v[4 + 3 * i : 7 + 3 * i]
                if valid and grants[space]:
                    at = beat * arch.bus_bytes
                    srams[space][at : at + arch.bus_bytes] = data.to_bytes(arch.bus_bytes, "little")

    async def feed(ctx):
        ctx.set(dut.regions.program.base, PROGRAM)
        ctx.set(dut.regions.program.size, DATA - PROGRAM)
        ctx.set(dut.regions.data.base, DATA)
        ctx.set(dut.regions.data.size, SIZE)
        for instr in instrs:
            ctx.set(dut.engine.cmd.payload.body[instr.mnemonic], encoded(arch, instr))
            ctx.set(dut.engine.cmd.valid, 1)
            await ctx.tick().until(dut.engine.cmd.ready)
        ctx.set(dut.engine.cmd.valid, 0)

    async def watch(ctx):
        for cycle in range(limit):
            if stop_at == cycle:
                ctx.set(dut.engine.stop, 1)
            _, _, done, error, code, idle = await ctx.tick().sample(
                dut.engine.done, dut.engine.error, dut.engine.error_code, dut.engine.idle
            )
            result["done"] += done
            result["cycles"] = cycle
            if error:
                assert result["error"] is None, "two errors"
                result["error"] = ErrorCode(code)
            if (
                result["done"] == len(instrs)
                or result["error"] is not None
                or (stop_at is not None and cycle > stop_at)
            ) and idle:
                return
        raise AssertionError(f"LOAD hung after {limit} cycles, seed {seed}: {instrs}")

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_process(memory.run)
    simulator.add_process(srams_process)
    simulator.add_testbench(feed, background=True)
    simulator.add_testbench(watch)
    simulator.run()
    return result


def expected(arch, instrs, contents):
    srams = {
        Space.ACT: bytearray(arch.act_bytes),
        Space.WEIGHT: bytearray(arch.weight_bytes),
        Space.PARAM: bytearray(arch.param_bytes),
        Space.TABLE: bytearray(arch.table_bytes),
    }
    for i in instrs:
        start = 0 if i.region == Region.PROGRAM else DATA - PROGRAM
        for p in range(i.planes):
            for r in range(i.rows):
                source = start + (i.offset + p * i.ext_plane + r * i.ext_row) % 2**32
                target = i.base + p * i.plane + r * i.row
                srams[i.space][target : target + i.bytes] = contents[source : source + i.bytes]
    return srams


def same(arch, result, instrs, seed):
    assert result["error"] is None and result["done"] == len(instrs), f"seed {seed}"
    want = expected(arch, instrs, result["contents"])
    for space, got in result["srams"].items():
        if got != want[space]:
            at = next(i for i, (a, b) in enumerate(zip(got, want[space], strict=True)) if a != b)
            raise AssertionError(f"{space.name}[{at}] is {got[at]}, not {want[space][at]}, seed {seed}")


@ARCHS
@pytest.mark.parametrize("seed", range(4))
def test_transfers_of_every_shape_and_alignment_arrive(arch, seed):
    rng = random.Random(100 + seed)
    instrs = [random_load(arch, rng) for _ in range(6)]
    same(
        arch,
        run(arch, instrs, stall=(0.0, 0.4)[seed % 2], latency=(1, 9)[seed // 2], seed=seed),
        instrs,
        seed,
    )


@ARCHS
def test_long_rows_split_at_pages_and_reach_every_memory(arch):
    isa, b = isa_for(arch), arch.bus_bytes
    instrs = [
        isa.make("LOAD", space=Space.ACT, region=Region.DATA, offset=3 * b + 1, bytes=6001, base=77),
        isa.make("LOAD", space=Space.WEIGHT, region=Region.PROGRAM, offset=b, bytes=40 * b, base=2 * b),
        isa.make(
            "LOAD",
            space=Space.PARAM,
            region=Region.DATA,
            offset=0,
            rows=2,
            ext_row=5 * b,
            bytes=b,
            row=2 * b,
            base=b,
        ),
        isa.make("LOAD", space=Space.TABLE, region=Region.DATA, offset=64, bytes=256, base=256),
    ]
    same(arch, run(arch, instrs, stall=0.2, seed=5), instrs, 5)


def test_a_row_that_ends_at_the_end_of_sram_and_region_is_moved():
    instrs = [
        isa_for(TINY).make(
            "LOAD", space=Space.ACT, region=Region.DATA, offset=SIZE - 33, bytes=33, base=TINY.act_bytes - 33
        )
    ]
    same(TINY, run(TINY, instrs), instrs, 0)


@pytest.mark.parametrize(
    ("operands", "code"),
    [
        ({"space": Space.ACT, "offset": SIZE - 32, "bytes": 33}, ErrorCode.REGION),
        ({"space": Space.ACT, "offset": 2**32 - 1, "bytes": 1}, ErrorCode.REGION),
        ({"space": Space.ACT, "bytes": 33, "base": TINY.act_bytes - 32}, ErrorCode.OPERAND_RANGE),
        ({"space": Space.WEIGHT, "bytes": 32, "base": TINY.weight_bytes - 16}, ErrorCode.OPERAND_RANGE),
        ({"space": Space.WEIGHT, "bytes": 32, "base": 8}, ErrorCode.OPERAND_RANGE),
        ({"space": Space.PARAM, "bytes": 24}, ErrorCode.OPERAND_RANGE),
        ({"space": Space.TABLE, "bytes": 32, "offset": 4}, ErrorCode.OPERAND_RANGE),
    ],
)
def test_a_row_at_fault_is_an_error_after_all_older_work(operands, code):
    isa = isa_for(TINY)
    good = isa.make("LOAD", space=Space.ACT, region=Region.DATA, offset=3, bytes=100)
    wrong = isa.make("LOAD", region=Region.DATA, **operands)
    result = run(TINY, [good, wrong], latency=20)
    assert (result["error"], result["done"]) == (code, 1)
    assert result["srams"] == expected(TINY, [good], result["contents"])


def test_a_later_row_past_the_end_stops_there():
    instr = isa_for(TINY).make(
        "LOAD", space=Space.ACT, region=Region.DATA, rows=3, ext_row=SIZE // 2, bytes=16, row=16
    )
    result = run(TINY, [instr])
    assert (result["error"], result["done"]) == (ErrorCode.REGION, 0)
    first = isa_for(TINY).make(
        "LOAD", space=Space.ACT, region=Region.DATA, rows=2, ext_row=SIZE // 2, bytes=16, row=16
    )
    assert result["srams"] == expected(TINY, [first], result["contents"])


def test_a_bus_error_is_reported_and_the_bus_drains():
    instrs = [
        isa_for(TINY).make("LOAD", space=Space.ACT, region=Region.DATA, offset=o, bytes=512, base=o)
        for o in (0, 512, 1024)
    ]
    result = run(TINY, instrs, bad=range(DATA + 600, DATA + 640), latency=12, stall=0.2)
    assert (result["error"], result["done"]) == (ErrorCode.BUS_READ, 1)


def test_stop_drains_what_is_under_way():
    instrs = [isa_for(TINY).make("LOAD", space=Space.ACT, region=Region.DATA, bytes=4096)]
    result = run(TINY, instrs, latency=20, stop_at=12)
    assert result["done"] == 0 and 0 < result["memory"].bursts < 16


@pytest.mark.parametrize(
    ("operands", "most"),
    [
        ({"bytes": 4096}, 256 + 45),
        ({"rows": 200, "bytes": 16, "ext_row": 16, "row": 16}, 200 + 45),
    ],
    ids=["long row", "small rows"],
)
def test_latency_of_memory_is_hidden(operands, most):
    instrs = [isa_for(TINY).make("LOAD", space=Space.ACT, region=Region.DATA, **operands)]
    result = run(TINY, instrs, latency=32)
    same(TINY, result, instrs, 0)
    assert result["cycles"] <= most
