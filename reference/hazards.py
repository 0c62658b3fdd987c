"""Proof that a stream's tokens order everything that must be ordered.

Simulates the five in-order engines symbolically. `before[j]` is, per engine, how many of its instructions are
known to be done when instruction j starts; every earlier instruction that conflicts with j must be among
them. What conflicts follows from `accesses`, never from the `footprint` with which tokens are made.
"""

from __future__ import annotations

from collections.abc import Sequence

from systolith.reference.accesses import Hull, hulls
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Destination, Engine, Instr, chained_outputs, isa_for, token_budget

__all__ = ["HazardError", "check_order"]


class HazardError(AssertionError):
    """A stream whose result could depend on the speed of its engines, or that could stop for ever."""


def check_order(instrs: Sequence[Instr], arch: ArchConfig) -> None:
    """Check a stream.

    Raises
    ------
    HazardError   Naming the two instructions, or the token that is missing.
    """
    isa = isa_for(arch)
    engine_of = [isa.by_mnemonic[instr.mnemonic].engine for instr in instrs]
    signals: dict[tuple[Engine, Engine], list[int]] = {}
    taken: dict[tuple[Engine, Engine], int] = {}
    done: list[dict[Engine, int]] = []
    current = {e: dict.fromkeys(Engine, -1) for e in Engine}
    releases: list[int] = []
    chains: list[int] = []
    accesses: dict[tuple[Engine, str], list[tuple[int, int, int, bool]]] = {}
    for j, (instr, engine) in enumerate(zip(instrs, engine_of, strict=True)):
        if engine is None:
            done.append({})
            continue
        before = dict(current[engine])
        for producer in Engine:
            if instr.wait >> producer & 1:
                n = taken.get((producer, engine), 0)
                given = signals.get((producer, engine), [])
                if n >= len(given):
                    raise HazardError(
                        f"instruction {j} ({instr.mnemonic}) waits for a token of {producer.name} that no "
                        f"earlier instruction gives"
                    )
                taken[producer, engine] = n + 1
                before = _join(before, done[given[n]])
        after = dict(before)
        partner = None
        if instr.mnemonic == "OUTPUT":
            if not releases:
                raise HazardError(f"instruction {j} (OUTPUT) has no MATMUL to drain")
            partner = releases.pop(0)
            after = _join(after, done[partner])
        for _ in range(chained_outputs(instr)):
            if not chains:
                raise HazardError(
                    f"instruction {j} ({instr.mnemonic}) has no OUTPUT to take its operand from"
                )
            after = _join(after, done[chains.pop(0)])
        touched = hulls(instr, arch)
        for other in Engine:
            if other is not engine:
                for space, low, high, writes in touched:
                    _check(
                        j,
                        instr,
                        partner,
                        (space, low, high, writes),
                        accesses.get((other, space), ()),
                        before[other],
                        instrs,
                    )
        after[engine] = j
        done.append(after)
        current[engine] = after
        if instr.mnemonic == "MATMUL" and instr.final:
            releases.append(j)
        if instr.mnemonic == "OUTPUT" and instr.dest != Destination.ACT:
            chains.append(j)
        for consumer in Engine:
            if instr.signal >> consumer & 1:
                signals.setdefault((engine, consumer), []).append(j)
                if len(signals[engine, consumer]) - taken.get((engine, consumer), 0) > token_budget(arch):
                    raise HazardError(
                        f"instruction {j} ({instr.mnemonic}) may give {consumer.name} more tokens than its "
                        f"semaphore counts"
                    )
        for space, low, high, writes in touched:
            accesses.setdefault((engine, space), []).append((j, low, high, writes))
    for (producer, consumer), given in signals.items():
        if len(given) != taken.get((producer, consumer), 0):
            raise HazardError(
                f"{len(given) - taken.get((producer, consumer), 0)} tokens of {producer.name} for "
                f"{consumer.name} are left over"
            )


def _check(
    j: int,
    instr: Instr,
    partner: int | None,
    access: Hull,
    earlier: Sequence[tuple[int, int, int, bool]],
    known: int,
    instrs: Sequence[Instr],
) -> None:
    """Compare one access of instruction j with those of another engine that are not known to be done."""
    space, low, high, writes = access
    for i, other_low, other_high, other_writes in reversed(earlier):
        if i <= known:
            return
        # A released entry orders MATRIX before OUTPUT.
        if (
            (writes or other_writes)
            and low < other_high
            and other_low < high
            and not (space == "acc" and partner is not None and i <= partner)
        ):
            raise HazardError(
                f"instruction {j} ({instr.mnemonic}) and instruction {i} ({instrs[i].mnemonic}) both touch "
                f"{space} {max(low, other_low)} to {min(high, other_high)}, and no token orders them"
            )


def _join(a: dict[Engine, int], b: dict[Engine, int]) -> dict[Engine, int]:
    return {e: max(a[e], b.get(e, -1)) for e in Engine}
