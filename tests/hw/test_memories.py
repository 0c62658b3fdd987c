"""Weight and parameter memories and tables, against the bytes that were written."""

import random

import pytest

from systolith.hw.interfaces import ParamReadSignature, WeightReadSignature
from systolith.hw.leaf.beat_memory import ParamMemory, WeightMemory
from systolith.hw.leaf.table import Table
from systolith.sim.benches.checks import signed8
from tests.hw.engine_bench import EQUAL, MIXED, TINY, WIDE, fill
from tests.hw.kit import simulate

ARCHS = pytest.mark.parametrize("arch", [TINY, MIXED, EQUAL, WIDE], ids=lambda arch: arch.name)


@ARCHS
def test_weight_memory_delivers_rows_of_tiles(arch):
    seed = 1
    rng = random.Random(seed)
    contents = rng.randbytes(arch.weight_bytes)
    dut = WeightMemory(arch)
    banks, lines = arch.weight_rows_per_cycle, arch.weight_load_cycles

    async def bench(ctx):
        cycles = await fill(ctx, dut.write, arch, contents, rng, gap=0.2)
        beats = arch.weight_bytes // arch.bus_bytes
        assert cycles == beats * max(1, arch.bus_bytes // arch.weight_line_bytes)
        for _ in range(100):
            choice = [(rng.randrange(arch.weight_tiles), rng.randrange(lines)) for _ in range(banks)]
            for bank, (tile, j) in enumerate(choice):
                ctx.set(dut.read.line[bank], tile * lines + j)
            enabled = rng.getrandbits(banks)
            ctx.set(dut.read.en, enabled)
            await ctx.tick()
            ctx.set(dut.read.en, 0)
            for _ in range(WeightReadSignature.LATENCY - 1):
                for bank in range(banks):
                    ctx.set(dut.read.line[bank], rng.randrange(arch.weight_tiles * lines))
                await ctx.tick()
            for bank, (tile, j) in enumerate(choice):
                if enabled >> bank & 1:
                    found = [ctx.get(dut.read.data[bank][c]) for c in range(arch.cols)]
                    expected = [
                        signed8(contents[tile * arch.tile_bytes + arch.weight_offset(bank * lines + j, c)])
                        for c in range(arch.cols)
                    ]
                    assert found == expected, f"bank {bank}, tile {tile}, line {j}"

    simulate(dut, bench, seed=seed)


@ARCHS
def test_parameter_memory_delivers_entries(arch):
    seed = 2
    rng = random.Random(seed)
    contents = rng.randbytes(arch.param_bytes)
    dut = ParamMemory(arch)

    async def bench(ctx):
        cycles = await fill(ctx, dut.write, arch, contents, rng, gap=0.2)
        beats = arch.param_bytes // arch.bus_bytes
        assert cycles == beats * max(1, arch.bus_bytes // arch.param_chunk_bytes)
        for entry in rng.choices(range(arch.param_rows), k=30):
            chunk = rng.randrange(arch.chunks)
            ctx.set(dut.read.addr, entry * arch.chunks + chunk)
            ctx.set(dut.read.en, 1)
            for _ in range(ParamReadSignature.LATENCY):
                await ctx.tick()
                ctx.set(dut.read.addr, rng.randrange(arch.param_rows * arch.chunks))
            for lane in range(arch.lanes):
                at = entry * arch.param_line_bytes + 8 * (chunk * arch.lanes + lane)
                param = dut.read.data[lane]
                assert ctx.get(param.bias) == int.from_bytes(contents[at : at + 4], "little", signed=True)
                assert ctx.get(param.mult) == int.from_bytes(contents[at + 4 : at + 6], "little")
                assert ctx.get(param.shift) == contents[at + 6] & 63

    simulate(dut, bench, seed=seed)


@ARCHS
def test_table_looks_every_lane_up(arch):
    seed = 3
    rng = random.Random(seed)
    contents = rng.randbytes(arch.table_bytes)
    dut = Table(arch)

    async def bench(ctx):
        await fill(ctx, dut.write, arch, contents, rng, gap=0.1)
        for _ in range(200):
            slot, operands = (
                rng.randrange(arch.table_slots),
                [rng.randrange(-128, 128) for _ in range(arch.lanes)],
            )
            ctx.set(dut.slot, slot)
            for lane, operand in enumerate(operands):
                ctx.set(dut.i[lane], operand)
            for _ in range(Table.LATENCY):
                await ctx.tick()
                for lane in range(arch.lanes):
                    ctx.set(dut.i[lane], rng.randrange(-128, 128))
            found = [ctx.get(dut.o[lane]) for lane in range(arch.lanes)]
            assert found == [signed8(contents[256 * slot + (operand & 255)]) for operand in operands]

    simulate(dut, bench, seed=seed)
