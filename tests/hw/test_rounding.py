"""Rounding and clamping in hardware against `spec.numerics`."""

import random

import numpy as np
import pytest
from amaranth.hdl import Module, Signal, signed

from systolith.hw.leaf.rounding import add_clamp, round_saturate, shift_coarse, shift_fine
from systolith.spec import numerics
from tests.hw.kit import simulate


def values_for(width, shift, rng):
    """Zero, both ends, and the neighbourhood of ties: half, one and a half, ... of a unit, on both sides."""
    low, high = -(1 << (width - 1)), (1 << (width - 1)) - 1
    half = (1 << shift) >> 1
    near = [
        sign * half * odd + step
        for odd in (1, 3, 5, 255, 257, 65533, 65535)
        for sign in (1, -1)
        for step in (-1, 0, 1)
    ]
    return [
        v
        for v in (0, 1, -1, low, low + 1, high, *near, *(rng.randint(low, high) for _ in range(4)))
        if low <= v <= high
    ]


@pytest.mark.parametrize(("width", "bits"), [(36, 11), (49, 16)])
def test_round_shift_is_half_even_for_every_shift(width, bits):
    seed = 11
    rng = random.Random(seed)
    m = Module()
    value, shift = Signal(signed(width)), Signal(numerics.SHIFT_BITS)
    result = round_saturate(m, shift_fine(m, shift_coarse(m, value, shift, "dut"), shift, "dut"), "dut", bits)

    async def bench(ctx):
        for amount in range(1 << numerics.SHIFT_BITS):
            ctx.set(shift, amount)
            for v in values_for(width, amount, rng):
                ctx.set(value, v)
                expected = numerics.saturate(
                    numerics.round_shift(v, amount), -(1 << bits - 1), (1 << bits - 1) - 1
                )
                assert ctx.get(result) == expected, f"seed {seed}: {v} >> {amount}"

    simulate(m, bench, seed=seed)


def test_arrays_round_like_integers_for_every_shift():
    rng = random.Random(12)
    for amount in range(1 << numerics.SHIFT_BITS):
        values = values_for(49, amount, rng)
        found = numerics.round_shift(np.array(values), np.full(len(values), amount))
        assert found.tolist() == [numerics.round_shift(v, amount) for v in values], amount
        assert numerics.round_shift(np.array(values), np.int64(amount)).tolist() == found.tolist(), amount


def test_add_clamp_adds_then_bounds_from_below_then_from_above():
    m = Module()
    value, zero, low, high = Signal(signed(11)), Signal(signed(8)), Signal(signed(8)), Signal(signed(8))
    result = add_clamp(m, value, zero, low, high, "dut")
    ends = (-128, -3, 0, 5, 127)

    async def bench(ctx):
        for z in ends:
            for lo in ends:
                for hi in ends:
                    for v in (-1024, -300, -4, 0, 6, 130, 1023):
                        for signal, number in ((value, v), (zero, z), (low, lo), (high, hi)):
                            ctx.set(signal, number)
                        assert ctx.get(result) == numerics.saturate(v + z, lo, hi), (
                            f"{v} + {z} in [{lo}, {hi}]"
                        )

    simulate(m, bench)
