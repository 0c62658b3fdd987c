"""A loop counter against Python's own loop."""

import random

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.hw.leaf.loop import Loop
from tests.hw.kit import chance, simulate


class Counter(wiring.Component):
    """A loop that is begun and stepped from outside, which never happens at the same time."""

    def __init__(self, bits):
        self._bits = bits
        super().__init__({"begin": In(1), "step": In(1), "count": In(bits), "last": Out(1), "nears": Out(1)})

    def elaborate(self, platform):
        m = Module()
        loop = Loop(m, self._bits, "loop")
        m.d.comb += [self.last.eq(loop.last), self.nears.eq(loop.nears)]
        with m.If(self.begin):
            loop.begin(self.count)
        with m.Elif(self.step):
            loop.step()
        return m


@pytest.mark.parametrize("gap", [0.0, 0.4])
@pytest.mark.parametrize("bits", [1, 2, 5])
def test_the_last_round_is_known_in_it_and_the_one_before_in_that(bits, gap):
    seed = f"{bits} {gap}"
    rng = random.Random(seed)
    dut = Counter(bits)
    # Every count at least once, then any; some loops are left before their end.
    counts = [*range(1 << bits), *(rng.randrange(1 << bits) for _ in range(40))]

    async def bench(ctx):
        for index, count in enumerate(counts):
            ctx.set(dut.count, count)
            ctx.set(dut.begin, 1)
            await ctx.tick()
            ctx.set(dut.begin, 0)
            rounds = count + 1 if index < 1 << bits else rng.randint(1, count + 1)
            for number in range(rounds):
                while chance(rng, gap):
                    # Only `begin` and `step` count.
                    ctx.set(dut.count, rng.randrange(1 << bits))
                    await ctx.tick()
                where = f"round {number} of {count + 1}"
                assert ctx.get(dut.last) == (number == count), where
                assert ctx.get(dut.nears) == (number == count - 1), where
                if number + 1 < rounds:
                    ctx.set(dut.step, 1)
                    await ctx.tick()
                    ctx.set(dut.step, 0)

    simulate(dut, bench, seed=seed)
