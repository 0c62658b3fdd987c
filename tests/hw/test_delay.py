# amaranth: UnusedElaboratable=no
"""Delay lines, and registers that are held more than once."""

import random

import pytest
from amaranth.hdl import Module, ResetInserter, Shape, Signal, signed, unsigned
from amaranth.lib import data

from systolith.hw.leaf.delay import delayed
from systolith.hw.leaf.twins import register_copies, register_twins
from tests.hw.kit import as_bits, chance, simulate

SHAPES = pytest.mark.parametrize("shape", [unsigned(1), unsigned(9), signed(7)], ids=repr)


def check(value, make, latency, seed):
    """Every signal that `make(m)` returns is the value that `value` had `latency` cycles before, resets or
    not. Returns these signals as they were before the first cycle."""
    m = Module()
    late = [as_bits(signal) for signal in make(m)]
    restart, source = Signal(), as_bits(value)
    # A register that is reset, so that there is a domain even where nothing is delayed.
    beside = Signal(8)
    m.d.sync += beside.eq(beside + 1)
    first = []

    async def bench(ctx):
        rng = random.Random(seed)
        first.extend(ctx.get(signal) for signal in late)
        history = []
        for cycle in range(120):
            ctx.set(restart, chance(rng, 0.2))
            ctx.set(source, rng.getrandbits(len(source)))
            history.append(ctx.get(source))
            if cycle >= latency:
                assert [ctx.get(signal) for signal in late] == [history[cycle - latency]] * len(late)
            await ctx.tick()

    simulate(ResetInserter(restart)(m), bench, seed=seed)
    return first


@pytest.mark.parametrize("cycles", [0, 1, 2, 5])
@pytest.mark.parametrize("shape", [unsigned(4), signed(7), data.StructLayout({"a": 3, "b": 2})], ids=repr)
def test_a_delayed_value(shape, cycles):
    value = Signal(shape)
    check(value, lambda m: [delayed(m, value, cycles, "late")], cycles, f"{shape} {cycles}")


def test_a_delay_of_nothing_is_the_value_itself_and_the_shape_stays():
    m, value = Module(), Signal(signed(7))
    assert delayed(m, value, 0, "late") is value
    late = delayed(m, value, 3, "late")
    assert late.shape() == signed(7) and late.name == "late_2"


@SHAPES
def test_twins_are_equal_after_one_cycle_and_differ_before_in_every_bit(shape):
    value = Signal(shape)
    first, second = check(value, lambda m: register_twins(m, value, "twin"), 1, f"twins {shape}")
    # Synthesis would make one register of two that begin alike.
    assert first ^ second == (-1 if Shape.cast(shape).signed else (1 << len(value)) - 1)


@pytest.mark.parametrize("count", [2, 4])
@SHAPES
def test_copies_are_equal_after_two_cycles(shape, count):
    value, made = Signal(shape), []
    check(
        value,
        lambda m: made.extend(register_copies(m, value, count, "copy")) or made,
        2,
        f"copies {shape} {count}",
    )
    assert len(made) == count == len({signal.name for signal in made})
    assert all(signal.shape() == shape for signal in made)
