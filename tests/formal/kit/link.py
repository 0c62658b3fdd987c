"""What the proofs of the host link share: its checksum and the pace of its line."""

import zlib
from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value

from systolith.hw.soc.link import LinkEngine
from systolith.spec.link import CRC_POLYNOMIAL
from tests.formal.kit.claims import Claims, Inside

__all__ = ["LINK", "SPACING", "bytes_are_apart", "crc_byte", "one_bit", "settles", "zlib_byte"]

#: Cycles from one byte of the line to the next at least.
SPACING = 11
#: A link as small as it gets.
LINK = {"bus_bits": 32, "addr_bits": 24, "payload_bytes": 16}
_MASK = (1 << 32) - 1


def crc_byte(crc: Any, byte: Any) -> Any:
    """The checksum after one byte more, of integers or of values: the eight steps of the definition. That it
    is `zlib_byte`, a test shows for all."""
    crc = crc ^ byte
    for _ in range(8):
        crc = (crc >> 1) ^ (-(crc & 1) & CRC_POLYNOMIAL)
        crc = crc & _MASK if isinstance(crc, int) else crc[:32]
    return crc


def zlib_byte(crc: int, byte: int) -> int:
    """The checksum of zlib after one byte more, which keeps it inverted."""
    return zlib.crc32(bytes((byte,)), crc ^ _MASK) ^ _MASK


def one_bit(crc: Value, work: Value, flush: Value, damaged: Value) -> tuple[Value, Value, Value]:
    """Checksum, rest of the byte and damage after one bit more."""
    feedback = (crc[0] ^ work[0]) & ~flush
    seen = damaged | (flush & (work[0] == crc[0]))
    return (crc >> 1) ^ Mux(feedback, CRC_POLYNOMIAL, 0), work >> 1, seen


def bytes_are_apart(m: Module, claims: Claims, link: LinkEngine) -> Signal:
    """Assumes what a serial line does; returns the cycles since the last byte, which stop at the least of
    them."""
    gap = Signal(range(SPACING), init=SPACING - 1, name="gap")
    claims.assume("bytes_are_apart", ~link.i.valid | (gap == SPACING - 1))
    with m.If(link.i.valid):
        m.d.sync += gap.eq(0)
    with m.Elif(gap != SPACING - 1):
        m.d.sync += gap.eq(gap + 1)
    return gap


def settles(m: Module, inside: Inside) -> tuple[Value, Value]:
    """The link's checksum, and whether another came, when what is still to come of a byte is taken in."""
    crc, damaged, work = inside["_crc"], inside["_damaged"], inside["work"]
    for at in range(8):
        now, rest, seen = one_bit(crc, work, inside["_flush"], damaged)
        more = inside["_bits"] > at
        here, after = Signal(32, name=f"crc_after{at}"), Signal(name=f"damaged_after{at}")
        m.d.comb += [here.eq(Mux(more, now, crc)), after.eq(Mux(more, seen, damaged))]
        crc, work, damaged = here, rest, after
    return crc, damaged
