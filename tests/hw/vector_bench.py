"""Runs instructions on the vector unit, between a model of the activation SRAM and what OUTPUT sends."""

import dataclasses
import random

import numpy as np

from systolith.hw.engine.vector import VectorEngine
from systolith.sim.benches.checks import EffectChecker, command_bits, split_bytes
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Engine, Instr
from tests.hw.engine_bench import SramReads, fill
from tests.hw.kit import Held, as_bits, chance, send, simulate

__all__ = ["Run", "execute"]


@dataclasses.dataclass
class Run:
    """Cycles of what happened, from the first command that may come: commands and chunks that were taken,
    reads that were granted, `stall`."""

    checker: EffectChecker
    commands: list[int] = dataclasses.field(default_factory=list)
    chain: list[int] = dataclasses.field(default_factory=list)
    reads: list[int] = dataclasses.field(default_factory=list)
    stalls: list[int] = dataclasses.field(default_factory=list)
    cycle: int = 0


def execute(
    arch: ArchConfig,
    instrs: list[Instr],
    *,
    before,
    after,
    effects: list[list[tuple[int, tuple[int, ...]]]],
    chunks: list[list[int]],
    tables: bytes,
    seed: int,
    stall: float,
    limit: int = 20_000,
) -> Run:
    """Instructions until all are done, each with its effects at its `done`.

    Parameters
    ----------
    before, after : bytes   contents of the activation SRAM
    effects : list          per instruction its writes in order: address, values of the lanes
    chunks : list           what OUTPUT sends, in order
    tables : bytes          the look-up tables
    stall : float           probability of a pause of every handshake in a cycle
    """
    rng = random.Random(f"vector {seed}")
    dut = VectorEngine(arch)
    checker = EffectChecker(effects, seed)
    run, begun = Run(checker), []
    sram = bytearray(before)
    lanes = np.arange(arch.lanes)

    def word(chunk) -> int:
        """A chunk as bits; lanes beyond it are random."""
        values = [int(chunk[lane]) if lane < len(chunk) else rng.getrandbits(16) for lane in lanes]
        return sum((value & 0xFFFF) << 16 * lane for lane, value in enumerate(values))

    async def feed(ctx):
        await fill(ctx, dut.table_write, arch, tables, rng, gap=0)
        begun.append(True)
        commands = [command_bits(arch, Engine.VECTOR, instr, rng) for instr in instrs]
        await send(ctx, dut.engine.cmd, commands, rng, stall, lambda: run.commands.append(run.cycle))

    async def chain(ctx):
        await send(
            ctx, dut.chain, [word(chunk) for chunk in chunks], rng, stall, lambda: run.chain.append(run.cycle)
        )

    async def watch(ctx):
        reads, held = SramReads(arch, sram, rng), Held("a write")
        signals = [dut.read.valid, dut.read.addr, dut.write.valid, dut.write.addr, dut.write.mask]
        signals += [dut.write.data.as_value(), dut.engine.done, dut.engine.error, dut.engine.stall]
        while not checker.complete:
            read_ready, write_ready = not chance(rng, stall), not chance(rng, stall)
            ctx.set(dut.read.ready, read_ready)
            ctx.set(dut.write.ready, write_ready)
            ctx.set(dut.read.data.as_value(), reads.word())
            sampled = await ctx.tick().sample(*signals)
            asks, from_addr, writes, addr, mask, written, done, error, stalled = sampled[2:]
            assert not error
            granted = asks and read_ready
            reads.grant(from_addr if granted else None)
            if granted:
                run.reads.append(run.cycle)
            held.check(writes, write_ready, (addr, mask, written))
            run.stalls += [run.cycle] * stalled
            effect = None
            if writes and write_ready:
                assert mask and mask & (mask + 1) == 0, f"mask {mask:b} has a hole"
                effect = (addr, split_bytes(written, mask.bit_length()))
                for lane, value in enumerate(effect[1]):
                    sram[(addr + lane) % arch.act_bytes] = value & 255
            checker.step(run.cycle, effect, done)
            run.cycle += bool(begun)
            assert run.cycle < limit, f"{checker.done} is never done: {instrs[checker.done]}"
        assert sram == bytearray(after)

    assert len(as_bits(dut.chain.payload)) == 16 * arch.lanes
    simulate(dut, watch, beside=[feed, chain], seed=seed)
    return run
