"""An AXI4 manager for the Amaranth simulator: bursts with random stalls, and the checks of what a subordinate
answers."""

import dataclasses
import random
from collections import deque

from tests.hw.kit import Held

__all__ = ["AxiManager", "Burst", "random_bursts"]


@dataclasses.dataclass
class Burst:
    """One burst, and what became of it; `data` and `strobes` are the beats of a write, `data` those that a
    read gave."""

    write: bool
    addr: int
    beats: int
    data: list[int] = dataclasses.field(default_factory=list)
    strobes: list[int] = dataclasses.field(default_factory=list)
    responses: list[int] = dataclasses.field(default_factory=list)
    #: Cycles in which its address was accepted, its first beat came, and its last beat or its response.
    accepted: int = -1
    first: int = -1
    done: int = -1

    def overlaps(self, other, bus_bytes: int) -> bool:
        """Whether both touch a byte."""
        return (
            self.addr < other.addr + other.beats * bus_bytes
            and other.addr < self.addr + self.beats * bus_bytes
        )


def random_bursts(rng, pages, row_bytes, bus_bytes, count):
    """Reads and writes that often meet, and cross rows, in a few pages of 4 KiB; what each read must give;
    the bytes in the end."""
    memory, bursts, expected = {}, [], []
    while len(bursts) < count:
        beats = rng.choice((1, 1, 2, rng.randint(1, 16), 16))
        near = rng.choice((0, row_bytes - 2 * bus_bytes, rng.randrange(4096))) // bus_bytes * bus_bytes
        beats = min(beats, (4096 - near) // bus_bytes)
        addr = rng.choice(pages) + near
        if rng.random() < 0.5:
            burst = Burst(
                True,
                addr,
                beats,
                [rng.getrandbits(8 * bus_bytes) for _ in range(beats)],
                [rng.choice((-1, 0, rng.getrandbits(bus_bytes))) % (1 << bus_bytes) for _ in range(beats)],
            )
            for beat in range(beats):
                for lane in range(bus_bytes):
                    if burst.strobes[beat] >> lane & 1:
                        memory[addr + beat * bus_bytes + lane] = burst.data[beat] >> 8 * lane & 255
            expected.append(None)
        else:
            burst = Burst(False, addr, beats)
            expected.append(
                [
                    sum(
                        memory.get(addr + beat * bus_bytes + lane, 0) << 8 * lane for lane in range(bus_bytes)
                    )
                    for beat in range(beats)
                ]
            )
        bursts.append(burst)
    return bursts, expected, memory


class AxiManager:
    """Runs bursts in order; a burst waits for those of the other direction that touch its bytes, since AXI
    promises no order between them.

    Parameters
    ----------
    stall : float    probability that a channel rests in a cycle, each of the five
    alone : bool     one burst at a time
    """

    def __init__(self, axi, bursts, *, stall=0.0, seed=0, alone=False):
        self.axi, self.bursts, self.alone, self.stall = axi, bursts, alone, stall
        self.random = random.Random(f"manager {seed}")
        self.bus_bytes = len(axi.wstrb)

    def _rests(self) -> bool:
        return self.random.random() < self.stall

    def _may_begin(self, burst, under_way) -> bool:
        if self.alone:
            return not under_way
        return (
            not any(
                burst.write != other.write and burst.overlaps(other, self.bus_bytes) for other in under_way
            )
            and not self._rests()
        )

    async def run(self, ctx, limit=60_000, stop=None):
        """Until all bursts are done, or, in the middle of them, after `stop` cycles, for a reset."""
        axi = self.axi
        todo, reads, writes, beats = deque(self.bursts), deque(), deque(), deque()
        offered: dict[str, Burst] = {}
        held = {"r": Held("r"), "b": Held("b")}
        w_valid = False
        for channel in ("ar", "aw"):
            ctx.set(getattr(axi, f"{channel}size"), (self.bus_bytes - 1).bit_length())
            ctx.set(getattr(axi, f"{channel}burst"), 1)
        for cycle in range(limit):
            if cycle == stop or not (todo or reads or writes or offered):
                for channel in ("ar", "aw", "w"):
                    ctx.set(getattr(axi, f"{channel}valid"), 0)
                return
            while (
                todo
                and (channel := "aw" if todo[0].write else "ar") not in offered
                and self._may_begin(todo[0], [*reads, *writes, *offered.values()])
            ):
                burst = offered[channel] = todo.popleft()
                ctx.set(getattr(axi, f"{channel}addr"), burst.addr)
                ctx.set(getattr(axi, f"{channel}len"), burst.beats - 1)
                if burst.write:
                    beats += [
                        (*beat, index == burst.beats - 1)
                        for index, beat in enumerate(zip(burst.data, burst.strobes, strict=True))
                    ]
            for channel in ("ar", "aw"):
                ctx.set(getattr(axi, f"{channel}valid"), channel in offered)
            # Beats may come before their address is accepted.
            if beats and not w_valid and not self._rests():
                w_valid = True
                for name, value in zip(("wdata", "wstrb", "wlast"), beats[0], strict=True):
                    ctx.set(getattr(axi, name), value)
            ctx.set(axi.wvalid, w_valid)
            r_ready, b_ready = not self._rests(), not self._rests()
            ctx.set(axi.rready, r_ready)
            ctx.set(axi.bready, b_ready)
            _, _, ar, aw, w, r, data, r_resp, last, b, b_resp = await ctx.tick().sample(
                axi.arready,
                axi.awready,
                axi.wready,
                axi.rvalid,
                axi.rdata,
                axi.rresp,
                axi.rlast,
                axi.bvalid,
                axi.bresp,
            )
            for channel, valid, ready, payload in (
                ("r", r, r_ready, (data, r_resp, last)),
                ("b", b, b_ready, (b_resp,)),
            ):
                held[channel].check(valid, ready, payload)
            for channel, ready, queue in (("ar", ar, reads), ("aw", aw, writes)):
                if channel in offered and ready:
                    offered[channel].accepted = cycle
                    queue.append(offered.pop(channel))
            if w_valid and w:
                beats.popleft()
                w_valid = False
            if r and r_ready:
                burst = reads[0]
                burst.first = burst.first if burst.data else cycle
                burst.data.append(data)
                burst.responses.append(r_resp)
                assert last == (len(burst.data) == burst.beats), "rlast is not with the last beat"
                if last:
                    reads.popleft().done = cycle
            if b and b_ready:
                burst = writes.popleft()
                burst.responses.append(b_resp)
                burst.done = cycle
        raise AssertionError(
            f"hangs: {len(todo)} bursts were not offered, {len(offered)} not accepted, {len(reads)} reads "
            f"and {len(writes)} writes not finished"
        )
