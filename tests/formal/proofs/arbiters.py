"""Arbiters: whoever shares a bus or a memory gets what is his, and all of it."""

import dataclasses
from itertools import accumulate
from operator import or_
from unittest.mock import patch

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

from systolith.hw.core.scratchpad import Scratchpad
from systolith.hw.soc.axi import ReadArbiter
from systolith.hw.soc.memory_arbiter import MemoryArbiter
from systolith.hw.soc.turn_arbiter import TurnArbiter
from systolith.spec.arch import PRESETS
from tests.formal.kit.claims import Claims, Inside
from tests.formal.kit.plant import Plant
from tests.formal.kit.proof import proof
from tests.formal.kit.rings import Ring
from tests.formal.kit.streams import Passage, stays_offered

_AXI = "systolith.hw.soc.axi"
_BUS32 = dataclasses.replace(PRESETS["tiny"], bus_bits=32)
#: Bursts under way, instead of 64: as many as the queue's logic needs to go round.
_READ_BURSTS = 8


def _returns(
    claims: Claims,
    inside: Inside,
    passage: Passage,
    *,
    owners: Ring,
    register: str,
    owner: slice,
    last: int | None,
) -> None:
    """Invariants of what comes back: in a stream register beside its owner, who is the oldest in a queue.

    Parameters
    ----------
    owner : slice   of the register's payload
    last : int      bit of its payload, None: each is the last of its burst
    """
    valid, waits = inside[f"{register}.o__valid"], inside[f"{register}.waits"]
    first, second = inside[f"{register}.first"], inside[f"{register}.second"]
    ends_first, ends_second = (valid, waits) if last is None else (valid & first[last], waits & second[last])
    ended = ends_first + ends_second
    claims.invariant("bursts_are_owned", passage.count == owners.level + ended)
    claims.invariant(f"{register}_first_owner", ~valid | passage.lies(0, first[owner]))
    claims.invariant(f"{register}_second_owner", ~waits | passage.lies(ends_first, second[owner]))
    # A beat lies in the register only while its burst is under way.
    claims.invariant(f"{register}_is_of_a_burst", ~valid | (passage.count != 0))
    claims.invariant(f"{register}_second_is_of_a_burst", ~waits | (passage.count > ends_first))
    owners.holds(passage, ended)


@proof(
    Plant(
        "a beat goes to the client that is served next",
        _AXI,
        "beat.i.payload.source.eq(sources.r_data)",
        "beat.i.payload.source.eq(sources.w_data)",
        "beats_go_to_their_client",
    ),
    Plant(
        "the owner is forgotten with every beat",
        _AXI,
        "sources.r_en.eq(self.beats.valid & beat.i.ready & self.beats.payload.last)",
        "sources.r_en.eq(self.beats.valid & beat.i.ready)",
        "beats_go_to_their_client",
    ),
    Plant(
        "two clients are served at once",
        _AXI,
        "grant.eq(~taken)",
        "grant.eq(~taken | (index == 2))",
        "one_at_a_time",
    ),
    cycles=9,
)
def read_arbiter(m: Module, claims: Claims) -> None:
    """Three clients of the core's read channel: the first that offers a burst is served, alone; bursts go out
    once,
    in order and unchanged; each beat comes back to the client whose burst it is, up to the burst's last, and
    beats keep their order; no owner is lost."""
    arbiter = ReadArbiter(_BUS32, 3)
    with patch.dict(ReadArbiter.elaborate.__globals__, READ_BURSTS=_READ_BURSTS):
        inside = claims.design("arbiter", arbiter)
    bursts, beats = arbiter.bursts, arbiter.beats
    wants = [client.bursts.valid for client in arbiter.clients]
    served = Cat(client.bursts.valid & client.bursts.ready for client in arbiter.clients)
    who = Mux(served[0], 0, Mux(served[1], 1, 2))
    given = [client.bursts.payload for client in arbiter.clients]
    burst = Mux(served[0], given[0].as_value(), Mux(served[1], given[1].as_value(), given[2].as_value()))
    claims.claim("one_at_a_time", (served & (served - 1)[:3]) == 0)
    earlier = list(accumulate(wants, or_))
    claims.claim("the_first_is_served", ~(served[1] & earlier[0]) & ~(served[2] & earlier[1]))
    claims.claim(
        "an_offer_stays", stays_offered(m, "burst", bursts.valid, bursts.ready, bursts.payload.as_value())
    )
    Passage(
        m,
        claims,
        capacity=2,
        enters=served.any(),
        entry=burst,
        leaves=bursts.valid & bursts.ready,
        exit=bursts.payload.as_value(),
        name="bursts",
    ).in_register(inside, "burst")
    back = Cat(client.beats.valid & client.beats.ready for client in arbiter.clients)
    payload = arbiter.clients[0].beats.payload
    # Who is given a beat, and whether it is the burst's last.
    to = Mux(back[0], 0, Mux(back[1], 1, 2))
    owners = Passage(
        m,
        claims,
        capacity=_READ_BURSTS + 2,
        enters=served.any(),
        entry=Cat(who)[:2],
        leaves=back.any() & payload.last,
        exit=Cat(to)[:2],
        name="owners",
    )
    claims.claim("to_one_at_a_time", (back & (back - 1)[:3]) == 0)
    claims.claim("beats_go_to_their_client", ~(owners.turn & back.any()) | (to == owners.kept))
    Passage(
        m,
        claims,
        capacity=2,
        enters=beats.valid & beats.ready,
        entry=beats.payload.as_value(),
        leaves=back.any(),
        exit=payload.as_value(),
        name="beats",
    ).in_register(inside, "beat", slice(len(payload.as_value())))
    ring = Ring(claims, inside, "sources", _READ_BURSTS, buffered=True)
    claims.claim("no_owner_is_lost", ~inside["sources.w_en"] | inside["sources.w_rdy"])
    claims.invariant("room", (ring.level < _READ_BURSTS) | ~inside["room"])
    claims.invariant("sources_are_clients", ~owners.watched | (owners.kept < 3))
    width = len(payload.as_value())
    _returns(
        claims, inside, owners, owners=ring, register="beat", owner=slice(width, width + 2), last=width - 1
    )


