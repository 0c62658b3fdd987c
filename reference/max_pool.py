"""Maximum over windows, NCHW; padding never wins."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from systolith.reference.conv import windows
from systolith.reference.graph import Op
from systolith.reference.requantise import joined, lookup

__all__ = ["MaxPool"]


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool(Op):
    """Input and output share scale and zero point, unless `table` maps the maximum to another.

    Parameters
    ----------
    kernel, strides, dilations : (int, int)
    pads : (top, left, bottom, right)   ceil_mode is already part of bottom and right
    table : int8 array of 256 or None
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    table: np.ndarray | None = None

    def run(self, x: np.ndarray) -> np.ndarray:
        """int8 [N, C, OH, OW], or [N, C, OL] for a 3-D input."""
        x4 = x[:, :, None, :] if x.ndim == 3 else x
        top, left, bottom, right = self.pads
        padded = np.pad(x4, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=-128)
        y = lookup(windows(padded, self.kernel, self.strides, self.dilations).max(axis=(4, 5)), self.table)
        return y[:, :, 0, :] if x.ndim == 3 else y

    def with_table(self, table: np.ndarray) -> Op:
        """The same operator, its result looked up."""
        return replace(self, table=joined(self.table, table))

    def padded(self, pads: tuple[int, int, int, int], fill: int) -> Op | None:
        """The same operator with larger pads, where its own hold `fill` too."""
        if fill != -128:
            return None
        top, left, bottom, right = (own + more for own, more in zip(self.pads, pads, strict=True))
        return replace(self, pads=(top, left, bottom, right))
