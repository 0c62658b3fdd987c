"""The link's requests: nothing takes effect but what came whole, and a START never twice."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal

from systolith.hw.soc.link import LinkEngine
from systolith.spec.link import CRC_BYTES, Op
from tests.formal.kit.claims import Claims, Inside
from tests.formal.kit.link import LINK, SPACING, settles
from tests.formal.kit.plant import Plant
from tests.formal.kit.proof import proof
from tests.formal.kit.receiver import HEADER_BYTES, Receiver
from tests.formal.kit.streams import stays_offered

_LINK = "systolith.hw.soc.link"


<<<<<<< HEAD
def bytes_are_apart(m: Module, claims: Claims, link: LinkEngine) -> Signal:
    """Assumes what a serial line does; returns the cycles since the last byte, which stop at the least of
    them."""
    gap = Signal(range(_SPACING), init=_SPACING - 1, name="gap")
    claims.assume("bytes_are_apart", ~link.i.valid | (gap == _SPACING - 1))
    with m.If(link.i.valid):
        m.d.sync += gap.eq(0)
    with m.Elif(gap != _SPACING - 1):
        m.d.sync += gap.eq(gap + 1)
    return gap


class _Receiver:
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
        self.header, self.crc = Signal(8 * _HEADER_BYTES, name="header"), Signal(32, name="crc")
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
        body = _HEADER_BYTES + self.size
        with m.If(self.came):
            m.d.sync += self.escaped.eq(raw == ESCAPE)
            with m.If(raw == SYNC):
                m.d.sync += [self.active.eq(1), self.whole.eq(0), self.count.eq(0)]
                m.d.sync += [self.crc.eq(CRC_INIT), self.bad.eq(0)]
            with m.Elif((raw != ESCAPE) & self.active):
                m.d.sync += self.count.eq(self.count + 1)
                with m.If(self.count < _HEADER_BYTES):
                    m.d.sync += self.header.word_select(self.count[:3], 8).eq(value)
                with m.Elif((self.count - _HEADER_BYTES == self.place) & (self.count < body)):
                    m.d.sync += self.kept.eq(value)
                with m.If((self.count < _HEADER_BYTES) | (self.count < body)):
                    m.d.sync += self.crc.eq(crc_byte(self.crc, value))
                with m.Else():
                    wanted = ~self.crc.word_select((self.count - body)[:2], 8)
                    m.d.sync += self.bad.eq(self.bad | (value != wanted))
                    with m.If(self.count == body + CRC_BYTES - 1):
                        m.d.sync += [self.active.eq(0), self.whole.eq(1)]

    @property
    def compared(self) -> Value:
        """Bytes of the checksum that came."""
        return self.count - _HEADER_BYTES - self.size


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


def _receiving(m: Module, claims: Claims, inside: Inside, ghost: _Receiver) -> None:
=======
def _receiving(m: Module, claims: Claims, inside: Inside, ghost: Receiver) -> None:
>>>>>>> formal
    """Invariants of what the link knows of a frame while it comes, and while its checksum is looked at."""
    phase, step, index = inside["_phase"], inside["_step"], inside["_index"]
    listens, checks = inside.state("RECEIVE"), inside.state("CHECK")
    bits = inside["_bits"]
    in_header = ghost.active & (ghost.count < HEADER_BYTES)
    in_crc = ghost.active & ~in_header & (ghost.count >= HEADER_BYTES + ghost.size)
    in_payload = ghost.active & ~in_header & ~in_crc
    claims.invariant("came_while_listening", ~ghost.came | (listens & (ghost.gap == 0)))
    claims.invariant("gap", ghost.gap < SPACING)
    claims.invariant("header_index", ~in_header | (index == 0))
    claims.invariant("escape", ~listens | (ghost.escaped == inside["_escaped"]))
    claims.invariant("no_escape_at_the_end", ~ghost.whole | ~ghost.escaped | listens)
    sends = inside.state("STATUS", "PAYLOAD", "CRC")
    claims.invariant("no_escape_but_sent", listens | sends | ~inside["_escaped"])
    claims.invariant("hunts", (phase == 0) == ~ghost.active)
    claims.invariant("header_phase", ~in_header | ((phase == 1) & (step == ghost.count)))
    claims.invariant("payload_phase", ~in_payload | ((phase == 2) & (step == HEADER_BYTES)))
    claims.invariant("payload_index", ~in_payload | (index == (ghost.count - HEADER_BYTES)[:4]))
    compared = HEADER_BYTES + ghost.compared
    claims.invariant("crc_phase", ~in_crc | ((phase == 3) & (step == compared)))
    claims.invariant("crc_count", ~in_crc | (ghost.compared < CRC_BYTES))
    claims.invariant("check_is_of_a_frame", ~checks | (ghost.whole & ~ghost.active))
    claims.invariant("whole_count", ~ghost.whole | (ghost.compared == CRC_BYTES))
    claims.invariant("not_both", ~(ghost.whole & ghost.active))
    last = inside["last_byte"] == (index == ghost.last[:4])
    claims.invariant("last_is_known", ~(in_payload & listens) | (ghost.gap == 1) | last)
    for count in range(1, HEADER_BYTES + 1):
        so_far = (ghost.count == count) if count < HEADER_BYTES else ~in_header
        same = inside["_header"][8 * (HEADER_BYTES - count) :] == ghost.header[: 8 * count]
        claims.invariant(f"header{count}", ~((ghost.active | ghost.whole) & so_far) | same)
    # While no frame has begun, what an answer has left there goes on.
    coming = listens & ghost.active & (bits != 0)
    claims.invariant("bits", (bits <= 8) & (~coming | (ghost.gap + bits == 9)))
    crc, damaged = settles(m, inside)
    framed = ghost.active | checks
    taken = Mux(in_crc | checks, ghost.compared, 0)[:3]
    shifted = Signal(32, name="crc_shifted")
    m.d.comb += shifted.eq(ghost.crc >> (taken << 3))
    claims.invariant("checksum", ~framed | (crc == shifted))
    claims.invariant("damage", ~framed | (damaged == ghost.bad))


def _claims(m: Module, claims: Claims, link: LinkEngine, inside: Inside, ghost: Receiver) -> None:
    """What the buses see of a request."""
    header = inside["_header"]
    runs = ("EXECUTE", "BEAT", "LOAD", "WRITE", "READ")
    executes, running = inside.state("EXECUTE"), inside.state(*runs)
    answers = inside.state("ANSWER", "STATUS", "PAYLOAD", "CRC")
    busy = inside["_address_valid"] | inside["_data_valid"]
    good = ghost.whole & ~ghost.bad
    claims.invariant("works_on_a_good_frame", ~(running | answers) | (good & (header == ghost.header)))
    claims.invariant("offers_while_it_runs", ~busy | inside.state("LOAD", "WRITE", "READ"))
    offers = Cat(
        getattr(bus, name) for bus in (link.memory, link.csr) for name in ("awvalid", "wvalid", "arvalid")
    ).any()
    claims.claim("nothing_but_verified_requests", ~offers | good)
    done = inside.state("CHECK") & (inside["_bits"] == 0)
    claims.claim("a_good_request_is_executed", ~done | (inside["_damaged"] == ghost.bad))
    # The seq of the request before this one.
    known, before, now_known, now = Signal(), Signal(4), Signal(), Signal(4)
    with m.If(executes):
        m.d.sync += [known.eq(now_known), before.eq(now), now_known.eq(1), now.eq(ghost.seq)]
    claims.claim("no_csr_write_twice", ~link.csr.awvalid | (known & (ghost.seq != before)))
    writes = link.csr.awvalid | link.csr.wvalid
    claims.claim("csr_write_when_asked", ~writes | (ghost.op == Op.CSR_WRITE))
    asked = ~(link.memory.awvalid | link.memory.wvalid) | (ghost.op == Op.MEMORY_WRITE)
    reads = ~link.memory.arvalid | (ghost.op == Op.MEMORY_READ)
    claims.claim("memory_access_when_asked", asked & reads)
    claims.claim("csr_read_when_asked", ~link.csr.arvalid | (ghost.op == Op.CSR_READ))
    claims.claim("closed_until_hello", ~offers | now_known)
    claims.invariant("answered", ~now_known | (inside["answered"] == now))
    claims.invariant("open_after_a_request", ~inside["is_open"] | now_known)
    first = (ghost.op != Op.CSR_WRITE) | (known & (ghost.seq != before))
    known_op = Cat(ghost.op == member for member in Op).any()
    at_work = inside.state("BEAT", "LOAD", "WRITE", "READ") | busy
    claims.invariant("runs_what_may_run", ~at_work | (first & known_op & now_known))
    claims.invariant("direction", ~inside.state("LOAD", "WRITE") | ghost.op[0])
    claims.invariant("other_direction", ~inside.state("READ") | ~ghost.op[0])
    claims.invariant("hello_has_no_bus", ~inside["_address_valid"] | (ghost.op != Op.HELLO))
    _payload(m, claims, link, inside, ghost)
    claims.cover("a_csr_write", link.csr.awvalid)


def _payload(m: Module, claims: Claims, link: LinkEngine, inside: Inside, ghost: Receiver) -> None:
    """What is written is the payload, each byte to its address."""
    index, rows = inside["_index"], Array(inside.rows("buffer"))
    held = Signal(8, name="held")
    m.d.comb += held.eq(rows[ghost.place])
    came = Mux(ghost.active, ghost.count - HEADER_BYTES, ghost.size) > ghost.place
    came = came & ~(ghost.active & (ghost.count < HEADER_BYTES)) & ghost.op[0]
    here = came & (ghost.place < ghost.size)
    framed = (ghost.active & inside.state("RECEIVE")) | (ghost.whole & ~inside.state("RECEIVE"))
    claims.invariant("payload_is_held", ~(framed & here) | (held == ghost.kept))
    address = Signal(4, name="address")
    m.d.comb += address.eq(ghost.addr[:4] + index)
    at_place = index == ghost.place
    for name, bus in (("memory", link.memory), ("csr", link.csr)):
        bytes_here = len(bus.wdata) // 8
        lanes = (bytes_here - 1).bit_length()
        same = bus.wdata == ghost.kept.replicate(bytes_here)
        strobe = bus.wstrb == (1 << address[:lanes])[:bytes_here]
        claims.claim(f"{name}_bytes", ~(bus.wvalid & at_place) | (same & strobe))
        width = len(bus.awaddr)
        beat = Cat(address, ghost.addr[4:])[:width]
        where = (bus.awaddr[lanes:] == beat[lanes:]) & (bus.awaddr[:lanes] == 0)
        claims.claim(f"{name}_address", ~(bus.awvalid | bus.wvalid) | where)
        claims.claim(f"{name}_aw_stays", stays_offered(m, f"{name}_aw", bus.awvalid, bus.awready, bus.awaddr))
        offered = Cat(bus.wdata, bus.wstrb)
        claims.claim(f"{name}_w_stays", stays_offered(m, f"{name}_w", bus.wvalid, bus.wready, offered))
        claims.claim(f"{name}_ar_stays", stays_offered(m, f"{name}_ar", bus.arvalid, bus.arready, bus.araddr))
    writing = inside.state("LOAD", "WRITE")
    claims.invariant("index_in_payload", ~writing | (index <= ghost.last[:4]))
    claims.invariant("offset", ~writing | (inside["_offset"] == address))


def _answers_follow(m: Module, claims: Claims, link: LinkEngine, inside: Inside) -> None:
    """Assumptions: a bus answers what it has accepted, once, and keeps an answer until it is taken."""
    for name, bus in (("memory", link.memory), ("csr", link.csr)):
        address, data, read = (Signal(name=f"{name}_{of}") for of in ("has_address", "has_data", "has_read"))
        for flag, begins, ends in (
            (address, bus.awvalid & bus.awready, bus.bvalid & bus.bready),
            (data, bus.wvalid & bus.wready, bus.bvalid & bus.bready),
            (read, bus.arvalid & bus.arready, bus.rvalid & bus.rready),
        ):
            with m.If(begins):
                m.d.sync += flag.eq(1)
            with m.Elif(ends):
                m.d.sync += flag.eq(0)
        claims.assume(f"{name}_b_follows", ~bus.bvalid | (address & data))
        claims.assume(f"{name}_r_follows", ~bus.rvalid | read)
        answer = Cat(bus.rdata, bus.rresp)
        claims.assume(f"{name}_r_stays", stays_offered(m, f"{name}_r", bus.rvalid, bus.rready, answer))
        chosen = inside["_header"][5] if name == "csr" else ~inside["_header"][5]
        reads = chosen & inside.state("READ") & (inside["_header"][4:8] != Op.HELLO)
        writes = chosen & inside.state("LOAD", "WRITE")
        claims.invariant(f"{name}_address_once", ~address | (writes & ~inside["_address_valid"]))
        claims.invariant(f"{name}_data_once", ~data | (writes & ~inside["_data_valid"]))
        # The last beat is taken in the cycle after the state.
        late = chosen & inside["_read_ready"]
        claims.invariant(f"{name}_read_once", ~read | (reads & ~inside["_address_valid"]) | late)


@proof(
    Plant(
        "a damaged request is executed",
        _LINK,
        "with m.If(self._damaged):",
        "with m.If(self._damaged & 0):",
        "nothing_but_verified_requests",
    ),
    Plant(
        "a retried CSR_WRITE is executed again",
        _LINK,
        "with m.Elif(~repeated):",
        "with m.Elif(~repeated | 1):",
        "no_csr_write_twice",
    ),
    Plant(
        "a byte goes to the address of the one before",
        _LINK,
        "self._offset.eq(self._header.addr[: self._offset_bits] + self._index)",
        "self._offset.eq(self._header.addr[: self._offset_bits] + self._index - 1)",
        "memory_address",
    ),
    Plant(
        "an escaped byte is taken as it is",
        _LINK,
        "arrived.eq(self.i.payload ^ Mux(self._escaped, FLIP, 0))",
        "arrived.eq(self.i.payload)",
        "a_good_request_is_executed",
    ),
    depth=4,
    settled=4,
    cycles=16,
)
def link_requests(m: Module, claims: Claims) -> None:
    """Whatever comes over the line: a bus is offered something only for a frame whose CRC-32 was right, and
<<<<<<< HEAD
    of a
    right one nothing is lost while the link listens; only what the request asks for, each byte of the payload
    to its own address; nothing before a request was answered since reset; no CSR_WRITE with the seq of the
    request before it. Offers of both buses stay. Assumed: a byte in eleven cycles, buses answer by the
    rules."""
    link = LinkEngine(**BENCH)
=======
    of a right one nothing is lost while the link listens; only what the request asks for, each byte of the
    payload to its own address; nothing before a request was answered since reset; no CSR_WRITE with the seq
    of the request before it. Offers of both buses stay. Assumed: a byte in eleven cycles, buses answer by the
    rules."""
    link = LinkEngine(**LINK)
>>>>>>> formal
    inside = claims.design("link", link)
    ghost = Receiver(m, claims, link, inside.state("RECEIVE"))
    _answers_follow(m, claims, link, inside)
    _receiving(m, claims, inside, ghost)
    _claims(m, claims, link, inside, ghost)