_ADDRESS = ("addr", "len", "size", "burst", "lock", "cache", "prot")
_BUS = {"bus_bits": 32, "addr_bits": 8}


def _fields(manager, channel: str, names: tuple[str, ...]) -> Value:
    return Cat(getattr(manager, channel + name) for name in names)


def _addresses(m: Module, claims: Claims, inside: Inside, arbiter: MemoryArbiter, channel: str):
    """Claims of one address channel; returns when a burst is taken, and whether it is the link's."""

    def of(manager, name: str) -> Signal:
        return getattr(manager, channel + name)

    core, link, memory = arbiter.core, arbiter.link, arbiter.memory
    core_taken, link_taken = (of(who, "valid") & of(who, "ready") for who in (core, link))
    claims.claim(f"{channel}_one_at_a_time", ~(core_taken & link_taken))
    claims.claim(f"{channel}_the_core_goes_first", ~link_taken | ~of(core, "valid"))
    offered = _fields(memory, channel, _ADDRESS)
    stays = stays_offered(m, channel, of(memory, "valid"), of(memory, "ready"), offered)
    claims.claim(f"{channel}_offer_stays", stays)
    passage = Passage(
        m,
        claims,
        capacity=2,
        enters=core_taken | link_taken,
        entry=Mux(core_taken, _fields(core, channel, _ADDRESS), _fields(link, channel, _ADDRESS)),
        leaves=of(memory, "valid") & of(memory, "ready"),
        exit=offered,
        name=channel,
    )
    passage.in_register(inside, channel)
    return core_taken | link_taken, link_taken


def _back(m: Module, claims: Claims, inside: Inside, arbiter, channel: str, names, begun, is_link) -> Passage:
    """Claims of what comes back over one channel, for the bursts that were taken."""

    def of(manager, name: str) -> Signal:
        return getattr(manager, channel + name)

    core, link, memory = arbiter.core, arbiter.link, arbiter.memory
    to_core, to_link = (of(who, "valid") & of(who, "ready") for who in (core, link))
    last = core.rlast if "last" in names else Const(1, 1)
    owners = Passage(
        m,
        claims,
        capacity=18,
        enters=begun,
        entry=is_link,
        leaves=(to_core | to_link) & last,
        exit=to_link,
        name=f"{channel}_owners",
    )
    claims.claim(f"{channel}_to_one_at_a_time", ~(of(core, "valid") & of(link, "valid")))
    ours = ~(owners.turn & (to_core | to_link)) | (to_link == owners.kept)
    claims.claim(f"{channel}_goes_to_its_owner", ours)
    passage = Passage(
        m,
        claims,
        capacity=2,
        enters=of(memory, "valid") & of(memory, "ready"),
        entry=_fields(memory, channel, names),
        leaves=to_core | to_link,
        exit=Mux(to_core, _fields(core, channel, names), _fields(link, channel, names)),
        name=channel,
    )
    # The owner lies before the fields.
    passage.in_register(inside, channel, slice(1, None))
    return owners


