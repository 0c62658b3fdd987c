"""The cycle model: when each instruction starts and ends, without simulating a clock.

Instructions are fetched and dispatched in order, wait in their engine's queue, for their tokens, and for the entries
that MATRIX releases. Streaming rates are exact (`costs`); the latencies below were read off the RTL. Transfers share
the bus in order of their start, which is a simplification.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from systolith.compiler.costs import busy_cycles
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Destination, Engine, Instr, OperandA, isa_for

__all__ = ["FULL_RATE", "MemoryTiming", "Timing", "estimate", "transfer_cycles"]

#: Cycles from dispatch to the first request of an engine.
_ISSUE = 3
#: Cycles from a MATMUL's first vector to its first accumulator write, beyond the R rows it passes.
_ARRAY_LATENCY = 6
#: Cycles from an accumulator read to the write of its result.
_OUTPUT_LATENCY = 10
#: Cycles from a read by the vector unit to the write of its result.
_VECTOR_LATENCY = 10
#: Cycles of a transfer beyond the memory's latency and its beats.
_TRANSFER_LATENCY = 6


@dataclass(frozen=True, slots=True)
class Timing:
    """First cycle of an instruction's work, and the cycle in which it is done."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTiming:
    """External memory as the cycle model sees it.

    Parameters
    ----------
    latency : int           cycles from a read request to its first beat
    bytes_per_cycle : int   what the memory delivers; None: as much as the bus carries
    """

    latency: int = 32
    bytes_per_cycle: int | None = None

    def rate(self, arch: ArchConfig) -> int:
        """Bytes per cycle on the bus of this core."""
        return min(arch.bus_bytes, self.bytes_per_cycle or arch.bus_bytes)


#: A memory that keeps the bus busy.
FULL_RATE = MemoryTiming()


def transfer_cycles(instr: Instr, arch: ArchConfig, memory: MemoryTiming) -> int:
    """Cycles that the beats of a LOAD or STORE take."""
    return -(-busy_cycles(instr, arch) * arch.bus_bytes // memory.rate(arch))


def estimate(instrs: Sequence[Instr], arch: ArchConfig, memory: MemoryTiming = FULL_RATE) -> list[Timing]:
    """Timing of each instruction of a stream; the last is HALT."""
    isa = isa_for(arch)
    rate, latency = memory.rate(arch), memory.latency
    word_cycles = -(-isa.word_bytes // rate)
    free = dict.fromkeys(Engine, 0)
    starts: dict[Engine, list[int]] = {e: [] for e in Engine}
    tokens: dict[tuple[Engine, Engine], list[int]] = {}
    released: list[tuple[int, int]] = []
    chained: list[tuple[int, int]] = []
    fetched, dispatched, bus = latency + _TRANSFER_LATENCY, 0, 0
    result: list[Timing] = []
    for instr in instrs:
        fetched += word_cycles
        engine = isa.by_mnemonic[instr.mnemonic].engine
        dispatched = max(dispatched + 1, fetched)
        if engine is None:
            last = max([dispatched, *(t.end for t in result)])
            result.append(Timing(dispatched, last if instr.mnemonic == "HALT" else dispatched))
            continue
        if len(starts[engine]) >= arch.queue_depth:
            dispatched = max(dispatched, starts[engine][-arch.queue_depth])
        start = max(dispatched + _ISSUE, free[engine])
        for producer in Engine:
            if instr.wait >> producer & 1:
                start = max(start, tokens[producer, engine].pop(0) + 1)
        busy = busy_cycles(instr, arch)
        if engine is Engine.MATRIX:
            end = start + busy + arch.rows + _ARRAY_LATENCY
            free[engine] = start + busy
            if instr.final:
                released.append((start + busy - max(instr.oy * instr.ox, arch.weight_load_cycles) + arch.rows + _ARRAY_LATENCY, end))
        elif engine is Engine.OUTPUT:
            first, last = released.pop(0)
            start = max(start, first)
            free[engine] = max(start + busy, last)
            end = free[engine] + _OUTPUT_LATENCY
            if instr.dest == Destination.VECTOR:
                chained.append((start + _OUTPUT_LATENCY, end))
        elif engine is Engine.VECTOR:
            last = 0
            if instr.operands.get("a_source") == OperandA.OUTPUT:
                first, last = chained.pop(0)
                start = max(start, first)
            free[engine] = max(start + busy, last)
            end = free[engine] + _VECTOR_LATENCY
        else:
            begin = max(start, bus - latency)
            beats = transfer_cycles(instr, arch, memory)
            free[engine] = begin + beats
            end = begin + latency + beats + _TRANSFER_LATENCY
            bus = end
            free[engine] = end
        starts[engine].append(start)
        for consumer in Engine:
            if instr.signal >> consumer & 1:
                tokens.setdefault((engine, consumer), []).append(end)
        result.append(Timing(start, end))
    return result
