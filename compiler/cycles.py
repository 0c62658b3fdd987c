"""The cycle model: when each instruction starts and ends, without simulating a clock.

Instructions are fetched and dispatched in order, wait in their engine's queue, for their tokens, and for the
entries that MATRIX releases. Streaming rates are exact (`costs`); latencies are those of `spec.timing`, and
those of the full core for a compact one too. Fetch and LOAD share the read channel, which answers in the
order of the requests; STORE has the write channel for itself. What is not modelled: conflicts of engines over
a block of the activation SRAM, which cost up to a third where operands share the block that the array reads,
and stalls of the bus.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from systolith.spec import timing
from systolith.spec.arch import ArchConfig
from systolith.spec.costs import busy_cycles, transfer_beats
from systolith.spec.isa import Cell, Destination, Engine, Instr, chained_outputs, isa_for
from systolith.spec.memory import BURST_BEATS, FETCH_BEATS, FULL_RATE, MemoryTiming

__all__ = ["Timing", "estimate", "transfer_cycles"]


@dataclass(frozen=True, slots=True)
class Timing:
    """First cycle of an instruction's work, and the cycle in which it is done."""

    start: int
    end: int


def transfer_cycles(instr: Instr, arch: ArchConfig, memory: MemoryTiming) -> int:
    """Cycles that a LOAD or STORE takes: the longer of its beats on the bus and its writes on chip."""
    return max(
        busy_cycles(instr, arch), -(-transfer_beats(instr, arch) * arch.bus_bytes // memory.rate(arch))
    )


class _ReadChannel:
    """The read side of the bus: beats come in the order in which their bursts were asked for."""

    def __init__(self, arch: ArchConfig, memory: MemoryTiming) -> None:
        #: Cycles per beat.
        self.beat_cycles = arch.bus_bytes / memory.rate(arch)
        self._latency = memory.latency
        self._requests: list[tuple[int, float]] = []

    def read(self, at: int, cycles: float) -> int:
        """Cycle after the last beat of what is asked for at cycle `at` and takes so many cycles."""
        before = max((end for asked, end in self._requests if asked <= at), default=0.0)
        end = max(before, at + self._latency) + cycles
        self._requests = [(asked, other) for asked, other in self._requests if asked > at] + [(at, end)]
        return math.ceil(end)


class _Fetch:
    """The instruction stream, read ahead burst by burst as far as the buffer reaches."""

    def __init__(self, count: int, arch: ArchConfig, channel: _ReadChannel) -> None:
        self._channel = channel
        #: Beats per instruction word; assembled while the previous one is dispatched.
        self.word_beats = -(-isa_for(arch).word_bytes // arch.bus_bytes)
        # The stream ends somewhere inside the PROGRAM region, behind which nothing is read.
        self._bursts = -(-count * self.word_beats // BURST_BEATS)
        self._arrived: list[int] = []
        self._taken = 0
        self._ask(timing.MODEL_TRANSFER)

    def next(self) -> int:
        """Cycle in which the next instruction is whole."""
        burst, beat = divmod((self._taken + 1) * self.word_beats - 1, BURST_BEATS)
        # The burst's later beats are still on their way.
        return math.ceil(self._arrived[burst] - (BURST_BEATS - 1 - beat) * self._channel.beat_cycles)

    def taken(self, at: int) -> None:
        """The instruction leaves the buffer."""
        self._taken += 1
        self._ask(at)

    def _ask(self, at: int) -> None:
        room = self._taken * self.word_beats + FETCH_BEATS
        while len(self._arrived) < self._bursts and (len(self._arrived) + 1) * BURST_BEATS <= room:
            self._arrived.append(self._channel.read(at, BURST_BEATS * self._channel.beat_cycles))


def estimate(instrs: Sequence[Instr], arch: ArchConfig, memory: MemoryTiming = FULL_RATE) -> list[Timing]:
    """Timing of each instruction of a stream; the last is HALT."""
    isa = isa_for(arch)
    channel = _ReadChannel(arch, memory)
    fetch = _Fetch(len(instrs), arch, channel)
    free = dict.fromkeys(Engine, 0)
    starts: dict[Engine, list[int]] = {e: [] for e in Engine}
    tokens: dict[tuple[Engine, Engine], list[int]] = {}
    released: list[tuple[int, int]] = []
    chained: list[tuple[int, int]] = []
    dispatched = 0
    between = timing.compact_issue(arch) if arch.compact else 0
    result: list[Timing] = []
    for instr in instrs:
        engine = isa.by_mnemonic[instr.mnemonic].engine
        dispatched = max(dispatched + fetch.word_beats, fetch.next())
        if engine is None:
            fetch.taken(dispatched)
            last = max([dispatched, *(t.end for t in result)])
            result.append(Timing(dispatched, last if instr.mnemonic == "HALT" else dispatched))
            continue
        if len(starts[engine]) >= arch.queue_depth:
            dispatched = max(dispatched, starts[engine][-arch.queue_depth])
        fetch.taken(dispatched)
        start = max(dispatched + timing.MODEL_ISSUE, free[engine] + between)
        for producer in Engine:
            if instr.wait >> producer & 1:
                start = max(start, tokens[producer, engine].pop(0) + timing.MODEL_TOKEN)
        # From here on it is the engine that waits, and not the queue.
        starts[engine].append(start)
        busy = busy_cycles(instr, arch)
        if engine is Engine.MATRIX:
            passage = arch.rows + timing.MODEL_MATRIX
            end = start + busy + passage
            free[engine] = start + busy
            if instr.final:
                last_tile = max(instr.oy * instr.ox, arch.weight_load_cycles)
                released.append((start + busy - last_tile + passage, end))
        elif engine is Engine.OUTPUT:
            first, last = released.pop(0)
            start = max(start, first)
            free[engine] = max(start + busy, last)
            chains = instr.dest != Destination.ACT
            end = free[engine] + (timing.MODEL_CHAIN if chains else timing.MODEL_OUTPUT)
            if chains:
                chained.append((start + timing.MODEL_CHAIN, end))
        elif engine is Engine.VECTOR:
            operands = [chained.pop(0) for _ in range(chained_outputs(instr))]
            if instr.mnemonic == "CELL":
                # Its state is read first; its cycles count from the last gate to the next, and include the
                # writes.
                taken = max(start + timing.MODEL_STATE, operands[-1][0])
                cell = Cell(instr.kind), bool(instr.wide)
                free[engine] = end = taken + busy - timing.cell_chunk(*cell) + timing.cell_write(*cell)
            else:
                start = max([start, *(first for first, _ in operands)])
                free[engine] = max([start + busy, *(last for _, last in operands)])
                end = free[engine] + timing.MODEL_VECTOR
        elif engine is Engine.LOAD:
            # Beats that wait for narrow lines hold up the channel; a compact core waits for each burst.
            bursts = max(0, -(-transfer_beats(instr, arch) // BURST_BEATS) - 1) if arch.compact else 0
            end = (
                bursts * memory.latency
                + channel.read(start, transfer_cycles(instr, arch, memory))
                + timing.MODEL_TRANSFER
            )
            # The next one asks for its data while this one's are on their way.
            free[engine] = start + -(-transfer_beats(instr, arch) // BURST_BEATS)
        else:
            free[engine] = end = (
                start + memory.latency + transfer_cycles(instr, arch, memory) + timing.MODEL_TRANSFER
            )
        if arch.compact:
            # No queue: what waits holds up all behind it. LOAD and STORE are one unit.
            dispatched = starts[engine][-1]
            for other in (Engine.LOAD, Engine.STORE) if engine in (Engine.LOAD, Engine.STORE) else (engine,):
                free[other] = end
        for consumer in Engine:
            if instr.signal >> consumer & 1:
                tokens.setdefault((engine, consumer), []).append(end)
        result.append(Timing(start, end))
    return result