@proof(
    Plant(
        "beats go to whose burst is taken now",
        "systolith.hw.soc.memory_arbiter",
        "given.payload.owner.eq(owners.r_data)",
        "given.payload.owner.eq(owners.w_data)",
        "r_goes_to_its_owner",
    ),
    Plant(
        "the link's address with the core's burst",
        "systolith.hw.soc.memory_arbiter",
        'Mux(of(self.core, "valid"), of(self.core, name), of(self.link, name))',
        'Mux(of(self.link, "valid"), of(self.link, name), of(self.core, name))',
        "ar_in_order_and_unchanged",
    ),
    cycles=8,
)
def memory_arbiter_reads(m: Module, claims: Claims) -> None:
    """Core and host link share a memory's reads: one burst at a time is taken, the core's first; bursts go
    out
    once, in order and unchanged; each beat comes back once, unchanged, to whose burst it is, up to the
    burst's last; no owner is lost; offers stay."""
    arbiter = MemoryArbiter(**_BUS)
    inside = claims.design("arbiter", arbiter)
    begun, is_link = _addresses(m, claims, inside, arbiter, "ar")
    names = ("data", "resp", "last")
    owners = _back(m, claims, inside, arbiter, "r", names, begun, is_link)
    ring = Ring(claims, inside, "reads", 16, buffered=True)
    claims.claim("no_owner_is_lost", ~inside["reads.w_en"] | inside["reads.w_rdy"])
    claims.invariant("room", (ring.level < 16) | ~inside["ar_room"])
    last = 1 + len(arbiter.memory.rdata) + len(arbiter.memory.rresp)
    _returns(claims, inside, owners, owners=ring, register="r", owner=slice(0, 1), last=last)


@proof(
    Plant(
        "the other's beats, between a burst's",
        "systolith.hw.soc.memory_arbiter",
        "owners.r_en.eq(valid & memory.wready & memory.wlast)",
        "owners.r_en.eq(valid & memory.wready)",
        "w_is_of_whose_turn_it_is",
    ),
    Plant(
        "a response goes to the other",
        "systolith.hw.soc.memory_arbiter",
        "with m.If(held.payload.owner == index)",
        "with m.If(held.payload.owner != index)",
        "b_goes_to_its_owner",
    ),
    cycles=8,
)
def memory_arbiter_writes(m: Module, claims: Claims) -> None:
    """Core and host link share a memory's writes: addresses as of the reads; each one's beats come once,
    unchanged
    and in order, all of a burst before any of the next, in the order of the bursts; each response goes to
    whose burst it is; no owner is lost; offers stay. Assumed: the memory responds after a burst's last
    beat."""
    arbiter = MemoryArbiter(**_BUS)
    inside = claims.design("arbiter", arbiter)
    core, link, memory = arbiter.core, arbiter.link, arbiter.memory
    begun, is_link = _addresses(m, claims, inside, arbiter, "aw")
    owners = _back(m, claims, inside, arbiter, "b", ("resp",), begun, is_link)
    names = ("data", "strb", "last")
    moved = memory.wvalid & memory.wready
    offered = _fields(memory, "w", names)
    leaves = {}
    for name, manager in (("core", core), ("link", link)):
        leaves[name] = inside[f"{name}_w.o__valid"] & inside[f"{name}_w.o__ready"]
        Passage(
            m,
            claims,
            capacity=2,
            enters=manager.wvalid & manager.wready,
            entry=_fields(manager, "w", names),
            leaves=leaves[name],
            exit=offered,
            name=f"{name}_w",
        ).in_register(inside, f"{name}_w")
    claims.claim("each_beat_is_of_one", moved == (leaves["core"] ^ leaves["link"]))
    claims.claim("w_offer_stays", stays_offered(m, "w", memory.wvalid, memory.wready, offered))
    turns = Passage(
        m,
        claims,
        capacity=17,
        enters=begun,
        entry=is_link,
        leaves=moved & memory.wlast,
        exit=leaves["link"],
        name="w_turns",
    )
    ours = ~(turns.turn & moved) | (leaves["link"] == turns.kept)
    claims.claim("w_is_of_whose_turn_it_is", ours)
    #: Bursts whose last beat the memory has, and to which it has not responded.
    whole = Signal(range(19))
    m.d.sync += whole.eq(whole + (moved & memory.wlast) - (memory.bvalid & memory.bready))
    claims.assume("responds_after_the_last_beat", ~memory.bvalid | (whole != 0))
    writes = Ring(claims, inside, "writes", 16, buffered=True)
    responses = Ring(claims, inside, "responses", 16, buffered=True)
    lost = (inside[f"{name}.w_en"] & ~inside[f"{name}.w_rdy"] for name in ("writes", "responses"))
    claims.claim("no_owner_is_lost", ~next(lost) & ~next(lost))
    claims.invariant("room", (responses.level < 16) | ~inside["aw_room"])
    claims.invariant("response_owners", responses.level == writes.level + whole)
    claims.invariant("turns", turns.count == writes.level)
    claims.invariant("few", whole <= 16)
    writes.holds(turns)
    _returns(claims, inside, owners, owners=responses, register="b", owner=slice(0, 1), last=None)


