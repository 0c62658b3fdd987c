"""Loop nests over several arrays at once: extents, and the byte strides of each array."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["merge_loops", "whole_strides"]


def merge_loops(
    extents: Sequence[int], strides: Sequence[tuple[int, ...]]
) -> tuple[list[int], list[tuple[int, ...]]]:
    """Merge neighbouring loops that step evenly for every operand; drop loops of one. Outermost first."""
    loops: list[tuple[int, tuple[int, ...]]] = []
    for extent, steps in zip(extents, strides, strict=True):
        if extent == 1:
            continue
        if loops and all(outer == inner * extent for outer, inner in zip(loops[-1][1], steps, strict=True)):
            loops[-1] = (loops[-1][0] * extent, steps)
        else:
            loops.append((extent, steps))
    return [extent for extent, _ in loops], [steps for _, steps in loops]


def whole_strides(extents: Sequence[int]) -> tuple[int, ...]:
    """Byte strides of a dense int8 array, outermost axis first."""
    strides, step = [], 1
    for extent in reversed(extents):
        strides.append(step)
        step *= extent
    return tuple(reversed(strides))
