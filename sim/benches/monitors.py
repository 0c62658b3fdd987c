"""Rules of AXI4 that a manager must keep, checked in every cycle, whatever the test looks at."""

from __future__ import annotations

from collections import deque

from cocotb.triggers import RisingEdge

from systolith.hw.soc.axi import PAGE_BYTES
from systolith.sim.benches.kit import Ports

__all__ = ["watch_axi"]

_ADDRESS = ("addr", "len", "size", "burst")
_CHANNELS = {"ar": _ADDRESS, "aw": _ADDRESS, "w": ("data", "strb", "last")}
_INCR = 1


async def watch_axi(dut, bus_bytes: int, *, prefix: str = "axi", seed: int, data_first: bool = False) -> None:
    """For ever: VALID stays until READY with the same payload and is low in reset; bursts are INCR, as wide
    as the bus, aligned and inside 4 KiB; WLAST marks the last beat of its burst, and no write beat comes
    without a burst, or (`data_first`, which AXI allows) before its address.

    Raises
    ------
    AssertionError   Naming the seed and the rule; cocotb ends the test with it.
    """
    axi = Ports(dut, prefix)
    waiting: dict[str, tuple] = {}
    left: deque[int] = deque()
    #: WLAST of beats whose address has not come.
    early: deque[int] = deque()

    def rule(holds: bool, text: str) -> None:
        assert holds, f"seed {seed}: AXI: {text}"

    def burst(channel: str, addr: int, length: int, size: int, kind: int) -> None:
        rule(
            kind == _INCR and 1 << size == bus_bytes,
            f"{channel} is no full-width INCR burst (size {size}, burst {kind})",
        )
        rule(addr % bus_bytes == 0, f"{channel} address 0x{addr:x} is not aligned")
        last = addr + (length + 1) * bus_bytes - 1
        rule(
            addr // PAGE_BYTES == last // PAGE_BYTES,
            f"{channel} burst of {length + 1} beats at 0x{addr:x} crosses 4 KiB",
        )

    while True:
        await RisingEdge(dut.clk)
        reset = int(dut.rst.value)
        for channel, names in _CHANNELS.items():
            valid = getattr(axi, f"{channel}valid")
            rule(not (valid and reset), f"{channel}valid is high in reset")
            offer = tuple(getattr(axi, f"{channel}{name}") for name in names) if valid else None
            held = waiting.pop(channel, None)
            rule(
                held is None or offer == held, f"{channel} offered {held}, then {offer}, without being taken"
            )
            if offer is None:
                continue
            if not getattr(axi, f"{channel}ready"):
                waiting[channel] = offer
            elif channel == "w":
                rule(bool(left) or data_first, "a write beat without a burst")
                early.append(offer[2])
            else:
                burst(channel, *offer)
                if channel == "aw":
                    left.append(offer[1])
        while left and early:
            rule(early[0] == (left[0] == 0), f"wlast is {early[0]} with {left[0]} beats to come")
            left[0] -= 1
            if early.popleft():
                left.popleft()
