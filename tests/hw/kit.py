"""What the tests of the hardware share: running a simulation, offers that must be held, random stalls."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from amaranth.hdl import Value
from amaranth.lib.wiring import Component
from amaranth.sim import Simulator

from systolith.hw.build import VerilogPlatform, component_text
from systolith.tooling.cache import Cache

__all__ = ["STALLS", "Held", "accepted", "as_bits", "chance", "collect", "send", "simulate", "verilog_text"]

#: A coroutine of the simulator's.
Bench = Callable[[Any], Awaitable[None]]
#: Probabilities that the giver and the taker of a stream rest in a cycle.
STALLS = [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5), (0.1, 0.9)]


def simulate(
    design: Any,
    *benches: Bench,
    beside: Sequence[Bench] = (),
    processes: Sequence[Bench] = (),
    seed: object = None,
) -> None:
    """Run a design until every bench has returned.

    Parameters
    ----------
    design : Elaboratable          with a clock, or without one
    benches : async (ctx)          what the simulation waits for
    beside : sequence              testbenches that may run for ever
    processes : sequence           processes, which answer within a cycle like logic does
    seed                           every random choice of the benches follows from it; named where one fails
    """
    simulator = Simulator(design)
    simulator.add_clock(1e-6, if_exists=True)
    for process in processes:
        simulator.add_process(process)
    for bench in beside:
        simulator.add_testbench(bench, background=True)
    for bench in benches:
        simulator.add_testbench(bench)
    try:
        simulator.run()
    except AssertionError as error:
        if seed is not None:
            error.add_note(f"seed {seed}")
        raise


def verilog_text(component: Component, platform: VerilogPlatform | None = None) -> str:
    """A component's own Verilog, without what its memories become (see `VerilogPlatform.sources`)."""
    with Cache().scratch("dut") as work:
        return component_text(component, "dut", platform or VerilogPlatform(), work)


def as_bits(value: Any) -> Value:
    """A signal, or a view as the bits below it."""
    return Value.cast(value)


def chance(rng: random.Random, probability: float) -> bool:
    """Whether something happens that has this probability; a probability of 0 draws no number."""
    return probability > 0 and rng.random() < probability


class Held:
    """Checks that an offer stays, with its payload, until it is taken.

    Parameters
    ----------
    what : str   names the offer in the message
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._waits = False
        self._payload: object = None

    def check(self, valid: object, ready: object, payload: object) -> None:
        """One clock cycle.

        Raises
        ------
        AssertionError   If the offer of the cycle before was not taken, and is another one now.
        """
        assert not self._waits or (valid and payload == self._payload), (
            f"{self._what} changed while it waited"
        )
        self._waits, self._payload = bool(valid and not ready), payload


async def accepted(ctx: Any, stream: Any) -> None:
    """Wait until an offer is taken (unlike `until`, this may be abandoned at the end of a simulation)."""
    ready = False
    while not ready:
        *_, ready = await ctx.tick().sample(stream.ready)


async def send(
    ctx: Any,
    stream: Any,
    payloads: Iterable[Any],
    rng: random.Random,
    gap: float = 0.0,
    taken: Callable[[], object] = lambda: None,
) -> None:
    """Offer payloads one after another.

    Parameters
    ----------
    payloads : iterable    values of the payload, or all of its bits as an integer
    gap : float            probability of a cycle without an offer and with any payload
    taken : function       called in the cycle in which each is taken
    """
    bits = as_bits(stream.payload)
    for payload in payloads:
        while chance(rng, gap):
            ctx.set(bits, rng.getrandbits(len(bits)))
            await ctx.tick()
        ctx.set(bits if isinstance(payload, int) else stream.payload, payload)
        ctx.set(stream.valid, 1)
        await accepted(ctx, stream)
        taken()
        ctx.set(stream.valid, 0)


def collect(stream: Any, into: list[Any]) -> Bench:
    """A testbench that puts every payload of a stream without `ready` into a list, for ever."""

    async def bench(ctx: Any) -> None:
        async for _, _, valid, payload in ctx.tick().sample(stream.valid, stream.payload):
            if valid:
                into.append(payload)

    return bench
