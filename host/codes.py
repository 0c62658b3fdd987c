"""Tensors between the model's own types and the int8 values that the core sees."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from systolith.spec.boundary import SCALED

__all__ = ["Quantised", "dequantise", "quantise"]

#: Above it a number that stands for a bool is true.
_HALF = 0.5


class Quantised(Protocol):
    """What a tensor needs to be converted: its own shape and type, and the scale and zero point of its int8
    values."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> str: ...

    @property
    def scale(self) -> float: ...

    @property
    def zero_point(self) -> int: ...


def quantise(value: np.ndarray, io: Quantised) -> np.ndarray:
    """int8 for the core: ONNX's QuantizeLinear for a float or a bool, minus 128 for uint8, unchanged for
    int8."""
    if io.dtype in SCALED:
        # A quotient past float32's range is infinite, and saturates like every other that is too large.
        with np.errstate(over="ignore"):
            scaled = (
                np.rint(value.astype(np.float32) / np.float32(io.scale)).astype(np.float64) + io.zero_point
            )
        clipped: np.ndarray = scaled.clip(-128, 127)
        return clipped.astype(np.int8)
    if io.dtype == "uint8":
        return (value.astype(np.int16) - 128).astype(np.int8)
    return value.astype(np.int8)


def dequantise(q: np.ndarray, io: Quantised) -> np.ndarray:
    """The inverse, in the model's own type."""
    if io.dtype in SCALED:
        real = (q.astype(np.int32) - io.zero_point).astype(np.float32) * np.float32(io.scale)
        if io.dtype == "bool":
            return real > _HALF
        # A result past the range of float16 is infinite there, as a Cast gives it.
        with np.errstate(over="ignore"):
            return real.astype(io.dtype, copy=False)
    if io.dtype == "uint8":
        return (q.astype(np.int16) + 128).astype(np.uint8)
    return q
