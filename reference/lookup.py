"""Any function of one int8."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from systolith.reference.graph import Op
from systolith.reference.requantise import joined, lookup

__all__ = ["Lookup"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Lookup(Op):
    """``table[x & 255]``: any activation function, or a change of scale, correctly rounded in each of its 256
    entries."""

    table: np.ndarray

    def run(self, x: np.ndarray) -> np.ndarray:
        """int8 of the same shape."""
        return lookup(x, self.table)

    @property
    def as_table(self) -> np.ndarray:
        """The table."""
        return self.table

    def with_table(self, table: np.ndarray) -> Op:
        """Both tables as one."""
        return Lookup(table=joined(self.table, table))
