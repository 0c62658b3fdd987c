"""The arbiter of the core's read channel."""

import dataclasses
from itertools import accumulate
from operator import or_
from unittest.mock import patch

from amaranth.hdl import Cat, Module, Mux

from systolith.hw.soc.axi import ReadArbiter
from systolith.spec.arch import PRESETS
from tests.formal.kit.claims import Claims
from tests.formal.kit.owners import returns_to_owner
from tests.formal.kit.plant import Plant
from tests.formal.kit.proof import proof
from tests.formal.kit.rings import Ring
from tests.formal.kit.streams import Passage, stays_offered

_AXI = "systolith.hw.soc.axi"
_BUS32 = dataclasses.replace(PRESETS["tiny"], bus_bits=32)
#: Bursts under way, instead of 64: as many as the queue's logic needs to go round.
_READ_BURSTS = 8


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
    once, in order and unchanged; each beat comes back to the client whose burst it is, up to the burst's
    last, and beats keep their order; no owner is lost."""
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
    returns_to_owner(
        claims, inside, owners, owners=ring, register="beat", owner=slice(width, width + 2), last=width - 1
    )
