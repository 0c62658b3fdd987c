"""AXI4 as the proofs of arbiters see it."""

from typing import Any

from amaranth.hdl import Cat, Value

__all__ = ["ADDRESS", "BUS", "fields"]

#: What an address channel carries.
ADDRESS = ("addr", "len", "size", "burst", "lock", "cache", "prot")
#: The smallest bus that has everything.
BUS = {"bus_bits": 32, "addr_bits": 8}


def fields(manager: Any, channel: str, names: tuple[str, ...]) -> Value:
    """Signals of one channel, side by side."""
    return Cat(getattr(manager, channel + name) for name in names)
