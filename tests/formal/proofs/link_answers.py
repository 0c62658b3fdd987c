"""The link's answers: frames that a host can take apart, whatever is in them."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal

from systolith.hw.soc.link import LinkEngine
from systolith.spec.link import CRC_BYTES, CRC_INIT, ESCAPE, FLIP, SYNC, LinkStatus
from tests.formal.kit.claims import Claims
from tests.formal.kit.link import LINK, bytes_are_apart, crc_byte, settles
from tests.formal.kit.plant import Plant
from tests.formal.kit.proof import proof
from tests.formal.kit.streams import stays_offered

_LINK = "systolith.hw.soc.link"


@proof(
    Plant(
        "SYNC in a payload is sent as it is",
        _LINK,
        "special & ~sync & ~self._escaped",
        "special & ~sync & ~self._escaped & ~self._byte[0]",
        "sync_begins_a_frame",
    ),
    Plant(
        "the checksum goes out as it is",
        _LINK,
        "byte.eq(~self._crc[:8])",
        "byte.eq(self._crc[:8])",
        "each_byte_is_right",
    ),
    Plant(
        "an offer does not wait for the escape",
        _LINK,
        "m.d.sync += special.eq(self._byte[1:] == prefix)",
        "m.d.comb += special.eq((self._byte[1:] == prefix) & self.o.ready)",
        "offer_stays",
    ),
    Plant(
        "a byte of the payload is left out",
        _LINK,
        'with m.If(sent & self._last_byte):\n                m.next = "CRC"',
        'with m.If(sent):\n                m.next = "CRC"',
        "each_byte_is_right",
    ),
    depth=4,
    settled=4,
    cycles=12,
)
def link_answers(m: Module, claims: Claims) -> None:
    """Every answer, taken apart as a host does it: SYNC begins it and stands nowhere else; then seq and
    status, the payload of a read that went well, byte by byte, and the CRC-32 of all that; it is whole before
    the link listens again; offers stay. For all requests, payloads and pauses of the line. Assumed: a byte
    comes in eleven cycles."""
    link = LinkEngine(**LINK)
    inside = claims.design("link", link)
    bytes_are_apart(m, claims, link)
    header, status, index = inside["_header"], inside["_status"], inside["_index"]
    byte, valid, ready = link.o.payload, link.o.valid, link.o.ready
    sent, is_sync = valid & ready, byte == SYNC
    #: The host's side: in a frame; the byte behind is changed; bytes of its body; the checksum so far.
    active, escaped, count, crc = Signal(), Signal(), Signal(5), Signal(32)
    value = byte ^ Mux(escaped, FLIP, 0)
    size = Signal(5)
    last, writes = header[8:12], header[4]
    m.d.comb += size.eq(Mux(~writes & (status == LinkStatus.OK), last + 1, 0))
    body = 1 + size
    rows = Array(inside.rows("buffer"))
    wanted = Signal(8)
    with m.If(count == 0):
        m.d.comb += wanted.eq(Cat(header[:4], status))
    with m.Elif(count < body):
        m.d.comb += wanted.eq(rows[(count - 1)[:4]])
    with m.Else():
        m.d.comb += wanted.eq(~crc.word_select((count - body)[:2], 8))
    with m.If(sent):
        with m.If(is_sync):
            m.d.sync += [active.eq(1), escaped.eq(0), count.eq(0), crc.eq(CRC_INIT)]
        with m.Elif(byte == ESCAPE):
            m.d.sync += escaped.eq(1)
        with m.Else():
            m.d.sync += [escaped.eq(0), count.eq(count + 1)]
            with m.If(count < body):
                m.d.sync += crc.eq(crc_byte(crc, value))
            with m.Elif(count == body + CRC_BYTES - 1):
                m.d.sync += active.eq(0)
    plain = sent & ~is_sync & (byte != ESCAPE)
    claims.claim("sync_begins_a_frame", ~sent | (is_sync == ~active))
    claims.claim("each_byte_is_right", ~plain | (value == wanted))
    claims.claim("listens_after_the_frame", ~inside.state("RECEIVE") | ~active)
    claims.claim("offer_stays", stays_offered(m, "offer", valid, ready, byte))
    sends = inside.state("STATUS", "PAYLOAD", "CRC")
    step, compares = inside["_step"], inside.state("CRC")
    claims.invariant("in_a_frame", active == sends)
    claims.invariant("escape", ~active | (escaped == inside["_escaped"]))
    claims.invariant("no_escape_before", ~inside.state("CHECK", "EXECUTE", "BEAT") | ~inside["_escaped"])
    works = inside.state("LOAD", "WRITE", "READ", "ANSWER")
    claims.invariant("no_escape_at_work", ~works | ~inside["_escaped"])
    special = inside["_byte"][1:] == SYNC >> 1
    claims.invariant("escapes_what_must_be", ~(sends & inside["_escaped"]) | special)
    claims.invariant("escapes_a_byte_at_rest", ~(sends & inside["_escaped"]) | (inside["_bits"] == 0))
    claims.invariant("status_first", inside.state("STATUS") == (active & (count == 0)))
    in_payload = active & (count != 0) & (count < body)
    claims.invariant("then_payload", inside.state("PAYLOAD") == in_payload)
    claims.invariant("then_checksum", ~compares | (step == count - body))
    claims.invariant("of_four_bytes", ~compares | ((count >= body) & (count < body + CRC_BYTES)))
    claims.invariant("no_step_before", ~inside.state("STATUS", "PAYLOAD") | (step == 0))
    begins = inside.state("ANSWER", "STATUS")
    claims.invariant("index", ~(begins | in_payload) | (index == Mux(in_payload, count - 1, 0)))
    claims.invariant("bits", (inside["_bits"] <= 8) & (~valid | (inside["_bits"] == 0)))
    now, _ = settles(m, inside)
    shift = Mux(compares, (count - body)[:2], 0)
    shifted = Signal(32, name="crc_shifted")
    m.d.comb += shifted.eq(crc >> (shift << 3))
    claims.invariant("checksum", ~active | (now == shifted))
    claims.cover("a_payload_goes_out", sent & in_payload)
    claims.cover("an_escape_goes_out", sent & (byte == ESCAPE))
