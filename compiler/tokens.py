"""From what instructions read and write to the tokens that order them.

The program's meaning is its sequential execution. Two instructions on different engines that touch the same
bytes, one of them writing, must keep their order. A vector clock per engine tells which instructions of the
others are already known to be done; a token is added only where that is not enough.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

from systolith.reference.footprint import footprint
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Destination, Engine, Instr, chained_outputs, isa_for, token_budget

__all__ = ["add_tokens"]


def add_tokens(instrs: Sequence[Instr], arch: ArchConfig) -> list[Instr]:
    """The instructions with `wait` and `signal` set."""
    isa = isa_for(arch)
    engines = [isa.by_mnemonic[instr.mnemonic].engine for instr in instrs]
    waits = [0] * len(instrs)
    signals = [0] * len(instrs)
    # known[e][p]: index of the last instruction of engine p that is done before engine e's next one starts.
    known = {e: dict.fromkeys(Engine, -1) for e in Engine}
    done: list[dict[Engine, int]] = []
    accesses: dict[tuple[Engine, str], list[tuple[int, int, int, bool]]] = {}
    # Instructions of each engine so far; and, per ordered pair, those that wait for a token.
    issued: dict[Engine, list[int]] = {e: [] for e in Engine}
    given: dict[tuple[Engine, Engine], list[int]] = {}
    released: list[int] = []
    chained: list[int] = []

    for j, (instr, engine) in enumerate(zip(instrs, engines, strict=True)):
        if engine is None:
            done.append({})
            continue
        clock = known[engine]
        prints = footprint(instr, arch)
        for producer in Engine:
            if producer is engine:
                continue
            last = -1
            for space, low, high, writes in prints:
                # A released entry orders MATRIX before OUTPUT.
                if space == "acc" and producer is Engine.MATRIX and engine is Engine.OUTPUT:
                    continue
                for i, other_low, other_high, other_writes in reversed(accesses.get((producer, space), ())):
                    if i <= max(last, clock[producer]):
                        break
                    if (writes or other_writes) and low < other_high and other_low < high:
                        last = i
                        break
            if last > clock[producer]:
                # A semaphore counts so far and no further. Before it could be full, a token of the producer's
                # latest instruction stands for all that would follow.
                taken = given.setdefault((producer, engine), [])
                if len(taken) - bisect_right(taken, last) >= token_budget(arch) - 1:
                    last = issued[producer][-1]
                taken.append(j)
                waits[j] |= 1 << producer
                signals[last] |= 1 << engine
                _merge(clock, done[last])
        after = {**clock, engine: j}
        if instr.mnemonic == "MATMUL" and instr.final:
            released.append(j)
        if instr.mnemonic == "OUTPUT":
            _merge(after, done[released.pop(0)])
            if instr.dest != Destination.ACT:
                chained.append(j)
        for _ in range(chained_outputs(instr)):
            _merge(after, done[chained.pop(0)])
        done.append(after)
        issued[engine].append(j)
        # In order: what the engine's own earlier instructions knew stays known.
        _merge(known[engine], after)
        for space, low, high, writes in prints:
            accesses.setdefault((engine, space), []).append((j, low, high, writes))
    return [
        replace(instr, operands={**instr.operands, "wait": w, "signal": s}) if engine is not None else instr
        for instr, engine, w, s in zip(instrs, engines, waits, signals, strict=True)
    ]


def _merge(clock: dict[Engine, int], other: dict[Engine, int]) -> None:
    for engine, index in other.items():
        clock[engine] = max(clock[engine], index)
