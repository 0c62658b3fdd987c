"""The same elements under another shape."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from systolith.reference.graph import Op

__all__ = ["Reshape"]


@dataclass(frozen=True, kw_only=True)
class Reshape(Op):
    """Same elements in row-major order (Reshape, Flatten, Squeeze, Unsqueeze)."""

    moves_only = True

    shape: tuple[int, ...]

    def run(self, x: np.ndarray) -> np.ndarray:
        """int8 of `shape`."""
        return x.reshape(self.shape)

    def axis_after(self, axis: int, shape: tuple[int, ...]) -> int | None:
        """The axis of the same extent behind as many elements."""
        before = prod(shape[:axis])
        for at, extent in enumerate(self.shape):
            if extent == shape[axis] and prod(self.shape[:at]) == before:
                return at
        return None
