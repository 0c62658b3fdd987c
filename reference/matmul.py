"""Matrix product of activations and constant weights (MatMul, Gemm)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from systolith.reference.graph import Op, Requant
from systolith.reference.requantise import requantise

__all__ = ["MatMul"]


@dataclass(frozen=True, eq=False, kw_only=True)
class MatMul(Op):
    """``requantise((x - x_zero) @ weights + bias)`` over the last axis of x.

    Parameters
    ----------
    weights : int8 [K, M]
    bias : int32 [M]
    x_zero : int
    requant : Requant   per output channel
    """

    weights: np.ndarray
    bias: np.ndarray
    x_zero: int
    requant: Requant

    def run(self, x: np.ndarray) -> np.ndarray:
        """int8 [..., M] of x [..., K]."""
        sums = ((x.astype(np.float64) - self.x_zero) @ self.weights.astype(np.float64)).astype(np.int64)
        return requantise(sums + self.bias.astype(np.int64), self.requant)

    def macs(self, *shapes: tuple[int, ...]) -> int:
        """Multiply-accumulates."""
        (x,) = shapes
        return math.prod(x[:-1]) * self.weights.size

    def with_table(self, table: np.ndarray) -> Op:
        """The same operator, its result looked up."""
        return replace(self, requant=self.requant.with_table(table))
