"""Add (and subtract), multiply, and any function of one int8."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from systolith.reference.graph import Op
from systolith.reference.requantise import lookup
from systolith.spec import numerics

__all__ = ["Add", "Lookup", "Mul"]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Binary(Op):
    a_zero: int
    b_zero: int
    a_mult: int
    shift: int
    zero: int
    low: int = -128
    high: int = 127
    table: np.ndarray | None = None

    def _finish(self, total: np.ndarray) -> np.ndarray:
        q = numerics.saturate(
            numerics.round_shift(total, np.int64(self.shift)) + self.zero, self.low, self.high
        )
        return lookup(q.astype(np.int8), self.table)


@dataclass(frozen=True, eq=False, kw_only=True)
class Add(_Binary):
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


@dataclass(frozen=True, eq=False, kw_only=True)
class Mul(_Binary):
    """``clamp(zero + round_half_even((a - a_zero)*(b - b_zero)*a_mult / 2**shift))``, broadcast as NumPy
    does."""

    def run(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """int8 of the broadcast shape."""
        return self._finish(
            (a.astype(np.int64) - self.a_zero) * (b.astype(np.int64) - self.b_zero) * self.a_mult
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Lookup(Op):
    """``table[x & 255]``: any activation function, or a change of scale, correctly rounded in each of its 256
    entries."""

    table: np.ndarray

    def run(self, x: np.ndarray) -> np.ndarray:
        """int8 of the same shape."""
        return lookup(x, self.table)
