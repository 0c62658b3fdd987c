"""The arbiter by which core and host link share a memory."""

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, Value

from systolith.hw.soc.memory_arbiter import MemoryArbiter
from tests.formal.kit.axi import ADDRESS, BUS, fields
from tests.formal.kit.claims import Claims, Inside
from tests.formal.kit.owners import returns_to_owner
from tests.formal.kit.plant import Plant
from tests.formal.kit.proof import proof
from tests.formal.kit.rings import Ring
from tests.formal.kit.streams import Passage, stays_offered


def _addresses(
    m: Module, claims: Claims, inside: Inside, arbiter: MemoryArbiter, channel: str
) -> tuple[Value, Value]:
    """Claims of one address channel; returns when a burst is taken, and whether it is the link's."""

    def of(manager: Any, name: str) -> Signal:
        return getattr(manager, channel + name)

    core, link, memory = arbiter.core, arbiter.link, arbiter.memory
    core_taken, link_taken = (of(who, "valid") & of(who, "ready") for who in (core, link))
    claims.claim(f"{channel}_one_at_a_time", ~(core_taken & link_taken))
    claims.claim(f"{channel}_the_core_goes_first", ~link_taken | ~of(core, "valid"))
    offered = fields(memory, channel, ADDRESS)
    stays = stays_offered(m, channel, of(memory, "valid"), of(memory, "ready"), offered)
    claims.claim(f"{channel}_offer_stays", stays)
    passage = Passage(
        m,
        claims,
        capacity=2,
        enters=core_taken | link_taken,
        entry=Mux(core_taken, fields(core, channel, ADDRESS), fields(link, channel, ADDRESS)),
        leaves=of(memory, "valid") & of(memory, "ready"),
        exit=offered,
        name=channel,
    )
    passage.in_register(inside, channel)
    return core_taken | link_taken, link_taken


def _back(
    m: Module,
    claims: Claims,
    inside: Inside,
    arbiter: MemoryArbiter,
    channel: str,
    names: tuple[str, ...],
    begun: Value,
    is_link: Value,
) -> Passage:
    """Claims of what comes back over one channel, for the bursts that were taken."""

    def of(manager: Any, name: str) -> Signal:
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
        entry=fields(memory, channel, names),
        leaves=to_core | to_link,
        exit=Mux(to_core, fields(core, channel, names), fields(link, channel, names)),
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
    out once, in order and unchanged; each beat comes back once, unchanged, to whose burst it is, up to the
    burst's last; no owner is lost; offers stay."""
    arbiter = MemoryArbiter(**BUS)
    inside = claims.design("arbiter", arbiter)
    begun, is_link = _addresses(m, claims, inside, arbiter, "ar")
    names = ("data", "resp", "last")
    owners = _back(m, claims, inside, arbiter, "r", names, begun, is_link)
    ring = Ring(claims, inside, "reads", 16, buffered=True)
    claims.claim("no_owner_is_lost", ~inside["reads.w_en"] | inside["reads.w_rdy"])
    claims.invariant("room", (ring.level < 16) | ~inside["ar_room"])
    last = 1 + len(arbiter.memory.rdata) + len(arbiter.memory.rresp)
    returns_to_owner(claims, inside, owners, owners=ring, register="r", owner=slice(0, 1), last=last)


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
    unchanged and in order, all of a burst before any of the next, in the order of the bursts; each response
    goes to whose burst it is; no owner is lost; offers stay. Assumed: the memory responds after a burst's
    last beat."""
    arbiter = MemoryArbiter(**BUS)
    inside = claims.design("arbiter", arbiter)
    core, link, memory = arbiter.core, arbiter.link, arbiter.memory
    begun, is_link = _addresses(m, claims, inside, arbiter, "aw")
    owners = _back(m, claims, inside, arbiter, "b", ("resp",), begun, is_link)
    names = ("data", "strb", "last")
    moved = memory.wvalid & memory.wready
    offered = fields(memory, "w", names)
    leaves = {}
    for name, manager in (("core", core), ("link", link)):
        leaves[name] = inside[f"{name}_w.o__valid"] & inside[f"{name}_w.o__ready"]
        Passage(
            m,
            claims,
            capacity=2,
            enters=manager.wvalid & manager.wready,
            entry=fields(manager, "w", names),
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
    returns_to_owner(claims, inside, owners, owners=responses, register="b", owner=slice(0, 1), last=None)
