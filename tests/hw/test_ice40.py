"""Multipliers of the iCE40 in plain logic: every product."""

import itertools
import random

import pytest

from systolith.hw.leaf.ice40 import PairMultiplier, WideMultiplier
from tests.hw.kit import simulate


@pytest.mark.parametrize("logic", [False, True])
def test_pairs_of_products(logic):
    dut = PairMultiplier(logic=logic)
    seed = 1
    rng = random.Random(seed)
    ends = (-128, -127, -1, 0, 1, 127)
    # Each first factor with a random partner of each second one, and all ends with all ends.
    cases = [
        ((a, rng.randint(-128, 127)), (b, rng.randint(-128, 127)))
        for a in range(-128, 128)
        for b in rng.sample(range(-128, 128), 12)
    ]
    cases += [((a, c), (b, d)) for a, b, c, d in itertools.product(ends, repeat=4)]

    async def body(ctx):
        ctx.set(dut.take, 1)
        for a, b in cases:
            for port, (low, high) in ((dut.a, a), (dut.b, b)):
                ctx.set(port, (low & 255) | (high & 255) << 8)
            await ctx.tick()
            assert ctx.get(dut.o) == a[0] * b[0] + a[1] * b[1], f"{a} * {b}"
        # Without `take` the second factors stay.
        ctx.set(dut.take, 0)
        ctx.set(dut.b, 0)
        await ctx.tick()
        assert ctx.get(dut.o) == a[0] * b[0] + a[1] * b[1]

    simulate(dut, body, seed=seed)


def test_wide_products():
    dut = WideMultiplier()
    seed = 2
    rng = random.Random(seed)

    async def body(ctx):
        ctx.set(dut.take, 1)
        for _ in range(200):
            a, b, c = (rng.choice((0, 1, 0xFFFF, rng.getrandbits(16))) for _ in range(3))
            for port, value in ((dut.a, a), (dut.b, b), (dut.c, c)):
                ctx.set(port, value)
            await ctx.tick()
            assert ctx.get(dut.o) == a * b + c

    simulate(dut, body, seed=seed)
