"""What element-wise operators of two tensors share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from systolith.reference.graph import Op
from systolith.reference.requantise import joined, lookup
from systolith.spec import numerics

__all__ = ["Binary"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Binary(Op):
    """What Add and Mul share: two operands, each with a zero point, and one result."""

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

    def with_table(self, table: np.ndarray) -> Op:
        """The same operator, its result looked up."""
        return replace(self, table=joined(self.table, table))
