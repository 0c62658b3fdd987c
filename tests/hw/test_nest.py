"""Loops whose ends are known from registers, against Python's own."""

import itertools
import random

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systolith.hw.leaf.nest import Nest
from tests.hw.kit import simulate

LOOPS = {"inner": 3, "middle": 1, "outer": 2}
COUNTS = data.StructLayout(LOOPS)


class Counter(wiring.Component):
    """A nest with its counts, begun and stepped from outside, both at once too."""

    def __init__(self) -> None:
        super().__init__(
            {
                "begin": In(1),
                "step": In(1),
                "counts": In(COUNTS),
                "last": Out(len(LOOPS)),
                "ends": Out(len(LOOPS)),
                "following": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        nest = Nest(m, LOOPS, "nest")
        held = Signal(COUNTS)
        with m.If(self.step):
            m.d.comb += self.following.eq(nest.step(held))
        with m.If(self.begin):
            m.d.comb += self.following.eq(nest.begin(self.counts))
            m.d.sync += held.eq(self.counts)
        for index, (last, ends) in enumerate(zip(nest.last.values(), nest.ends.values(), strict=True)):
            m.d.comb += [self.last[index].eq(last), self.ends[index].eq(ends)]
        return m


@pytest.mark.parametrize("seed", range(3))
def test_ends_are_those_of_nested_loops(seed):
    rng = random.Random(seed)
    dut = Counter()

    async def bench(ctx):
        async def tick(**inputs) -> bool:
            """One cycle; returns what `following` foretold in it."""
            for name, value in inputs.items():
                ctx.set(getattr(dut, name), value)
            told = ctx.get(dut.following)
            await ctx.tick()
            for name in ("begin", "step"):
                ctx.set(getattr(dut, name), 0)
            return told

        def draw() -> dict[str, int]:
            # Loops of a single round are as frequent as all others.
            return {name: rng.choice((0, rng.randrange(1 << bits))) for name, bits in LOOPS.items()}

        counts = draw()
        told = await tick(begin=1, counts=counts)
        for _ in range(60):
            rounds = [
                dict(zip(reversed(LOOPS), at, strict=True))
                for at in itertools.product(*(range(counts[name] + 1) for name in reversed(LOOPS)))
            ]
            following = draw()
            for index, at in enumerate(rounds):
                while rng.random() < 0.3:
                    await tick()
                last = [at[name] == counts[name] for name in LOOPS]
                where = f"seed {seed}, {counts}, {at}"
                assert ctx.get(dut.last) == sum(flag << i for i, flag in enumerate(last)), where
                assert ctx.get(dut.ends) == sum(all(last[: i + 1]) << i for i in range(len(last))), where
                assert told == all(last), where
                final = index == len(rounds) - 1
                told = await tick(step=1, begin=final, counts=following)
            counts = following

    simulate(dut, bench, seed=seed)
