"""What the benches of the compact core share: configurations, instructions beat by beat, memories at random,
and the simulation of one component.

A compact core has no choice of rows, columns or bus width (`spec.arch.COMPACT`), so configurations differ in
the sizes of memories and addresses.
"""

import random
from collections.abc import AsyncIterator

import numpy as np
import pytest

from systolith.reference.machine import Machine
from systolith.spec.arch import COMPACT, ArchConfig
from systolith.spec.isa import Instr, isa_for

__all__ = ["ARCHS", "BROAD", "SMALL", "beats", "each_arch", "give", "load", "one_by_one", "random_machine"]


def _compact(name: str, **sizes: int) -> ArchConfig:
    return ArchConfig(name=name, compact=True, **COMPACT, **sizes)


#: Small memories: addresses wrap and counts run out soon.
SMALL = _compact("small", addr_bits=16, act_bytes=1 << 10, weight_bytes=1 << 10, acc_depth=8, param_rows=2)
#: All widths differ from those of `SMALL`, so that operands straddle other beats.
BROAD = _compact("broad", addr_bits=24, act_bytes=1 << 13, weight_bytes=1 << 11, acc_depth=64, param_rows=64)
ARCHS = (SMALL, BROAD)
each_arch = pytest.mark.parametrize("arch", ARCHS, ids=lambda arch: arch.name)


def beats(arch: ArchConfig, instr: Instr) -> list[int]:
    """An instruction as it comes over the bus."""
    word, size = isa_for(arch).encode(instr), arch.bus_bytes
    return [int.from_bytes(word[at : at + size], "little") for at in range(0, len(word), size)]


async def give(ctx, unit, arch: ArchConfig, instr: Instr, rng: random.Random, gap: float) -> None:
    """Play the dispatcher: the beats of one instruction, other data in the pauses between them, then `begin`.

    Parameters
    ----------
    unit : UnitSignature   signature of the component under test
    gap : float            probability of a pause in each cycle
    """

    async def pause() -> None:
        ctx.set(unit.load, 0)
        ctx.set(unit.begin, 0)
        while rng.random() < gap:
            ctx.set(unit.index, rng.randrange(1 << len(unit.index)))
            ctx.set(unit.data, rng.getrandbits(arch.bus_bits))
            await ctx.tick()

    for index, beat in enumerate(beats(arch, instr)):
        await pause()
        ctx.set(unit.load, 1)
        ctx.set(unit.index, index)
        ctx.set(unit.data, beat)
        await ctx.tick()
    await pause()
    ctx.set(unit.data, rng.getrandbits(arch.bus_bits))
    ctx.set(unit.begin, 1)
    await ctx.tick()
    ctx.set(unit.begin, 0)


async def load(ctx, port, contents: bytes, order: list[int], rng: random.Random) -> None:
    """Write some beats of a memory through its port, without a pause, in any order."""
    rng.shuffle(order)
    ctx.set(port.valid, 1)
    for beat in order:
        ctx.set(port.beat, beat)
        ctx.set(port.data, int.from_bytes(contents[4 * beat : 4 * beat + 4], "little"))
        await ctx.tick()
    ctx.set(port.valid, 0)


async def one_by_one(ctx, run) -> AsyncIterator[None]:
    """Give the instructions of a `Run` to its unit, each when the one before is done or at fault; comes back
    after each."""
    for number, instr in enumerate(run.instrs):
        await give(ctx, run.dut.unit, run.arch, instr, run.rng, run.stall)
        while len(run.done) == number and not run.errors:
            await ctx.tick()
            assert run.cycle < run.limit, f"hangs: {len(run.done)} of {len(run.instrs)} done"
        yield


def random_machine(arch: ArchConfig, rng: random.Random, region_bytes: int = 1 << 12) -> Machine:
    """A machine with random bytes in its memories and in both of its regions, of `region_bytes` each."""
    draw = np.random.default_rng(rng.getrandbits(32))
    machine = Machine(arch, *(draw.integers(0, 256, region_bytes, np.uint8) for _ in range(2)))
    for memory in (machine.act, machine.weight, machine.param):
        memory[:] = draw.integers(0, 256, len(memory), np.uint8).view(memory.dtype)
    return machine
