"""Cycles of each layer, from when its instructions were done."""

from __future__ import annotations

from collections.abc import Sequence

from systolith.spec.image import Image
from systolith.spec.isa import Engine, isa_for

__all__ = ["instruction_ends", "layer_cycles"]


def instruction_ends(image: Image, dones: Sequence[tuple[int, Engine]], begin: int) -> list[int | None]:
    """Per instruction of the run stream, the cycle since `begin` in which it was done; None without an engine.

    Parameters
    ----------
    dones : (cycle, engine) in order of time; each engine executes its instructions in program order
    begin : cycle of START
    """
    isa = isa_for(image.arch)
    queues = {engine: iter([cycle for cycle, other in dones if other is engine]) for engine in Engine}
    ends: list[int | None] = []
    for _, instr in image.stream("run"):
        engine = isa.by_mnemonic[instr.mnemonic].engine
        ends.append(None if engine is None else next(queues[engine]) - begin)
    return ends


def layer_cycles(image: Image, ends: Sequence[int | None]) -> tuple[int, ...]:
    """Cycles by which each layer moves the end of the program, as `LayerInfo.cycles` estimates them."""
    last: dict[int, int] = {}
    for owner, end in zip(image.owners, ends, strict=True):
        if owner >= 0 and end is not None:
            last[owner] = max(last.get(owner, 0), end)
    result, reached = [], 0
    for layer in range(len(image.layers)):
        result.append(max(0, last[layer] - reached))
        reached = max(reached, last[layer])
    return tuple(result)
