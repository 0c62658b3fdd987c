"""Indices of axes: slices, repetitions, paddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from systolith.reference.graph import Op

__all__ = ["Select"]


@dataclass(frozen=True, kw_only=True)
class Select(Op):
    """``x[indices[0]][:, indices[1]]...``: any indices of each axis, in any order and as often as they occur.

    Parameters
    ----------
    indices : per axis, a tuple of int, -1 where the result is `fill`; or None for the whole axis
    fill : int   int8
    """

    moves_only = True

    indices: tuple[tuple[int, ...] | None, ...]
    fill: int = 0

    def run(self, x: np.ndarray) -> np.ndarray:
        """int8, each axis as long as its indices."""
        for axis, chosen in enumerate(self.indices):
            if chosen is not None:
                index = np.array(chosen, np.int64)
                x = x.take(np.maximum(index, 0), axis=axis)
                x[(slice(None),) * axis + (index < 0,)] = self.fill
        return x

    def only_pads(self, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...] | None:
        """(before, after) of each axis, where all that the operator does with an operand of this shape is to
        put `fill` around it; else None."""
        found = []
        for chosen, extent in zip(self.indices, shape, strict=True):
            inside = tuple(range(extent))
            whole = inside if chosen is None else chosen
            before = next((at for at, index in enumerate(whole) if index >= 0), len(whole))
            if whole[before : before + extent] != inside or any(i >= 0 for i in whole[before + extent :]):
                return None
            found.append((before, len(whole) - before - extent))
        return tuple(found)