@proof(
    Plant(
        "the turn ends with the address",
        "systolith.hw.soc.turn_arbiter",
        "with m.If((memory.rvalid & memory.rready & memory.rlast)",
        "with m.If((memory.rvalid & memory.rready)",
        "a_burst_at_a_time",
    ),
    Plant(
        "both are given the beat",
        "systolith.hw.soc.turn_arbiter",
        "manager.rvalid.eq(mine & memory.rvalid)",
        "manager.rvalid.eq(memory.rvalid)",
        "answers_go_to_the_owner",
    ),
    Plant(
        "the address is offered again",
        "systolith.hw.soc.turn_arbiter",
        "m.d.sync += accepted.eq(1)",
        "m.d.sync += accepted.eq(0)",
        "a_burst_at_a_time",
    ),
)
def turn_arbiter(m: Module, claims: Claims) -> None:
    """Core and host link share a memory that serves a burst at a time: a burst is offered when the one before
    is
    over, unchanged, the core's first; its beats and answers pass between its owner and the memory alone, and
    those of a write end with its last beat; offers stay. Assumed: managers keep their offers, and the memory
    answers what it has accepted, a write after its last beat."""
    arbiter = TurnArbiter(**_BUS)
    inside = claims.design("arbiter", arbiter)
    core, link, memory = arbiter.core, arbiter.link, arbiter.memory
    channels = {"ar": _ADDRESS, "aw": _ADDRESS, "w": ("data", "strb", "last")}

    def moves(who, channel: str) -> Value:
        return getattr(who, f"{channel}valid") & getattr(who, f"{channel}ready")

    for channel, names in channels.items():
        for name, who in (("core", core), ("link", link), ("memory", memory)):
            valid, ready = getattr(who, f"{channel}valid"), getattr(who, f"{channel}ready")
            stays = stays_offered(m, f"{name}_{channel}", valid, ready, _fields(who, channel, names))
            if who is memory:
                claims.claim(f"{channel}_offer_stays", stays)
            else:
                claims.assume(f"{name}_{channel}_stays", stays)
    #: The burst that the memory has accepted, and what of it is still to come.
    reads, writes, beats, links = Signal(), Signal(), Signal(), Signal()
    accepts = moves(memory, "ar") | moves(memory, "aw")
    sent = moves(memory, "w") & memory.wlast
    over = (moves(memory, "r") & memory.rlast) | moves(memory, "b")
    claims.assume("answers_what_it_accepted", (~memory.rvalid | reads) & (~memory.bvalid | (writes & ~beats)))
    #: The last beat may come before the address is accepted.
    early = Signal()
    with m.If(accepts):
        m.d.sync += [
            reads.eq(memory.arvalid),
            writes.eq(memory.awvalid),
            links.eq(moves(link, "ar") | moves(link, "aw")),
            beats.eq(memory.awvalid & ~early & ~sent),
            early.eq(0),
        ]
    with m.Elif(sent):
        m.d.sync += [beats.eq(0), early.eq(~writes)]
    with m.If(over):
        m.d.sync += [reads.eq(0), writes.eq(0)]
    claims.claim("a_burst_at_a_time", ~accepts | (~(memory.arvalid & memory.awvalid) & ~reads & ~writes))
    whole = []
    for channel in ("ar", "aw", "w"):
        by_core, by_link = moves(core, channel), moves(link, channel)
        names = channels[channel]
        given = Mux(by_core, _fields(core, channel, names), _fields(link, channel, names))
        whole += [
            moves(memory, channel) == (by_core ^ by_link),
            ~(by_core & by_link),
            ~moves(memory, channel) | (_fields(memory, channel, names) == given),
        ]
    claims.claim("what_moves_is_of_one", Cat(whole).all())
    answers = []
    for channel, names in (("r", ("data", "resp", "last")), ("b", ("resp",))):
        for who, mine in ((core, ~links), (link, links)):
            same = _fields(who, channel, names) == _fields(memory, channel, names)
            answers += [moves(who, channel) == (mine & moves(memory, channel)), ~moves(who, channel) | same]
    claims.claim("answers_go_to_the_owner", Cat(answers).all())
    claims.claim("a_write_ends_with_its_last_beat", ~moves(memory, "w") | ((~writes | beats) & ~early))
    late = ~(writes & moves(memory, "w")) | (moves(link, "w") == links)
    claims.claim("beats_of_the_owner", late)
    busy, is_link, direction, accepted, has_sent = inside.own()
    offers = core.arvalid | core.awvalid
    first = Signal()
    m.d.sync += first.eq(~busy & offers)
    claims.claim("the_core_goes_first", ~first | ~(link.arready | link.awready | link.wready))
    claims.invariant("under_way", (reads | writes) == (busy & accepted))
    claims.invariant("one_direction", ~(reads & writes) & (~accepted | ~busy | (writes == direction)))
    claims.invariant("owner", ~(reads | writes) | (links == is_link))
    claims.invariant("to_come", ~writes | (beats == ~has_sent))
    claims.invariant("came_early", early == (busy & direction & ~accepted & has_sent))
    claims.invariant("core_first", ~first | (busy & ~is_link))
    # Whoever's turn it is has offered, and has not taken the offer back.
    of_core, of_link = (Mux(direction, who.awvalid, who.arvalid) for who in (core, link))
    claims.invariant("offers", ~(busy & ~accepted) | Mux(is_link, of_link, of_core))
    claims.cover("a_link_write", moves(link, "b"))
    claims.cover("a_core_read_of_two", moves(core, "r") & core.rlast & ~first)


