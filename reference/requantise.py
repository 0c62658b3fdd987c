"""From int32 sums to int8, vectorised: the one definition of `spec.numerics`, applied along the channel
axis."""

from __future__ import annotations

import numpy as np

from systolith.reference.graph import Requant
from systolith.spec import numerics

__all__ = ["joined", "lookup", "requantise"]


def lookup(q: np.ndarray, table: np.ndarray | None) -> np.ndarray:
    """``table[q & 255]`` as int8; `q` itself where there is no table."""
    return q if table is None else table[q.astype(np.uint8)]


def joined(first: np.ndarray | None, second: np.ndarray) -> np.ndarray:
    """One table that does what both do, `first` before `second`; None changes nothing."""
    return second if first is None else lookup(first, second)


def requantise(sums: np.ndarray, requant: Requant, axis: int = -1) -> np.ndarray:
    """int8 results of integer sums; `mult` and `shift` run along `axis`."""
    shape = [1] * sums.ndim
    shape[axis] = -1
    mult = requant.mult.astype(np.int64).reshape(shape)
    shift = requant.shift.astype(np.int64).reshape(shape)
    q = numerics.requantise(sums.astype(np.int64), mult, shift, requant.zero, requant.low, requant.high)
    return lookup(q.astype(np.int8), requant.table)
