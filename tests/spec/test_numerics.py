"""Rounding, scales and saturation against exact fractions."""

import random
from fractions import Fraction

import numpy as np
import pytest

from systolith.spec.numerics import (
    FixedFormat,
    Rounding,
    ScaleError,
    approximate_pair,
    approximate_scale,
    requantise,
    round_shift,
    table_index,
)

SEED = 3


def test_round_shift_is_exact():
    rng = random.Random(SEED)
    cases = [(v, s) for s in range(6) for v in range(-70, 70)]
    cases += [(rng.randint(-(2**47), 2**47), rng.randint(0, 62)) for _ in range(2000)]
    for value, shift in cases:
        exact = Fraction(value, 1 << shift)
        assert round_shift(value, shift) == round(exact), (SEED, value, shift)
        assert round_shift(value, shift, Rounding.FLOOR) == exact.__floor__(), (SEED, value, shift)
        assert round_shift(value, shift, Rounding.HALF_UP) == (exact + Fraction(1, 2)).__floor__(), (
            SEED,
            value,
            shift,
        )
    values, shifts = (np.array(c, dtype=np.int64) for c in zip(*cases, strict=True))
    assert round_shift(values, shifts).tolist() == [round_shift(v, s) for v, s in cases]


def test_requantise_saturates_after_the_zero_point():
    assert requantise(5, 1 << 15, 16, 0) == 2
    assert requantise(7, 1 << 15, 16, 0) == 4
    assert requantise(-(2**31), 65535, 15, 100) == -128
    assert requantise(2**31 - 1, 65535, 15, -100, high=6) == 6


def test_scales():
    rng = random.Random(SEED)
    for _ in range(500):
        scale = rng.uniform(0.5, 1) * 2.0 ** rng.randint(-40, 14)
        mult, shift = approximate_scale(scale)
        assert 2**15 <= mult < 2**16
        assert abs(Fraction(mult, 1 << shift) / Fraction(scale) - 1) <= Fraction(1, 2**16), (SEED, scale)
    assert approximate_scale(0.99999999) == (1 << 15, 15)
    a, b, shift = approximate_pair(-0.75, 0.25)
    assert (Fraction(a, 1 << shift), Fraction(b, 1 << shift)) == (Fraction(-3, 4), Fraction(1, 4))


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (0, r"^Scale must be positive and finite, not 0$"),
        (float("nan"), r"^Scale must be positive and finite, not nan$"),
        (2.0**16, r"^Scale 65536 is too large: it must be below 2\*\*16$"),
        (2.0**-60, r"^Scale .* is too small: its shift of 75 exceeds 63$"),
    ],
)
def test_scale_refusals(scale, message):
    with pytest.raises(ScaleError, match=message):
        approximate_scale(scale)


def test_formats_and_table_index():
    assert FixedFormat(8, 4).quantise(100) == 127 and FixedFormat(8, 4).quantise(-1.5) == -24
    assert FixedFormat(8, signed=False).max == 255
    assert [table_index(v) for v in (-128, -1, 0, 127)] == [128, 255, 0, 127]
    with pytest.raises(ValueError, match=r"^Width must be a positive number of bits, not 0$"):
        FixedFormat(0)
