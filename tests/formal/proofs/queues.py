"""The queues of Amaranth, on which the engines and arbiters stand."""

from amaranth.hdl import Module
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered

from tests.formal.kit.claims import Claims
from tests.formal.kit.plant import Plant
from tests.formal.kit.proof import proof
from tests.formal.kit.rings import Ring
from tests.formal.kit.streams import Passage, stays_offered

_FIFO = "amaranth.lib.fifo"
#: As deep as the shallowest in use; a deeper one is the same text with more rows.
_DEPTH, _BITS = 4, 3


def _pass(m: Module, claims: Claims, fifo: SyncFIFO | SyncFIFOBuffered) -> Passage:
    passage = Passage(
        m,
        claims,
        capacity=_DEPTH,
        enters=fifo.w_en & fifo.w_rdy,
        entry=fifo.w_data,
        leaves=fifo.r_en & fifo.r_rdy,
        exit=fifo.r_data,
    )
    claims.claim("offer_stays", stays_offered(m, "offer", fifo.r_rdy, fifo.r_en, fifo.r_data))
    claims.claim("levels_count", (fifo.level == passage.count) & (fifo.w_level == fifo.r_level))
    claims.cover("is_full", passage.count == _DEPTH)
    return passage


@proof(
    Plant(
        "a full queue takes one more",
        _FIFO,
        "self.w_rdy.eq(self.level != self.depth)",
        "self.w_rdy.eq(1)",
        "no_more_than_fit",
    ),
    Plant(
        "the place read moves with what is written",
        _FIFO,
        "with m.If(do_read):\n            m.d.sync += consume.eq(",
        "with m.If(do_write):\n            m.d.sync += consume.eq(",
        "in_order_and_unchanged",
    ),
    cycles=8,
)
def sync_fifo(m: Module, claims: Claims) -> None:
    """Passes on what it takes, once, in order and unchanged; an offer stays; its levels are the entries in
    it; it takes one wherever it is not full and offers one wherever it is not empty."""
    fifo = SyncFIFO(width=_BITS, depth=_DEPTH)
    inside = claims.design("fifo", fifo, (fifo.w_data, fifo.w_en, fifo.r_en))
    passage = _pass(m, claims, fifo)
    claims.claim("takes_unless_full", fifo.w_rdy == (passage.count != _DEPTH))
    claims.claim("offers_unless_empty", fifo.r_rdy == (passage.count != 0))
    Ring(claims, inside, "", _DEPTH, buffered=False).holds(passage)


@proof(
    Plant(
        "what waits at the exit is overwritten",
        _FIFO,
        "do_inner_read  = inner_r_rdy & (~self.r_rdy | self.r_en)",
        "do_inner_read  = inner_r_rdy",
        "offer_stays",
    ),
    Plant(
        "the exit is left out of the level",
        _FIFO,
        "self.level.eq(inner_level + self.r_rdy)",
        "self.level.eq(inner_level)",
        "levels_count",
    ),
    cycles=8,
)
def sync_fifo_buffered(m: Module, claims: Claims) -> None:
    """Passes on what it takes, once, in order and unchanged; an offer stays; its levels are the entries in
    it; two cycles after one was written it offers one."""
    fifo = SyncFIFOBuffered(width=_BITS, depth=_DEPTH)
    inside = claims.design("fifo", fifo, (fifo.w_data, fifo.w_en, fifo.r_en))
    passage = _pass(m, claims, fifo)
    ring = Ring(claims, inside, "", _DEPTH, buffered=True)
    claims.claim("takes_while_two_fit", fifo.w_rdy | (passage.count >= _DEPTH - 1))
    claims.claim("offers_what_has_come", fifo.r_rdy | (passage.count <= 1))
    claims.invariant("holds_what_it_took", passage.count == ring.level)
    ring.holds(passage)
