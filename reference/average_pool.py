"""Mean over windows, NCHW: a sum, and a scale that depends on how many elements the window really covers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from systolith.reference.conv import windows
from systolith.reference.graph import Op, Requant
from systolith.reference.requantise import requantise

__all__ = ["AveragePool"]


@dataclass(frozen=True, eq=False, kw_only=True)
class AveragePool(Op):
    """``requants[count](sum(x - x_zero))`` with `count` the number of elements that divide the sum.

    Parameters
    ----------
    kernel, strides, dilations : (int, int)
    pads : (top, left, bottom, right)      ceil_mode is already part of bottom and right
    counts_y : int array [OH]              elements of the window that count, per output row
    counts_x : int array [OW]              the same per output column; the divisor is counts_y[y] *
               counts_x[x]
    x_zero : int
    requants : dict of count -> Requant    scale x_scale / (count * y_scale)
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    counts_y: np.ndarray
    counts_x: np.ndarray
    x_zero: int
    requants: dict[int, Requant]

    def sums(self, x: np.ndarray) -> np.ndarray:
        """int64 sums [N, C, OH, OW]."""
        x4 = x[:, :, None, :] if x.ndim == 3 else x
        n, c, h, w = x4.shape
        top, left, bottom, right = self.pads
        padded = np.zeros((n, c, h + top + bottom, w + left + right), np.int64)
        padded[:, :, top : top + h, left : left + w] = x4.astype(np.int64) - self.x_zero
        sums: np.ndarray = windows(padded, self.kernel, self.strides, self.dilations).sum(axis=(4, 5))
        return sums

    def run(self, x: np.ndarray) -> np.ndarray:
        """int8 [N, C, OH, OW], or [N, C, OL] for a 3-D input."""
        sums = self.sums(x)
        counts = np.multiply.outer(self.counts_y, self.counts_x)
        y = np.empty(sums.shape, np.int8)
        for count, requant in self.requants.items():
            where = counts == count
            y[:, :, where] = requantise(sums[:, :, where], requant)
        return y[:, :, 0, :] if x.ndim == 3 else y

    def macs(self, *shapes: tuple[int, ...]) -> int:
        """Additions, counted as multiply-accumulates by one."""
        (x,) = shapes
        return int(x[0] * x[1] * len(self.counts_y) * len(self.counts_x) * np.prod(self.kernel))

    def with_table(self, table: np.ndarray) -> Op:
        """The same operator, its result looked up."""
        return replace(
            self, requants={count: requant.with_table(table) for count, requant in self.requants.items()}
        )

    def ties(self, x: np.ndarray) -> np.ndarray:
        """Where a sum divides to a half."""
        sums = self.sums(x)
        counts = np.multiply.outer(self.counts_y, self.counts_x)
        ties: np.ndarray = (2 * sums % counts == 0) & (2 * sums // counts % 2 == 1)
        return ties[:, :, 0, :] if x.ndim == 3 else ties

    def padded(self, pads: tuple[int, int, int, int], fill: int) -> Op | None:
        """The same operator with larger pads, where its own hold `fill` too."""
        if fill != self.x_zero:
            return None
        top, left, bottom, right = (own + more for own, more in zip(self.pads, pads, strict=True))
        return replace(self, pads=(top, left, bottom, right))
