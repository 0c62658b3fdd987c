"""An SDRAM controller with its chip and an AXI4 manager, for the Amaranth simulator."""

import dataclasses
import random
from collections import deque

from amaranth.sim import Simulator

from systolith.hw.soc.sdram import SdramController
from systolith.sim.sdram import SdramChip

__all__ = ["ADDR_BITS", "Bench", "Burst", "fast_start"]

ADDR_BITS = 32
#: Cycles of power-up in simulation, where only the order of the first commands matters.
_POWER_UP_CYCLES = 20
_ADDRESS = ("addr", "len")
_PINS = ("clk_en", "cs", "ras", "cas", "we", "ba", "a", "dqm", "dq_o", "dq_oe")


def fast_start(timing):
    """The same chip with a power-up that a simulation can afford."""
    return dataclasses.replace(timing, power_up=_POWER_UP_CYCLES * 1e9 / timing.clock_hz)


@dataclasses.dataclass
class Burst:
    """One burst, and what became of it; `data` and `strobes` are beats of a write."""

    write: bool
    addr: int
    beats: int
    data: list[int] = dataclasses.field(default_factory=list)
    strobes: list[int] = dataclasses.field(default_factory=list)
    responses: list[int] = dataclasses.field(default_factory=list)
    #: Cycles: address accepted, first and last beat or response.
    accepted: int = -1
    first: int = -1
    done: int = -1

    def overlaps(self, other, bus_bytes: int) -> bool:
        return self.addr < other.addr + other.beats * bus_bytes and other.addr < self.addr + self.beats * bus_bytes


class Bench:
    """Runs bursts through a controller, each offered as soon as nothing under way depends on it.

    Parameters
    ----------
    stall : float    probability that a channel rests in a cycle, each of the five
    dut, chip        others than the timing's own, to plant faults
    """

    def __init__(self, timing, *, bus_bits, stall=0.0, seed=0, pin_cycles=0, dut=None, chip=None):
        self.bus_bytes = bus_bits // 8
        self.dut = dut or SdramController(timing, bus_bits=bus_bits, addr_bits=ADDR_BITS, pin_cycles=pin_cycles)
        self.chip = chip or SdramChip(timing, pin_cycles)
        self.random, self.stall = random.Random(f"bench {seed}"), stall
        self.cycle = 0
        self.refreshed: list[int] = []

    def run(self, bursts, *, limit=60_000, idle=0):
        """Until all bursts are done and `idle` cycles more."""
        simulator = Simulator(self.dut)
        simulator.add_clock(1e-6)
        simulator.add_process(self._chip_process)

        async def manager(ctx):
            await self._manage(ctx, bursts, limit)
            await ctx.tick().repeat(idle + 1)

        simulator.add_testbench(manager)
        simulator.run()

    async def _chip_process(self, ctx):
        pins = self.dut.pins
        while True:
            _, _, *values = await ctx.tick().sample(*(getattr(pins, name) for name in _PINS))
            ctx.set(pins.dq_i, self.chip.step(**dict(zip(_PINS, values, strict=True))))
            if self.chip.counts.refreshes > len(self.refreshed):
                self.refreshed.append(self.cycle)
            self.cycle += 1

    async def _manage(self, ctx, bursts, limit):
        axi, rests = self.dut.axi, lambda: self.random.random() < self.stall
        todo, reads, writes = deque(bursts), deque(), deque()
        offered: dict[str, Burst] = {}
        beats: deque = deque()
        held: dict[str, tuple] = {}
        w_valid = False
        for channel in ("ar", "aw"):
            ctx.set(getattr(axi, f"{channel}size"), (self.bus_bytes - 1).bit_length())
            ctx.set(getattr(axi, f"{channel}burst"), 1)
        for _ in range(limit):
            if not (todo or reads or writes or offered):
                return
            while todo:
                burst = todo[0]
                channel = "aw" if burst.write else "ar"
                # A burst waits for those of the other direction that touch its bytes; AXI promises no order between them.
                if channel in offered or any(burst.overlaps(other, self.bus_bytes) for other in (*reads, *writes, *offered.values())
                                             if other.write != burst.write) or rests():
                    break
                offered[channel] = todo.popleft()
                ctx.set(getattr(axi, f"{channel}addr"), burst.addr)
                ctx.set(getattr(axi, f"{channel}len"), burst.beats - 1)
                if burst.write:
                    beats += [(data, strobe, index == burst.beats - 1)
                              for index, (data, strobe) in enumerate(zip(burst.data, burst.strobes, strict=True))]
            for channel in ("ar", "aw"):
                ctx.set(getattr(axi, f"{channel}valid"), channel in offered)
            # Beats may come before their address is accepted.
            if beats and not w_valid and not rests():
                w_valid = True
                for name, value in zip(("wdata", "wstrb", "wlast"), beats[0], strict=True):
                    ctx.set(getattr(axi, name), value)
            ctx.set(axi.wvalid, w_valid)
            r_ready, b_ready = not rests(), not rests()
            ctx.set(axi.rready, r_ready)
            ctx.set(axi.bready, b_ready)
            _, _, ar, aw, w, r, data, r_resp, last, b, b_resp = await ctx.tick().sample(
                axi.arready, axi.awready, axi.wready, axi.rvalid, axi.rdata, axi.rresp, axi.rlast, axi.bvalid, axi.bresp)
            for channel, valid, ready, payload in (("r", r, r_ready, (data, r_resp, last)), ("b", b, b_ready, (b_resp,))):
                assert channel not in held or (valid and held[channel] == payload), f"{channel} changed while it waited"
                held.pop(channel, None)
                if valid and not ready:
                    held[channel] = payload
            for channel, ready, queue in (("ar", ar, reads), ("aw", aw, writes)):
                if channel in offered and ready:
                    burst = offered.pop(channel)
                    burst.accepted = self.cycle
                    queue.append(burst)
            if w_valid and w:
                beats.popleft()
                w_valid = False
            if r and r_ready:
                burst = reads[0]
                burst.first = self.cycle if not burst.data else burst.first
                burst.data.append(data)
                burst.responses.append(r_resp)
                assert last == (len(burst.data) == burst.beats), "rlast is not with the last beat"
                if last:
                    reads.popleft().done = self.cycle
            if b and b_ready:
                burst = writes.popleft()
                burst.responses.append(b_resp)
                burst.done = self.cycle
        raise AssertionError(f"the controller hangs: {len(todo)} bursts were not begun, {len(reads)} reads and {len(writes)} writes not finished")
