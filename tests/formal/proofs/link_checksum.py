"""The link's checksum: bit by bit in the hardware, CRC-32 of zlib."""

from types import SimpleNamespace

from amaranth.hdl import Elaboratable, Module, Mux, Signal

from systolith.hw.soc.link import LinkEngine
from systolith.spec.link import CRC_INIT
from tests.formal.kit.claims import Claims
from tests.formal.kit.link import crc_byte, one_bit
from tests.formal.kit.plant import Plant
from tests.formal.kit.proof import proof

_LINK = "systolith.hw.soc.link"


# Amaranth has no types, so that for mypy an Elaboratable is Any.
class _Checksum(Elaboratable):  # type: ignore[misc]
    """The part of the link that holds the checksum."""

    def __init__(self) -> None:
        self.begin = Signal(name="begin")
        self.byte, self.take, self.flush = Signal(8, name="byte"), Signal(name="take"), Signal(name="flush")

    def elaborate(self, platform: object) -> Module:
        m = Module()
        link = SimpleNamespace(_begin=self.begin)
        LinkEngine._checksum(link, m)
        m.d.comb += [link._byte.eq(self.byte), link._take.eq(self.take), link._flush.eq(self.flush)]
        return m


@proof(
    Plant(
        "another polynomial",
        _LINK,
        "Mux(feedback, CRC_POLYNOMIAL, 0)",
        "Mux(feedback, CRC_POLYNOMIAL ^ 0x8000, 0)",
        "crc_of_all_bytes",
    ),
    Plant(
        "a bit of the byte is left out",
        _LINK,
        "m.d.sync += bits.eq(8)",
        "m.d.sync += bits.eq(7)",
        "crc_of_all_bytes",
    ),
    Plant(
        "damage in a bit that is 1 is not seen",
        _LINK,
        "(work[0] == self._crc[0])",
        "(work[0] & self._crc[0])",
        "damage_is_seen",
    ),
    cycles=24,
)
def link_checksum(m: Module, claims: Claims) -> None:
    """The link's checksum is CRC-32 as zlib has it, over any bytes; and where it is compared with what comes,
    any difference in any bit of the four bytes is seen, and nothing else. For messages of any length."""
    unit = _Checksum()
    inside = claims.design("unit", unit, (unit.begin, unit.byte, unit.take, unit.flush))
    bits, crc, work, damaged = (inside[name] for name in ("_bits", "_crc", "work", "_damaged"))
    claims.assume("a_byte_at_a_time", ~unit.take | (bits == 0))
    # Whether a byte is compared is said while it is taken in, and does not change.
    before = Signal()
    m.d.sync += before.eq(unit.flush)
    claims.assume("one_of_both_for_a_byte", (bits == 0) | (bits == 8) | (unit.flush == before))
    #: The checksum by bytes, without what is taken in now; that byte; what came of comparing.
    begun, whole, last, bad = Signal(), Signal(32), Signal(8), Signal()
    with m.If(unit.begin):
        m.d.sync += [whole.eq(CRC_INIT), bad.eq(0), begun.eq(1)]
    with m.Else():
        with m.If(unit.take):
            m.d.sync += last.eq(unit.byte)
        with m.If(bits == 1):
            m.d.sync += [
                whole.eq(Mux(unit.flush, whole >> 8, crc_byte(whole, last))),
                bad.eq(bad | (unit.flush & (last != ~whole[:8]))),
            ]
    partly, rest, seen = whole, last, bad
    for left in range(8, 0, -1):
        # With so many bits to come, the others are in.
        now = begun & (bits == left)
        right = (crc == partly) & (damaged == seen) & (work[:left] == rest[:left])
        claims.invariant(f"{left}_bits_to_come", ~now | right)
        partly, rest, seen = one_bit(partly, rest, unit.flush, seen)
    claims.invariant("bits", bits <= 8)
    quiet = begun & (bits == 0)
    claims.claim("crc_of_all_bytes", ~quiet | (crc == whole))
    claims.claim("damage_is_seen", ~quiet | (damaged == bad))
    claims.cover("two_bytes", quiet & (whole == crc_byte(crc_byte(CRC_INIT, 1), 2)))
