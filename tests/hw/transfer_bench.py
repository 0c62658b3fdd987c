"""Runs instructions on LOAD or STORE, between a model of external memory and models of the SRAMs."""

import dataclasses
import random
from collections.abc import Callable

from systolith.hw.soc.axi import PAGE_BYTES
from systolith.sim.benches.checks import command_bits
from systolith.spec.arch import PRESETS, ArchConfig
from systolith.spec.isa import Instr, Region, Space, isa_for
from systolith.spec.regs import ErrorCode
from tests.hw.kit import send, simulate

__all__ = [
    "ARCHS",
    "DATA",
    "NARROW",
    "PROGRAM",
    "SIZE",
    "TINY",
    "Run",
    "execute",
    "first_difference",
    "rows_about_a_page",
    "srams",
]

#: Both regions lie in external memory, PROGRAM before DATA.
PROGRAM, DATA, SIZE = 0x1000, 0x4000, 0x4000
TINY = PRESETS["tiny"]
NARROW = dataclasses.replace(TINY, name="bus32", bus_bits=32)
#: Buses of 4, 8 and 16 bytes; vectors as wide as a beat, twice and four times as wide; 1, 2 and 4 blocks.
ARCHS = [
    TINY,
    NARROW,
    dataclasses.replace(TINY, name="bus64", rows=8, bus_bits=64, act_blocks=4),
    dataclasses.replace(TINY, name="vector16", rows=16, cols=4, lanes=2, bus_bits=32, act_blocks=1),
]


@dataclasses.dataclass
class Run:
    """What became of the instructions: how many were done, the error that ended them, the cycles it took."""

    done: int = 0
    error: ErrorCode | None = None
    cycles: int = 0


def srams(arch: ArchConfig) -> dict[Space, bytearray]:
    """Empty SRAMs by space."""
    return {
        Space.ACT: bytearray(arch.act_bytes),
        Space.WEIGHT: bytearray(arch.weight_bytes),
        Space.PARAM: bytearray(arch.param_bytes),
        Space.TABLE: bytearray(arch.table_bytes),
    }


def first_difference(found, expected) -> str:
    """Where two byte strings of one length differ, for a message; '' where they do not."""
    if found == expected:
        return ""
    at = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
    return f"byte {at} is {found[at]}, not {expected[at]}"


def rows_about_a_page(arch: ArchConfig, mnemonic: str, rng: random.Random) -> list[Instr]:
    """Rows of DATA that begin before the end of a page, at every alignment, and end before, at and behind it.

    External memory refuses a burst that crosses it.
    """
    b = arch.bus_bytes
    return [
        isa_for(arch).make(
            mnemonic, region=Region.DATA, offset=PAGE_BYTES - before, bytes=length, base=rng.randrange(256)
        )
        for before in (*range(1, b + 2), 15 * b, 16 * b + 1)
        for length in (1, before, before + 1, before + 16 * b + 3)
    ]


def execute(
    arch: ArchConfig,
    dut,
    instrs: list[Instr],
    *,
    processes,
    stall: float = 0.0,
    seed: int = 0,
    limit: int = 20_000,
    stop_at: int | None = None,
    on_done: Callable[[int], None] = lambda index: None,
) -> Run:
    """Instructions on a `LoadTop` or `StoreTop`, until all are done or one fails, and the bus is idle.

    Parameters
    ----------
    processes : sequence    memory and SRAMs
    stall : float           probability of a cycle without a command between two
    stop_at : int           cycle from which `stop` is set; then until the bus is idle
    on_done : function      called with the number of each instruction at its `done`
    """
    result = Run()
    rng = random.Random(f"commands {seed}")

    async def feed(ctx):
        for name, base, size in (("program", PROGRAM, DATA - PROGRAM), ("data", DATA, SIZE)):
            window = getattr(dut.regions, name)
            ctx.set(window.base, base)
            ctx.set(window.size, size)
        engine = isa_for(arch).by_mnemonic[instrs[0].mnemonic].engine
        commands = [command_bits(arch, engine, instr, rng) for instr in instrs]
        await send(ctx, dut.engine.cmd, commands, rng, stall)

    async def watch(ctx):
        for cycle in range(limit):
            if stop_at == cycle:
                ctx.set(dut.engine.stop, 1)
            _, _, done, error, code, idle = await ctx.tick().sample(
                dut.engine.done, dut.engine.error, dut.engine.error_code, dut.engine.idle
            )
            result.cycles = cycle
            if done:
                assert result.error is None, "done after an error"
                on_done(result.done)
                result.done += 1
            if error:
                assert result.error is None, "two errors"
                result.error = ErrorCode(code)
            over = result.done == len(instrs) or result.error is not None
            if idle and (over or (stop_at is not None and cycle > stop_at)):
                return
        raise AssertionError(
            f"hangs after {limit} cycles in instruction {result.done}: {instrs[result.done]}"
        )

    simulate(dut, watch, beside=[feed], processes=processes, seed=seed)
    return result
