"""Operators that move elements without changing them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from systolith.reference.graph import Op

__all__ = ["Concat", "Reshape", "Take", "Transpose"]


@dataclass(frozen=True, kw_only=True)
class Concat(Op):
    """Join along an axis; all inputs share scale and zero point."""

    axis: int

    def run(self, *inputs: np.ndarray) -> np.ndarray:
        """int8, the extents along `axis` added up."""
        return np.concatenate(inputs, axis=self.axis)


@dataclass(frozen=True, kw_only=True)
class Reshape(Op):
    """Same elements in row-major order (Reshape, Flatten, Squeeze, Unsqueeze)."""

    shape: tuple[int, ...]

    def run(self, x: np.ndarray) -> np.ndarray:
        """int8 of `shape`."""
        return x.reshape(self.shape)


@dataclass(frozen=True, kw_only=True)
class Take(Op):
    """One index of an axis, which goes."""

    axis: int
    index: int

    def run(self, x: np.ndarray) -> np.ndarray:
        """int8 of the remaining axes."""
        taken: np.ndarray = x.take(self.index, axis=self.axis)
        return taken


@dataclass(frozen=True, kw_only=True)
class Transpose(Op):
    """Axes permuted: output axis i is input axis perm[i]."""

    perm: tuple[int, ...]

    def run(self, x: np.ndarray) -> np.ndarray:
        """int8 with permuted axes."""
        return np.ascontiguousarray(x.transpose(self.perm))
