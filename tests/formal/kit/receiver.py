"""The protocol of the host link's requests, beside which the hardware is proved."""

from amaranth.hdl import Module, Mux, Signal, Value

from systolith.hw.soc.link import LinkEngine
from systolith.spec.link import CRC_BYTES, CRC_INIT, ESCAPE, FLIP, REQUEST_FIELDS, SYNC
from tests.formal.kit.claims import Claims
from tests.formal.kit.link import bytes_are_apart, crc_byte

__all__ = ["HEADER_BYTES", "Receiver"]

HEADER_BYTES = sum(bits for _, bits, _ in REQUEST_FIELDS) // 8


class Receiver:
    """The protocol of requests, byte by byte, as `spec.link` has it, a cycle behind the line.

    Attributes
    ----------
    active, whole : Signal   a frame has begun, and is not over; it is over
    count : Signal           bytes of its body so far, checksum included
    header, crc : Signal     its header; the checksum of its body
    bad : Signal             the checksum that came is another
    kept, place : Signal     the byte of the payload at any one place
    came : Signal            a byte is looked at
    """

    def __init__(self, m: Module, claims: Claims, link: LinkEngine, listens: Value) -> None:
        self.came, raw = Signal(name="came"), Signal(8, name="raw")
        self.active, self.whole = Signal(name="active"), Signal(name="whole")
        self.count = Signal(5, name="count")
        self.header, self.crc = Signal(8 * HEADER_BYTES, name="header"), Signal(32, name="crc")
        self.bad, self.escaped = Signal(name="bad"), Signal(name="escaped")
        self.place, self.kept = claims.constant(4, "place"), Signal(8, name="kept")
        self.gap = bytes_are_apart(m, claims, link)
        m.d.sync += [self.came.eq(link.i.valid & listens), raw.eq(link.i.payload)]
        fields, at = {}, 0
        for name, bits, _ in REQUEST_FIELDS:
            fields[name] = self.header[at : at + bits]
            at += bits
        self.seq, self.op, self.last, self.addr = fields.values()
        #: The limit is a power of two; what is longer is refused.
        self.size = Signal(5, name="size")
        m.d.comb += self.size.eq(Mux(self.op[0], self.last[:4] + 1, 0))
        value = raw ^ Mux(self.escaped, FLIP, 0)
        body = HEADER_BYTES + self.size
        with m.If(self.came):
            m.d.sync += self.escaped.eq(raw == ESCAPE)
            with m.If(raw == SYNC):
                m.d.sync += [self.active.eq(1), self.whole.eq(0), self.count.eq(0)]
                m.d.sync += [self.crc.eq(CRC_INIT), self.bad.eq(0)]
            with m.Elif((raw != ESCAPE) & self.active):
                m.d.sync += self.count.eq(self.count + 1)
                with m.If(self.count < HEADER_BYTES):
                    m.d.sync += self.header.word_select(self.count[:3], 8).eq(value)
                with m.Elif((self.count - HEADER_BYTES == self.place) & (self.count < body)):
                    m.d.sync += self.kept.eq(value)
                with m.If((self.count < HEADER_BYTES) | (self.count < body)):
                    m.d.sync += self.crc.eq(crc_byte(self.crc, value))
                with m.Else():
                    wanted = ~self.crc.word_select((self.count - body)[:2], 8)
                    m.d.sync += self.bad.eq(self.bad | (value != wanted))
                    with m.If(self.count == body + CRC_BYTES - 1):
                        m.d.sync += [self.active.eq(0), self.whole.eq(1)]

    @property
    def compared(self) -> Value:
        """Bytes of the checksum that came."""
        return self.count - HEADER_BYTES - self.size
