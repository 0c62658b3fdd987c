"""Add (and subtract)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from systolith.reference.binary import Binary

__all__ = ["Add"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Add(Binary):
    """``clamp(zero + round_half_even(((a - a_zero)*a_mult + (b - b_zero)*b_mult) / 2**shift))``, broadcast as
    NumPy does.

    a_mult, b_mult and shift come from `numerics.approximate_pair`; a negative b_mult subtracts.
    """

    b_mult: int

    def run(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """int8 of the broadcast shape."""
        return self._finish(
            (a.astype(np.int64) - self.a_zero) * self.a_mult
            + (b.astype(np.int64) - self.b_zero) * self.b_mult
        )
