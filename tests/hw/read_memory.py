"""A memory behind a `ReadSignature`, for blocks that are tested without an AXI bus."""

import random
from collections import deque

from systolith.hw.soc.axi import PAGE_BYTES
from systolith.spec.memory import BURST_BEATS
from tests.hw.kit import Held, chance

__all__ = ["ReadMemory"]


class ReadMemory:
    """Serves bursts in order, and checks each: at most `BURST_BEATS` beats, inside the memory and a page.

    Parameters
    ----------
    bus : ReadSignature          from the initiator's side
    contents : bytes             from address `base` on
    latency : int                cycles from a burst to its first beat, at least 1
    stall : float                probability that a burst is not taken in a cycle, and that no beat comes
    bad : range                  addresses whose beats are errors
    always_taken : bool          the initiator promises to take each beat at once
    """

    def __init__(
        self, bus, contents, *, base=0, latency=1, stall=0.0, seed=0, bad=range(0), always_taken=False
    ):
        self._bus, self._contents, self._base, self._bad = bus, contents, base, bad
        self._latency, self._stall, self._always_taken = latency, stall, always_taken
        self._random = random.Random(f"memory {seed}")
        self._bytes = len(bus.beats.payload.data) // 8
        #: Address and beats of each burst that was taken, and the cycle.
        self.bursts: list[tuple[int, int, int]] = []
        self.frozen = False
        self.under_way = 0

    def _take(self, addr, beats, cycle):
        size = beats * self._bytes
        assert beats <= BURST_BEATS and addr % self._bytes == 0, f"burst of {beats} beats at {addr:#x}"
        assert addr // PAGE_BYTES == (addr + size - 1) // PAGE_BYTES, f"burst at {addr:#x} crosses a page"
        assert self._base <= addr and addr + size <= self._base + len(self._contents), (
            f"burst at {addr:#x} is outside"
        )
        self.bursts.append((addr, beats, cycle))

    async def run(self, ctx):
        """For ever; a testbench."""
        bus, rng = self._bus, self._random
        due: deque[tuple[int, int, bool]] = deque()
        held = Held("a burst")
        offered = False
        cycle = 0
        while True:
            ready = not self.frozen and not chance(rng, self._stall)
            ctx.set(bus.bursts.ready, ready)
            if (
                not offered
                and due
                and due[0][0] <= cycle
                and not self.frozen
                and not chance(rng, self._stall)
            ):
                offered = True
                _, addr, last = due[0]
                at = addr - self._base
                word = int.from_bytes(self._contents[at : at + self._bytes], "little")
                ctx.set(bus.beats.payload, {"data": word, "error": addr in self._bad, "last": last})
            elif not offered:
                # What is no beat may have any bits.
                ctx.set(bus.beats.payload, {"data": rng.getrandbits(8 * self._bytes), "error": 1, "last": 1})
            ctx.set(bus.beats.valid, offered)
            _, _, begins, addr, length, taken = await ctx.tick().sample(
                bus.bursts.valid, bus.bursts.payload.addr, bus.bursts.payload.len, bus.beats.ready
            )
            held.check(begins, ready, (addr, length))
            assert taken or not (offered and self._always_taken), "a beat was not taken at once"
            if offered and taken:
                offered = False
                self.under_way -= due.popleft()[2]
            if begins and ready:
                self._take(addr, length + 1, cycle)
                self.under_way += 1
                due.extend(
                    (cycle + self._latency, addr + beat * self._bytes, beat == length)
                    for beat in range(length + 1)
                )
            cycle += 1
