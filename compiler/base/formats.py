"""Formats of int8: the scale and zero point that cover a range, and weights with one scale per channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Format", "quantised_weights"]

#: Smallest range that has steps; below it the scale is 1, and every value is zero.
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True)
class Format:
    """int8: real = scale * (q - zero), the scale a float32."""

    scale: float
    zero: int

    @classmethod
    def covering(cls, low: float, high: float) -> Format:
        """255 steps from `low` to `high`, zero among them."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / 255
        if not _TINY <= scale < np.inf:
            return cls(1.0, 0)
        zero = int(np.clip(np.rint(-128 - low / scale), -128, 127))
        return cls(float(np.float32(scale)), zero)

    @classmethod
    def of(cls, array: np.ndarray) -> Format:
        """The least range that holds an array's finite values."""
        finite = array[np.isfinite(array)]
        return cls.covering(float(finite.min(initial=0.0)), float(finite.max(initial=0.0)))


def quantised_weights(array: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 weights from -127 to 127, and one float64 scale per index of `axis`."""
    moved = np.moveaxis(array, axis, 0)
    largest = np.abs(moved.reshape(len(moved), -1)).max(axis=1, initial=0.0).astype(np.float64)
    scale = (largest / 127).astype(np.float32)
    scale[scale < _TINY] = 1.0
    along = scale.reshape(-1, *[1] * (array.ndim - 1))
    ints = np.clip(np.rint(moved / along), -127, 127).astype(np.int8)
    return np.moveaxis(ints, 0, axis), scale.astype(np.float64)
