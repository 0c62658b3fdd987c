"""Cycles of each layer and of each time step of a recurrent one, from when its instructions were done."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from systolith.spec.image import Image
from systolith.spec.isa import Engine, isa_for
from systolith.spec.plan import CoreStep

__all__ = ["instruction_ends", "layer_cycles", "step_cycles"]


def instruction_ends(image: Image, dones: Sequence[tuple[int, Engine]], core: int = 0) -> list[int | None]:
    """Per instruction of a core step's run stream, the cycle since START in which it was done; None without
    an engine.

    Parameters
    ----------
    core  : number of the step among the core steps, from 0
    dones : (cycle since START, engine) in order of time; each engine executes its instructions in program
            order
    """
    isa = isa_for(image.arch)
    queues = {engine: iter([cycle for cycle, other in dones if other is engine]) for engine in Engine}
    ends: list[int | None] = []
    for _, instr in image.stream("run", core):
        engine = isa.by_mnemonic[instr.mnemonic].engine
        ends.append(None if engine is None else next(queues[engine]))
    return ends


def layer_cycles(step: CoreStep, ends: Sequence[int | None]) -> tuple[int, ...]:
    """Cycles by which each layer of a core step moves the end of its run stream, as `LayerInfo.cycles`
    estimates them."""
    last: dict[int, int] = {}
    for owner, end in zip(step.owners, ends, strict=True):
        if owner >= 0 and end is not None:
            last[owner] = max(last.get(owner, 0), end)
    result, reached = [], 0
    for layer in range(len(step.layers)):
        result.append(max(0, last[layer] - reached))
        reached = max(reached, last[layer])
    return tuple(result)


def step_cycles(image: Image, ends: Sequence[int | None]) -> tuple[int, ...]:
    """Cycles from the last cell of each time step to the last cell of the next, in a program of one core
    step with one recurrent layer of batch 1."""
    cells = [
        (instr.state, end)
        for (_, instr), end in zip(image.stream("run"), ends, strict=True)
        if instr.mnemonic == "CELL" and end is not None
    ]
    # The blocks of a step follow one another in memory; the next step begins at the first again.
    first = cells[0][0]
    done = [end for (_, end), (state, _) in zip(cells, [*cells[1:], cells[0]], strict=True) if state == first]
    return tuple(later - earlier for earlier, later in pairwise(done))
