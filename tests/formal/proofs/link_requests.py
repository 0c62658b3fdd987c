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


def _receiving(m: Module, claims: Claims, inside: Inside, ghost: Receiver) -> None:
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
    of a right one nothing is lost while the link listens; only what the request asks for, each byte of the
    payload to its own address; nothing before a request was answered since reset; no CSR_WRITE with the seq
    of the request before it. Offers of both buses stay. Assumed: a byte in eleven cycles, buses answer by the
    rules."""
    link = LinkEngine(**LINK)
    inside = claims.design("link", link)
    ghost = Receiver(m, claims, link, inside.state("RECEIVE"))
    _answers_follow(m, claims, link, inside)
    _receiving(m, claims, inside, ghost)
    _claims(m, claims, link, inside, ghost)