#: Four blocks; what matters is which of them a port wants.
_BLOCKS = dataclasses.replace(PRESETS["tiny"], act_bytes=1024, act_blocks=4)


@proof(
    Plant(
        "the last port looks at the one before only",
        "systolith.hw.core.scratchpad",
        "taken = taken | Mux(port.valid, needed, 0)",
        "taken = Mux(port.valid, needed, 0)",
        "a_block_is_of_one",
    ),
    Plant(
        "a port waits for one that wants nothing",
        "systolith.hw.core.scratchpad",
        "taken = taken | Mux(port.valid, needed, 0)",
        "taken = taken | needed",
        "none_waits_without_need",
    ),
)
def scratchpad_ports(m: Module, claims: Claims) -> None:
    """The activation SRAM grants a block to one read and one write in a cycle; a port waits only for one
    before it
    that wants a block of its own; reads of the array, and writes of the output stage, never wait."""
    pad = Scratchpad(_BLOCKS)
    inside = claims.design("pad", pad)
    reads, writes = (
        (pad.matrix_read, pad.vector_read, pad.store_read),
        (
            pad.output_write,
            pad.vector_write,
            pad.load_write,
        ),
    )
    claims.claim("the_first_never_waits", pad.matrix_read.ready & pad.output_write.ready)
    alone, needed = [], []
    for kind, ports in (("read", reads), ("write", writes)):
        for index, port in enumerate(ports):
            before = ports[:index]
            shared = Cat(other.valid & (other.blocks & port.blocks).any() for other in before).any()
            needed.append(port.ready | shared)
            alone += [
                ~(port.valid & port.ready & other.valid & other.ready) | ~(port.blocks & other.blocks).any()
                for other in before
            ]
            # What reaches the blocks is what was granted.
            driven = inside[f"{kind}_select{index}"]
            claims.invariant(
                f"{kind}{index}_drives_its_blocks",
                driven == Mux(port.valid & port.ready, port.blocks, 0),
            )
        claims.cover(f"two_{kind}s", ports[1].valid & ports[1].ready & ports[2].valid & ports[2].ready)
    claims.claim("a_block_is_of_one", Cat(alone).all())
    claims.claim("none_waits_without_need", Cat(needed).all())
