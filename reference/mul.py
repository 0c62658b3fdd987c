"""Multiply."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from systolith.reference.binary import Binary

__all__ = ["Mul"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Mul(Binary):
    """``clamp(zero + round_half_even((a - a_zero)*(b - b_zero)*a_mult / 2**shift))``, broadcast as NumPy
    does."""

    def run(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """int8 of the broadcast shape."""
        return self._finish(
            (a.astype(np.int64) - self.a_zero) * (b.astype(np.int64) - self.b_zero) * self.a_mult
        )
