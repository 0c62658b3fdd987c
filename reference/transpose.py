"""Axes permuted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from systolith.reference.graph import Op

__all__ = ["Transpose"]


@dataclass(frozen=True, kw_only=True)
class Transpose(Op):
    """Axes permuted: output axis i is input axis perm[i]."""

    moves_only = True

    perm: tuple[int, ...]

    def run(self, x: np.ndarray) -> np.ndarray:
        """int8 with permuted axes."""
        return np.ascontiguousarray(x.transpose(self.perm))

    def axis_after(self, axis: int, shape: tuple[int, ...]) -> int:
        """Where the axis went."""
        return self.perm.index(axis)
