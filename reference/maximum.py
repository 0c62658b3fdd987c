"""The larger of two."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from systolith.reference.graph import Op
from systolith.reference.requantise import joined, lookup

__all__ = ["Maximum"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Maximum(Op):
    """``table[max(a, b) & 255]``, element by element; both operands have the result's shape, and, before the
    table, its scale and zero point."""

    table: np.ndarray | None = None

    def run(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """int8 of the same shape."""
        return lookup(np.maximum(a, b), self.table)

    def with_table(self, table: np.ndarray) -> Op:
        """The same operator, its result looked up."""
        return replace(self, table=joined(self.table, table))
