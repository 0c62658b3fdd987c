"""Fixed-point formats, rounding and saturation: the one definition that hardware, reference and compiler
share.

Standard library only. Every function takes Python integers; the ones that are pure arithmetic (`round_shift`,
`saturate`, `requantise`) also accept NumPy ``int64`` arrays, element by element, so that the reference
computes with the very same code. See ``docs/numerics.md``.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

from systolith.spec.errors import SystolithError

__all__ = [
    "ACC",
    "BIAS",
    "INT8",
    "Integers",
    "MULT_BITS",
    "PARAM_BYTES",
    "PARAM_FIELDS",
    "SHIFT_BITS",
    "TABLE_SIZE",
    "VECTOR_MULT",
    "FixedFormat",
    "Rounding",
    "ScaleError",
    "approximate_pair",
    "approximate_scale",
    "requantise",
    "round_half_even",
    "round_shift",
    "saturate",
    "table_index",
]

#: An int, or a NumPy int64 array, element by element; NumPy's name may not stand in this package.
Integers: TypeAlias = Any


class Rounding(enum.Enum):
    """How the bits below the binary point are dropped."""

    #: Nearest; ties go to the even neighbour (ONNX QuantizeLinear, IEEE 754 default).
    HALF_EVEN = "half_even"
    #: Nearest; ties go towards plus infinity.
    HALF_UP = "half_up"
    #: Towards minus infinity.
    FLOOR = "floor"


@dataclass(frozen=True, slots=True)
class FixedFormat:
    """A two's-complement or unsigned fixed-point format: value = raw * 2**-frac.

    Parameters
    ----------
    width : int    bits, sign included, at least 1
    frac : int     bits below the binary point; may be negative or larger than `width`
    signed : bool  two's complement if true

    Raises
    ------
    ValueError   If the width is not positive.
    """

    width: int
    frac: int = 0
    signed: bool = True

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"Width must be a positive number of bits, not {self.width!r}")

    @property
    def min(self) -> int:
        """Smallest raw value."""
        return -(1 << (self.width - 1)) if self.signed else 0

    @property
    def max(self) -> int:
        """Largest raw value."""
        return (1 << (self.width - self.signed)) - 1

    def quantise(self, value: float | Fraction) -> int:
        """Nearest raw value (ties to even), saturated."""
        raw: int = saturate(round_half_even(Fraction(value) * Fraction(2) ** self.frac), self.min, self.max)
        return raw

    def to_float(self, raw: int) -> float:
        """The value that a raw integer stands for."""
        return math.ldexp(raw, -self.frac)


#: Activations and weights (the scale and zero point travel with the tensor).
INT8 = FixedFormat(8)
#: Accumulators.
ACC = FixedFormat(32)
#: Bias, in units of the accumulator.
BIAS = FixedFormat(32)
#: Width of the unsigned multiplier of the output stage; normalised to [2**15, 2**16).
MULT_BITS = 16
#: Width of a right-shift amount.
SHIFT_BITS = 6
#: Signed multipliers of the vector unit.
VECTOR_MULT = FixedFormat(17)
#: One channel in the parameter SRAM, from bit 0: (name, bits, signed). A whole number of bytes.
PARAM_FIELDS = (
    ("bias", BIAS.width, True),
    ("mult", MULT_BITS, False),
    ("shift", SHIFT_BITS, False),
    ("reserved", 10, False),
)
#: Bytes of one channel in the parameter SRAM.
PARAM_BYTES = sum(bits for _, bits, _ in PARAM_FIELDS) // 8
#: Entries of a table over one int8 operand.
TABLE_SIZE = 256


class ScaleError(SystolithError, ValueError):
    """A real scale that the integer multiplier and shift cannot represent."""


def round_half_even(value: Fraction | float) -> int:
    """Nearest integer of an exact value; ties to even."""
    return round(Fraction(value))


def round_shift(value: Integers, shift: Integers, rounding: Rounding = Rounding.HALF_EVEN) -> Integers:
    """``value / 2**shift`` rounded to an integer, in integers only.

    Parameters
    ----------
    value : int or int64 array
    shift : int or int64 array of the same shape, 0 to 63; as an array with ``abs(value) < 2**62``
    """
    if rounding is Rounding.FLOOR:
        return value >> shift
    # Shift 0 has no half: (1 << 0) >> 1 == 0. In an array, 1 << 63 would be negative.
    some = shift > 0
    half = (1 << shift) >> 1 if isinstance(shift, int) else ((shift * 0 + 1) << (shift - some)) * some
    if rounding is Rounding.HALF_UP:
        return (value + half) >> shift
    # Ties to even: add one less than half, plus the bit that will become the lowest one.
    odd = (value >> shift) & 1
    has_fraction = (half > 0) * 1 if not isinstance(half, int) else int(half > 0)
    return (value + (half - 1 + odd) * has_fraction) >> shift


def saturate(value: Integers, low: int, high: int) -> Integers:
    """Clamp to ``[low, high]``."""
    if isinstance(value, int):
        return min(max(value, low), high)
    return value.clip(low, high)


def requantise(
    acc: Integers, mult: Integers, shift: Integers, zero: int, low: int = INT8.min, high: int = INT8.max
) -> Integers:
    """``saturate(zero + round_half_even(acc * mult / 2**shift))``: int32 accumulator to int8.

    The zero point is added after rounding, which is ONNX QuantizeLinear's own rule.
    """
    return saturate(round_shift(acc * mult, shift) + zero, low, high)


def approximate_scale(scale: float | Fraction, bits: int = MULT_BITS) -> tuple[int, int]:
    """``(mult, shift)`` with ``mult / 2**shift`` nearest to `scale` and ``2**(bits-1) <= mult < 2**bits``.

    Raises
    ------
    ScaleError   If the scale is not positive and finite, is 2**bits or more, or needs a shift over 6 bits.
    """
    if not math.isfinite(scale) or scale <= 0:
        raise ScaleError(f"Scale must be positive and finite, not {scale!r}")
    exact = Fraction(scale)
    shift = bits - (math.frexp(float(exact))[1])
    mult = round_half_even(exact * Fraction(2) ** shift)
    if mult == 1 << bits:
        mult, shift = mult >> 1, shift - 1
    if shift < 0:
        raise ScaleError(f"Scale {float(scale):g} is too large: it must be below 2**{bits}")
    if shift >= 1 << SHIFT_BITS:
        raise ScaleError(
            f"Scale {float(scale):g} is too small: its shift of {shift} exceeds {(1 << SHIFT_BITS) - 1}"
        )
    return mult, shift


def approximate_pair(a: float | Fraction, b: float | Fraction) -> tuple[int, int, int]:
    """``(mult_a, mult_b, shift)`` for ``a*x + b*y`` with one common shift; the signs of `a` and `b` are kept.

    Raises
    ------
    ScaleError   If the larger magnitude does not fit `approximate_scale`.
    """
    _, shift = approximate_scale(max(abs(Fraction(a)), abs(Fraction(b))))
    factor = Fraction(2) ** shift
    return round_half_even(Fraction(a) * factor), round_half_even(Fraction(b) * factor), shift


def table_index(value: int) -> int:
    """Where the entry for an int8 operand stands in its table: two's complement read as unsigned."""
    return value & (TABLE_SIZE - 1)
