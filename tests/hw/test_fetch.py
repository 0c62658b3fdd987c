"""Fetch against the bytes of the program region, with random stalls on both sides."""

import dataclasses
import random

import pytest

from systolith.hw.core.fetch import Fetch
from systolith.spec.isa import isa_for
from systolith.spec.memory import FETCH_BEATS
from systolith.spec.regs import ErrorCode
from tests.hw.engine_bench import TINY
from tests.hw.kit import Held, chance, simulate
from tests.hw.read_memory import ReadMemory

ARCHS = pytest.mark.parametrize(
    "arch",
    [dataclasses.replace(TINY, name=f"bus{bits}", bus_bits=bits) for bits in (32, 64, 128)],
    ids=lambda arch: arch.name,
)
#: The program lies across the end of a page.
BASE = 0x1F40


def run(arch, size, *, entry=0, stall=0.0, latency=1, bad=range(0), seed=0, halt=None, limit=None):
    """Fetch until the end of the region, or for `limit` cycles; returns the program, what came (offset, word,
    error) with its cycles, and the memory."""
    dut = Fetch(arch)
    rng = random.Random(f"fetch {seed}")
    program = rng.randbytes(size)
    memory = ReadMemory(
        dut.bus, program, base=BASE, latency=latency, stall=stall, seed=seed, bad=bad, always_taken=True
    )
    came, cycles = [], []

    async def bench(ctx):
        for name, value in (("entry", entry), ("base", BASE), ("size", size), ("start", 1)):
            ctx.set(getattr(dut, name), value)
        await ctx.tick()
        ctx.set(dut.start, 0)
        held = Held("an instruction")
        for cycle in range(limit or 10_000):
            if cycle == halt:
                ctx.set(dut.halt, 1)
            ready = not chance(rng, stall)
            ctx.set(dut.o.ready, ready)
            _, _, valid, word, offset, error = await ctx.tick().sample(
                dut.o.valid, dut.o.payload.word, dut.o.payload.offset, dut.o.payload.error
            )
            if halt is None:
                held.check(valid, ready, (offset, error, error or word))
            if valid and ready:
                came.append((offset, word, ErrorCode(error)))
                cycles.append(cycle)
                if ErrorCode(error) is ErrorCode.REGION:
                    return
        assert limit is not None, "fetch hangs"
        assert halt is None or (ctx.get(dut.idle) and memory.under_way == 0)

    simulate(dut, bench, beside=[memory.run], seed=seed)
    return program, came, cycles, memory


@pytest.mark.parametrize("stall", [0.0, 0.5])
@pytest.mark.parametrize("latency", [1, 12])
@ARCHS
def test_all_instructions_come_in_order_and_then_the_end(arch, latency, stall):
    seed = f"{arch.name} {latency} {stall}"
    word_bytes = isa_for(arch).word_bytes
    rng = random.Random(seed)
    for entry, rest in ((0, 0), (3 * word_bytes, rng.randrange(arch.bus_bytes, word_bytes, arch.bus_bytes))):
        # A last instruction of which only a part lies in the region is none.
        size = 40 * word_bytes + rest
        program, came, _, memory = run(arch, size, entry=entry, stall=stall, latency=latency, seed=seed)
        expected = [
            (at, int.from_bytes(program[at : at + word_bytes], "little"), ErrorCode.NONE)
            for at in range(entry, 40 * word_bytes, word_bytes)
        ]
        assert came[:-1] == expected, f"seed {seed}"
        assert (came[-1][0], came[-1][2]) == (40 * word_bytes, ErrorCode.REGION)
        addresses = [
            addr + beat * arch.bus_bytes for addr, beats, _ in memory.bursts for beat in range(beats)
        ]
        # Each beat is asked for once, as far as the region reaches.
        assert addresses == list(range(BASE + entry, BASE + size, arch.bus_bytes))


@pytest.mark.parametrize("entry", [0x80, 0x1000, 0xFFFF_FF80])
def test_an_entry_outside_the_region_is_an_error_without_a_burst(entry):
    _, came, _, memory = run(TINY, 0x80, entry=entry)
    assert [(offset, error) for offset, _, error in came] == [(entry, ErrorCode.REGION)]
    assert not memory.bursts


@pytest.mark.parametrize("beat", [0, 1, -1])
@ARCHS
def test_an_error_of_the_bus_belongs_to_its_instruction(arch, beat):
    word_bytes = isa_for(arch).word_bytes
    at = BASE + 5 * word_bytes + (beat * arch.bus_bytes) % word_bytes
    _, came, _, _ = run(arch, 20 * word_bytes, bad=range(at, at + arch.bus_bytes), stall=0.2, seed=beat)
    # Those behind it are good again.
    errors = [ErrorCode.NONE] * 20 + [ErrorCode.REGION]
    errors[5] = ErrorCode.BUS_READ
    assert [(offset, error) for offset, _, error in came] == [
        (index * word_bytes, error) for index, error in enumerate(errors)
    ]


@pytest.mark.parametrize("halt", [0, 3, 9, 25])
def test_a_halt_begins_no_burst_and_drains(halt):
    _, _, _, memory = run(TINY, 0x2000, latency=20, halt=halt, limit=120, seed=halt)
    assert all(cycle <= halt + 1 for _, _, cycle in memory.bursts)
    assert halt < 5 or memory.bursts


def test_no_more_is_asked_for_than_the_buffer_holds():
    """An owner that takes nothing: the beats under way and in the buffer stay within it."""
    arch = TINY
    dut = Fetch(arch)
    memory = ReadMemory(dut.bus, bytes(0x4000), always_taken=True)

    async def bench(ctx):
        ctx.set(dut.size, 0x4000)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        await ctx.tick().repeat(300)
        assert ctx.get(dut.idle)

    simulate(dut, bench, beside=[memory.run])
    assembled = isa_for(arch).word_bytes // arch.bus_bytes
    asked = sum(beats for _, beats, _ in memory.bursts)
    assert FETCH_BEATS // 2 <= asked <= FETCH_BEATS + assembled


@ARCHS
def test_one_instruction_per_word_of_beats(arch):
    beats = isa_for(arch).word_bytes // arch.bus_bytes
    _, came, cycles, _ = run(arch, 100 * isa_for(arch).word_bytes)
    gaps = [after - before for before, after in zip(cycles[4:-1], cycles[5:-1], strict=False)]
    assert len(came) == 101 and gaps.count(beats) >= 0.9 * len(gaps) and min(gaps) == beats
