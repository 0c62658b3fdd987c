"""The compact core as a whole: its control, and programs with stalls against the reference machine."""

import dataclasses
import random

import numpy as np
import pytest

from systolith.hw.compact import core
from systolith.hw.soc import csr
from systolith.reference.machine import Machine
from systolith.spec.isa import Engine, Region, isa_for
from systolith.spec.regs import Control, ErrorCode, Status
from tests.hw.compact.bench import BROAD, SMALL
from tests.hw.compact.test_matrix import random_program
from tests.hw.core_bench import DATA_SIZE, CoreBench

#: The bench's program lies above 64 KiB.
ARCHS = (dataclasses.replace(SMALL, addr_bits=18), BROAD)
each_arch = pytest.mark.parametrize("arch", ARCHS, ids=lambda arch: arch.name)
DONE = (Status.DONE, 0, 0)
COPY = (
    "LOAD space=ACT region=DATA offset=3 bytes=200 base=9 signal=STORE",
    "STORE wait=LOAD region=DATA offset=1001 bytes=200 base=9",
    "HALT",
)


def copies(bench, data):
    """Whether `COPY` has copied."""
    return bench.data(1001, 200) == data[3:203]


def bits(*engines):
    """A mask of engines."""
    return sum(1 << engine for engine in engines)


def layer_program(arch, rng):
    """Loads, a few MATMULs each drained by an OUTPUT, and everything of the activation SRAM stored."""
    isa, act = isa_for(arch), 256
    program = [
        isa.make("LOAD", region=Region.DATA, bytes=act),
        isa.make("LOAD", region=Region.DATA, space=1, offset=8, bytes=arch.weight_bytes // 2),
        isa.make(
            "LOAD", region=Region.DATA, space=2, offset=64, bytes=arch.param_bytes, signal=bits(Engine.MATRIX)
        ),
    ]
    wait = bits(Engine.LOAD)
    for matmul in random_program(arch, rng, 3):
        pixels = matmul.oy * matmul.ox
        operands = {**matmul.operands, "final": 1, "wait": wait, "acc": 0}
        program.append(isa.make("MATMUL", **operands))
        program.append(
            isa.make(
                "OUTPUT",
                nx=pixels,
                channels=rng.randint(1, 4),
                dst=rng.randrange(act),
                dst_px=rng.choice((1, 3, 4, rng.randrange(act))),
                param=rng.randrange(arch.param_rows),
                zero=rng.randint(-128, 127),
                low=-128,
                high=127,
                signal=bits(Engine.MATRIX, Engine.STORE),
            )
        )
        wait = bits(Engine.OUTPUT)
    drains = len(program) // 2 - 1
    program += [isa.make("STORE", region=Region.DATA, wait=wait) for _ in range(drains - 1)]
    program.append(isa.make("STORE", region=Region.DATA, wait=wait, offset=4096, bytes=act))
    return [*program, isa.make("HALT")]


@each_arch
@pytest.mark.parametrize("seed", range(2))
def test_random_layers_equal_the_machine(arch, seed):
    rng = random.Random(f"{arch.name} {seed}")
    data = rng.randbytes(DATA_SIZE)
    program = layer_program(arch, rng)

    async def body(bench, ctx):
        await bench.start(ctx, program, data=data)
        assert await bench.wait(ctx) == DONE, f"seed {seed} of {arch.name}"
        code = b"".join(isa_for(arch).encode(instr) for instr in program)
        machine = Machine(arch, np.frombuffer(code, np.uint8), np.frombuffer(data, np.uint8).copy())
        machine.run(0)
        assert bench.data(0, DATA_SIZE) == machine.regions[Region.DATA].tobytes(), (
            f"seed {seed} of {arch.name}"
        )

    CoreBench(arch, body, latency=(1, 8)[seed], stall=(0.0, 0.3)[seed], seed=seed)


def test_control_starts_stops_and_recovers():
    """Two runs, START while it runs, an error, RESET in mid-flight; each time a good program follows."""

    cycles = []

    async def body(bench, ctx):
        async def good(seed):
            data = random.Random(seed).randbytes(300)
            await bench.start(ctx, COPY, data=data)
            # START and settings are ignored while it runs.
            await ctx.tick().repeat(150)
            await bench.write(ctx, "ENTRY", 32)
            await bench.write(ctx, "CONTROL", Control.START)
            assert await bench.wait(ctx) == DONE
            assert copies(bench, data), seed
            cycles.append(await bench.read(ctx, "CYCLES_LO"))

        size = bench.isa.word_bytes
        await good(1)
        await bench.start(ctx, ["NOP", "STORE region=PROGRAM", *COPY])
        assert await bench.wait(ctx) == (Status.ERROR, ErrorCode.REGION, size)
        await good(3)
        for delay in (14, 75, 200, 335):
            await bench.start(ctx, COPY)
            await ctx.tick().repeat(delay)
            await bench.write(ctx, "CONTROL", Control.RESET)
            assert await bench.wait(ctx) == (Status(0), 0, 0), delay
            await good(10 + delay)

    CoreBench(BROAD, body, latency=6, stall=0.1, seed=7)
    # A byte per cycle comes in, and each START counts from zero.
    assert 450 < min(cycles) <= max(cycles) < 600, cycles


@pytest.mark.parametrize("watchdog", [True, False])
def test_the_watchdog_counts_only_while_a_program_makes_no_progress(monkeypatch, watchdog):
    """Its period is 2**20 cycles, and here 2**7."""
    for module in (core, csr):
        monkeypatch.setattr(module, "WATCHDOG_BIT", 7)
    monkeypatch.setattr(csr, "DEFAULT_WATCHDOG", 1 << 7)
    # As long as the bus moves bytes, or the array or OUTPUT work, a program may take longer than one period.
    busy = [
        "LOAD region=DATA bytes=150 signal=STORE",
        "MATMUL kt=3 ox=64 ox_x=4 final=1",
        "OUTPUT nx=64 dst=100",
        "STORE wait=LOAD region=DATA offset=1000 bytes=150",
        "HALT",
    ]

    async def body(bench, ctx):
        size = bench.isa.word_bytes
        period = 1 << 7 if watchdog else 0
        for _ in range(1 + watchdog):
            # The core is idle for longer than a period before each START.
            await ctx.tick().repeat(200)
            await bench.start(ctx, busy, watchdog=period)
            assert await bench.wait(ctx) == DONE
            assert await bench.read(ctx, "CYCLES_LO") > 1 << 9
        await bench.start(ctx, ["NOP", "OUTPUT", "HALT"], watchdog=period)
        if watchdog:
            assert await bench.wait(ctx) == (Status.ERROR, ErrorCode.WATCHDOG, size)
            assert await bench.read(ctx, "CYCLES_LO") < 200
        else:
            await ctx.tick().repeat(500)
            assert await bench.read(ctx, "STATUS") == Status.RUNNING

    CoreBench(BROAD, body, latency=2)
