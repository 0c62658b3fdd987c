"""STORE against a plain loop over bytes."""

import dataclasses
import random

import pytest
from amaranth.sim import Simulator

from systolith.hw.interfaces import ActReadSignature
from systolith.sim.benches.stimulus import random_store
from systolith.sim.benches.tops import StoreTop
from systolith.spec.arch import PRESETS
from systolith.spec.isa import Region, isa_for
from systolith.spec.regs import ErrorCode
from tests.hw.axi_memory import AxiMemory

TINY = PRESETS["tiny"]
NARROW = dataclasses.replace(TINY, name="narrow", bus_bits=32)
DATA, SIZE = 0x4000, 0x4000
ARCHS = pytest.mark.parametrize("arch", [TINY, NARROW], ids=lambda arch: arch.name)


def run(arch, instrs, *, stall=0.0, latency=1, seed=0, bad=None, limit=20000, stop_at=None):
    """Execute; returns memory before and after, the completed count, the error and the cycles."""
    dut = StoreTop(arch)
    rng = random.Random(seed)
    contents = bytearray(rng.randbytes(SIZE))
    sram = rng.randbytes(arch.act_bytes)
    before = bytes(contents)
    memory = AxiMemory(dut.axi, contents, base=DATA, latency=latency, stall=stall, seed=seed, bad=bad)
    result = {
        "done": 0,
        "error": None,
        "cycles": 0,
        "sram": sram,
        "before": before,
        "after": contents,
        "memory": memory,
    }

    async def sram_process(ctx):
        pipe = [None] * ActReadSignature.LATENCY
        while True:
            grant = rng.random() >= stall
            ctx.set(dut.read.ready, grant)
            address = pipe.pop(0)
            word = (
                rng.randbytes(arch.act_width)
                if address is None
                else bytes(sram[(address + i) % arch.act_bytes] for i in range(arch.act_width))
            )
            ctx.set(dut.read.data.as_value(), int.from_bytes(word, "little"))
            _, _, valid, addr = await ctx.tick().sample(dut.read.valid, dut.read.addr)
            pipe.append(addr if valid and grant else None)

    async def feed(ctx):
        ctx.set(dut.regions.data.base, DATA)
        ctx.set(dut.regions.data.size, SIZE)
        ctx.set(dut.regions.program.size, SIZE)
        for instr in instrs:
            fields = isa_for(arch).by_mnemonic["STORE"].fields
            ctx.set(
                dut.engine.cmd.payload.body["STORE"],
                {f.name: instr.operands[f.name] - f.bias for f in fields},
            )
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
        raise AssertionError(f"STORE hung after {limit} cycles, seed {seed}: {instrs}")

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_process(memory.run)
    simulator.add_process(sram_process)
    simulator.add_testbench(feed, background=True)
    simulator.add_testbench(watch)
    simulator.run()
    return result


def expected(instrs, result):
    memory = bytearray(result["before"])
    for i in instrs:
        for p in range(i.planes):
            for r in range(i.rows):
                target = (i.offset + p * i.ext_plane + r * i.ext_row) % 2**32
                source = i.base + p * i.plane + r * i.row
                memory[target : target + i.bytes] = result["sram"][source : source + i.bytes]
    return memory


def same(result, instrs, seed):
    assert result["error"] is None and result["done"] == len(instrs), f"seed {seed}"
    want = expected(instrs, result)
    if want != result["after"]:
        at = next(i for i, (a, b) in enumerate(zip(result["after"], want, strict=True)) if a != b)
        raise AssertionError(f"byte {at} is {result['after'][at]}, not {want[at]}, seed {seed}")


@ARCHS
@pytest.mark.parametrize("seed", range(4))
def test_transfers_of_every_shape_and_alignment_arrive(arch, seed):
    rng = random.Random(200 + seed)
    instrs = [random_store(arch, rng) for _ in range(6)]
    same(run(arch, instrs, stall=(0.0, 0.4)[seed % 2], latency=(1, 9)[seed // 2], seed=seed), instrs, seed)


@ARCHS
def test_a_long_row_splits_at_pages_and_ends_with_the_region(arch):
    instrs = [
        isa_for(arch).make(
            "STORE", region=Region.DATA, offset=SIZE - 6001, bytes=6001, base=arch.act_bytes - 6001
        )
    ]
    same(run(arch, instrs, stall=0.2, seed=7), instrs, 7)


@pytest.mark.parametrize(
    ("operands", "code"),
    [
        ({"region": Region.PROGRAM, "bytes": 16}, ErrorCode.REGION),
        ({"region": Region.DATA, "offset": SIZE - 32, "bytes": 33}, ErrorCode.REGION),
        ({"region": Region.DATA, "bytes": 33, "base": TINY.act_bytes - 32}, ErrorCode.OPERAND_RANGE),
    ],
)
def test_a_row_at_fault_is_an_error_after_all_older_work(operands, code):
    isa = isa_for(TINY)
    good = isa.make("STORE", region=Region.DATA, offset=3, bytes=100)
    result = run(TINY, [good, isa.make("STORE", **operands)], latency=20)
    assert (result["error"], result["done"]) == (code, 1)
    assert result["after"] == expected([good], result)


def test_a_bus_error_is_reported_for_its_instruction():
    instrs = [
        isa_for(TINY).make("STORE", region=Region.DATA, offset=o, bytes=512, base=o) for o in (0, 512, 1024)
    ]
    result = run(TINY, instrs, bad=range(DATA + 600, DATA + 640), latency=12, stall=0.2)
    assert (result["error"], result["done"]) == (ErrorCode.BUS_WRITE, 1)


def test_stop_finishes_the_bursts_under_way():
    instrs = [isa_for(TINY).make("STORE", region=Region.DATA, bytes=4096)]
    result = run(TINY, instrs, latency=20, stop_at=9)
    bursts = result["memory"].bursts
    assert result["done"] == 0 and 0 < bursts < 16
    assert len(result["memory"].written) == bursts * 256


def test_done_comes_after_the_last_response():
    instrs = [isa_for(TINY).make("STORE", region=Region.DATA, bytes=16)]
    assert run(TINY, instrs, latency=50)["cycles"] > 50


def test_one_beat_per_cycle_with_a_slow_memory():
    instrs = [isa_for(TINY).make("STORE", region=Region.DATA, bytes=4096)]
    result = run(TINY, instrs, latency=32)
    same(result, instrs, 0)
    assert result["cycles"] <= 256 + 50
