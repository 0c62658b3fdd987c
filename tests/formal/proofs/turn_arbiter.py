"""The arbiter for a memory that serves a burst at a time."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value

from systolith.hw.soc.turn_arbiter import TurnArbiter
from tests.formal.kit.axi import ADDRESS, BUS, fields
from tests.formal.kit.claims import Claims
from tests.formal.kit.plant import Plant
from tests.formal.kit.proof import proof
from tests.formal.kit.streams import stays_offered


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
    is over, unchanged, the core's first; its beats and answers pass between its owner and the memory alone,
    and those of a write end with its last beat; offers stay. Assumed: managers keep their offers, and the
    memory answers what it has accepted, a write after its last beat."""
    arbiter = TurnArbiter(**BUS)
    inside = claims.design("arbiter", arbiter)
    core, link, memory = arbiter.core, arbiter.link, arbiter.memory
    channels = {"ar": ADDRESS, "aw": ADDRESS, "w": ("data", "strb", "last")}

    def moves(who: Any, channel: str) -> Value:
        return getattr(who, f"{channel}valid") & getattr(who, f"{channel}ready")

    for channel, names in channels.items():
        for name, who in (("core", core), ("link", link), ("memory", memory)):
            valid, ready = getattr(who, f"{channel}valid"), getattr(who, f"{channel}ready")
            stays = stays_offered(m, f"{name}_{channel}", valid, ready, fields(who, channel, names))
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
        given = Mux(by_core, fields(core, channel, names), fields(link, channel, names))
        whole += [
            moves(memory, channel) == (by_core ^ by_link),
            ~(by_core & by_link),
            ~moves(memory, channel) | (fields(memory, channel, names) == given),
        ]
    claims.claim("what_moves_is_of_one", Cat(whole).all())
    answers = []
    for channel, names in (("r", ("data", "resp", "last")), ("b", ("resp",))):
        for who, mine in ((core, ~links), (link, links)):
            same = fields(who, channel, names) == fields(memory, channel, names)
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
