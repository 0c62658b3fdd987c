"""The register slice against a queue of two places, cycle by cycle."""

import random
from collections import deque

import pytest
from amaranth.hdl import ResetInserter, Signal, signed
from amaranth.lib import data

from systolith.hw.leaf.stream_register import StreamRegister
from tests.hw.kit import STALLS, as_bits, chance, simulate

PAIR = data.StructLayout({"tag": 3, "value": signed(13)})


def run(shape, cycles, seed, *, gap, stall, reset=0.0):
    """Random offers and stalls; returns what came out, with the cycles in which it went in and came out."""
    dut, restart = StreamRegister(shape), Signal()
    given, taken = as_bits(dut.i.payload), as_bits(dut.o.payload)
    moved = []

    async def bench(ctx):
        rng = random.Random(seed)
        queue, offer = deque(), None
        for cycle in range(cycles):
            if offer is None and not chance(rng, gap):
                offer = rng.getrandbits(len(given))
            restarts, ready = chance(rng, reset), not chance(rng, stall)
            ctx.set(restart, restarts)
            ctx.set(dut.i.valid, offer is not None)
            ctx.set(given, rng.getrandbits(len(given)) if offer is None else offer)
            before = ctx.get(dut.i.ready), ctx.get(dut.o.valid)
            ctx.set(dut.o.ready, ready)
            # No path goes through: what it says does not depend on what it is told in the same cycle.
            assert (ctx.get(dut.i.ready), ctx.get(dut.o.valid)) == before, f"cycle {cycle}"
            assert before == (len(queue) < 2, len(queue) > 0), f"cycle {cycle}: holds {len(queue)}"
            if queue:
                assert ctx.get(taken) == queue[0][0], f"cycle {cycle}"
            room = len(queue) < 2
            if queue and ready:
                moved.append((*queue.popleft(), cycle))
            if offer is not None and room:
                queue.append((offer, cycle))
                offer = None
            if restarts:
                queue.clear()
                offer = None
            await ctx.tick()

    simulate(ResetInserter(restart)(dut), bench, seed=seed)
    return moved


@pytest.mark.parametrize(("gap", "stall"), STALLS)
@pytest.mark.parametrize("shape", [1, 8, PAIR], ids=str)
def test_equals_a_queue_of_two(shape, gap, stall):
    moved = run(shape, 400, f"{shape} {gap} {stall}", gap=gap, stall=stall)
    assert len(moved) > 25


def test_a_transfer_per_cycle_one_cycle_later():
    moved = run(8, 50, "rate", gap=0.0, stall=0.0)
    assert [(came, went) for _, came, went in moved] == [(cycle, cycle + 1) for cycle in range(49)]


@pytest.mark.parametrize("seed", range(3))
def test_a_reset_empties_it(seed):
    assert run(8, 400, f"reset {seed}", gap=0.3, stall=0.5, reset=0.1)
