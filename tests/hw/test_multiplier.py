# amaranth: UnusedElaboratable=no
"""The multiplier with registers before and behind, against Python's product. Its DSP block is tested where
cells have models: tests/sim/test_cells.py."""

import itertools
import random

import pytest
from amaranth.hdl import Module, Shape, Signal, signed, unsigned

from systolith.hw.leaf.multiplier import registered_product
from tests.hw.kit import chance, simulate

SHAPES = [
    (signed(4), signed(4)),
    (unsigned(4), signed(3)),
    (unsigned(3), unsigned(4)),
    (signed(17), signed(17)),
    (signed(32), unsigned(16)),
]


def limits(shape):
    """Smallest and largest value of a shape."""
    shape = Shape.cast(shape)
    half = 1 << shape.width - shape.signed
    return (-half if shape.signed else 0), half - 1


def operands(shapes, rng):
    """All pairs of two narrow shapes in random order; ends and random values of wide ones."""
    ranges = [limits(shape) for shape in shapes]
    if sum(Shape.cast(shape).width for shape in shapes) <= 8:
        pairs = list(itertools.product(*(range(low, high + 1) for low, high in ranges)))
        rng.shuffle(pairs)
        return pairs
    return [
        tuple(
            rng.choice((low, high, 0, rng.randint(low, high), rng.randint(low, high))) for low, high in ranges
        )
        for _ in range(300)
    ]


@pytest.mark.parametrize("holds", [0.0, 0.5])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_a_product_every_cycle_two_cycles_later(shapes, holds):
    seed = f"{shapes} {holds}"
    rng = random.Random(seed)
    m = Module()
    a, b = (Signal(shape) for shape in shapes)
    take = Signal(init=1)
    product = registered_product(m, None, a, b, "product", take=take if holds else None)
    pairs = operands(shapes, rng)

    async def bench(ctx):
        expected = []
        held = 0
        for cycle, (first, second) in enumerate(pairs):
            takes = not chance(rng, holds)
            ctx.set(take, takes)
            ctx.set(a, first)
            ctx.set(b, second)
            held = second if takes else held
            expected.append(first * held)
            if cycle >= 2:
                assert ctx.get(product) == expected[cycle - 2], f"cycle {cycle}"
            await ctx.tick()

    simulate(m, bench, seed=seed)


def test_the_product_has_room_for_both_ends():
    for shapes in SHAPES:
        m = Module()
        product = registered_product(m, None, *(Signal(shape) for shape in shapes), "product")
        low, high = limits(product.shape())
        corners = [a * b for a, b in itertools.product(*(limits(shape) for shape in shapes))]
        assert low <= min(corners) and max(corners) <= high
