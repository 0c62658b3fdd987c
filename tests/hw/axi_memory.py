"""A model of external memory behind an AXI4 manager, for the Amaranth simulator: random stalls, latency, bus
errors."""

import random
from collections import deque

from tests.hw.kit import Held

__all__ = ["AxiMemory", "csr_read", "csr_write"]


class AxiMemory:
    """Serves one `Axi4Signature` from a bytearray, and checks the rules of bursts.

    Parameters
    ----------
    data : bytearray             contents, from address `base`
    base : int
    latency : int                cycles from an address to its first beat, at least 1
    stall : float                probability that a channel is not ready (or has nothing to say) in a cycle
    bad : range or None          addresses that answer SLVERR
    """

    def __init__(
        self,
        axi,
        data: bytearray,
        *,
        base: int = 0,
        latency: int = 1,
        stall: float = 0.0,
        seed: int = 0,
        bad=None,
    ):
        self.axi, self.data, self.base, self.latency, self.stall = axi, data, base, latency, stall
        self.random = random.Random(seed)
        self.bad = bad
        self.bursts = 0
        self.frozen = False
        self.written: list[int] = []
        self.addresses: list[tuple[int, int, int]] = []

    def _burst(self, addr: int, length: int, bytes_: int) -> None:
        beats = length + 1
        assert beats <= 16 and addr % bytes_ == 0, f"burst of {beats} beats at {addr:#x}"
        assert addr // 4096 == (addr + beats * bytes_ - 1) // 4096, f"burst at {addr:#x} crosses a page"
        assert self.base <= addr and addr + beats * bytes_ <= self.base + len(self.data), (
            f"burst at {addr:#x} is outside"
        )
        self.bursts += 1

    def _is_bad(self, addr: int) -> bool:
        return self.bad is not None and addr in self.bad

    def _may_answer(self, queue: deque, now: int) -> bool:
        """Whether the oldest answer is due, and its channel does not rest."""
        due = bool(queue) and queue[0][0] <= now
        return due and self.random.random() >= self.stall and not self.frozen

    async def run(self, ctx) -> None:
        axi, pick = self.axi, self.random
        bus_bytes = len(axi.wstrb)
        reads: deque = deque()
        writes: deque = deque()
        beats: deque = deque()
        responses: deque = deque()
        now = 0
        rvalid = bvalid = False
        held = {channel: Held(channel) for channel in ("ar", "aw", "w")}
        while True:
            ready = [not self.frozen and pick.random() >= self.stall for _ in range(3)]
            ctx.set(axi.arready, ready[0])
            ctx.set(axi.awready, ready[1])
            ctx.set(axi.wready, ready[2])
            if not rvalid and self._may_answer(reads, now):
                _, addr, left = reads[0]
                at = addr - self.base
                ctx.set(axi.rdata, int.from_bytes(self.data[at : at + bus_bytes], "little"))
                ctx.set(axi.rresp, 2 if self._is_bad(addr) else 0)
                ctx.set(axi.rlast, left == 0)
                rvalid = True
            if not bvalid and self._may_answer(responses, now):
                ctx.set(axi.bresp, 2 if responses[0][1] else 0)
                bvalid = True
            ctx.set(axi.rvalid, rvalid)
            ctx.set(axi.bvalid, bvalid)
            names = (
                "arvalid",
                "araddr",
                "arlen",
                "awvalid",
                "awaddr",
                "awlen",
                "wvalid",
                "wdata",
                "wstrb",
                "wlast",
                "rready",
                "bready",
            )
            _, _, *values = await ctx.tick().sample(*(getattr(axi, name) for name in names))
            v = dict(zip(names, values, strict=True))
            for channel, is_ready, payload in (
                ("ar", ready[0], ("araddr", "arlen")),
                ("aw", ready[1], ("awaddr", "awlen")),
                ("w", ready[2], ("wdata", "wstrb", "wlast")),
            ):
                held[channel].check(v[f"{channel}valid"], is_ready, [v[name] for name in payload])
            now += 1
            if v["arvalid"] and ready[0]:
                self._burst(v["araddr"], v["arlen"], bus_bytes)
                reads.append((now + self.latency - 1, v["araddr"], v["arlen"]))
            if rvalid and v["rready"]:
                rvalid = False
                due, addr, left = reads.popleft()
                if left:
                    reads.appendleft((due, addr + bus_bytes, left - 1))
            if v["awvalid"] and ready[1]:
                self._burst(v["awaddr"], v["awlen"], bus_bytes)
                writes.append((v["awaddr"], v["awlen"]))
            if v["wvalid"] and ready[2]:
                beats.append((v["wdata"], v["wstrb"], v["wlast"]))
            while writes and len(beats) > writes[0][1]:
                addr, length = writes.popleft()
                failed = False
                for i in range(length + 1):
                    word, strobe, last = beats.popleft()
                    assert bool(last) == (i == length), "wlast is not at the end of its burst"
                    failed |= self._is_bad(addr)
                    for lane in range(bus_bytes):
                        if strobe >> lane & 1 and not failed:
                            self.data[addr - self.base + lane] = word >> 8 * lane & 0xFF
                            self.written.append(addr + lane)
                    addr += bus_bytes
                responses.append((now + self.latency - 1, failed))
            if bvalid and v["bready"]:
                bvalid = False
                responses.popleft()


async def csr_write(ctx, bus, address: int, value: int, strobe: int = 15) -> int:
    """One write; returns the response."""
    ctx.set(bus.awaddr, address)
    ctx.set(bus.awvalid, 1)
    ctx.set(bus.wdata, value)
    ctx.set(bus.wstrb, strobe)
    ctx.set(bus.wvalid, 1)
    ctx.set(bus.bready, 1)
    await ctx.tick().until(bus.awready)
    ctx.set(bus.awvalid, 0)
    ctx.set(bus.wvalid, 0)
    (response,) = await ctx.tick().sample(bus.bresp).until(bus.bvalid)
    return response


async def csr_read(ctx, bus, address: int) -> tuple[int, int]:
    """One read; returns value and response."""
    ctx.set(bus.araddr, address)
    ctx.set(bus.arvalid, 1)
    ctx.set(bus.rready, 1)
    await ctx.tick().until(bus.arready)
    ctx.set(bus.arvalid, 0)
    return await ctx.tick().sample(bus.rdata, bus.rresp).until(bus.rvalid)
