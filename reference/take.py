"""One index of an axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from systolith.reference.graph import Op

__all__ = ["Take"]


@dataclass(frozen=True, kw_only=True)
class Take(Op):
    """One index of an axis, which goes."""

    moves_only = True

    axis: int
    index: int

    def run(self, x: np.ndarray) -> np.ndarray:
        """int8 of the remaining axes."""
        taken: np.ndarray = x.take(self.index, axis=self.axis)
        return taken
