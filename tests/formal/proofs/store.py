"""STORE on the bus: what the walk found goes out as it is."""

from typing import Any
from unittest.mock import patch

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data

from systolith.hw.engine.store import StoreEngine
from systolith.hw.interfaces import ActReadSignature
from tests.formal.kit.claims import Claims, Inside
from tests.formal.kit.plant import Plant
from tests.formal.kit.proof import proof
from tests.formal.kit.rings import Ring
from tests.formal.kit.streams import Passage, stays_offered
from tests.formal.kit.transfer import BUS, LANES, TINY, AnyWalk, lanes_of

_STORE = "systolith.hw.engine.store"
#: Places in the queues of bursts and of beats, fewer than there are.
_BURSTS, _BEATS, _OFFERS = 4, 8, 4


def _beat(piece: Any, index: Value) -> tuple[Value, Value]:
    """Strobes of a piece's beat, and whether it is the last, from its number."""
    is_last = index == piece.len
    first = Mux(piece.begins & (index == 0), piece.first, 0)
    last = Mux(piece.ends & is_last, piece.last, BUS - 1)
    return lanes_of(first, last), is_last


@proof(
    Plant(
        "the strobes of a row's end in each of its bursts",
        _STORE,
        "with m.If(last & burst.ends):",
        "with m.If(last):",
        "beats_of_the_piece",
    ),
    Plant(
        "a burst has a beat more",
        _STORE,
        "last = index == burst.len",
        "last = index == burst.len + 1",
        "beats_of_the_piece",
    ),
    Plant(
        "beats go before their address",
        _STORE,
        "offer.i.valid.eq(beats.r_rdy & some_owed)",
        "offer.i.valid.eq(beats.r_rdy)",
        "a_beat_after_its_address",
    ),
    Plant(
        "the beats' queue overflows",
        _STORE,
        "room.eq(reserved < WRITE_BEATS - 2)",
        "room.eq(reserved < WRITE_BEATS + 2)",
        "no_queue_overflows",
    ),
    depth=2,
    cycles=20,
)
def store_bus(m: Module, claims: Claims) -> None:
    """STORE's AXI side: each piece of the walk becomes one burst, with its address and length, in order; its
    beats carry the strobes of its lanes alone, WLAST with the last of them, read from its SRAM addresses; no
    beat before its address was accepted; offers stay; no queue overflows; `done` is with the response of an
    instruction's last burst. With `store_walk`: never a byte outside DATA. Queues of 4 bursts and 8 beats.
    Assumed: a response follows its burst's last beat."""
    constants = {"WRITE_BURSTS": _BURSTS, "WRITE_BEATS": _BEATS, "BURST_OFFERS": _OFFERS}
    engine = StoreEngine(TINY)
    with patch.dict(StoreEngine.elaborate.__globals__, **constants, RowWalker=AnyWalk):
        inside = claims.design("engine", engine)
    walk = AnyWalk.free(m, claims)
    bus, piece = engine.bus, walk.pieces.payload
    begin = inside["bursts.w_en"]
    claims.invariant("begins", begin == (walk.pieces.valid & walk.pieces.ready & ~walk.failed))
    writes = [
        inside[f"{queue}.w_en"] & ~inside[f"{queue}.w_rdy"]
        for queue in ("bursts", "finals", "offers", "beats")
    ]
    claims.claim("no_queue_overflows", ~Cat(writes).any())
    for name, stream in (("bursts", bus.bursts), ("beats", bus.beats)):
        stays = stays_offered(m, name, stream.valid, stream.ready, stream.payload.as_value())
        claims.claim(f"{name}_offer_stays", stays)
    offers = Ring(claims, inside, "offers", _OFFERS, buffered=False)
    addresses = Passage(
        m,
        claims,
        capacity=_OFFERS,
        enters=begin,
        entry=Cat(piece.addr, piece.len),
        leaves=bus.bursts.valid & bus.bursts.ready,
        exit=bus.bursts.payload.as_value(),
        name="addresses",
    )
    claims.invariant("addresses_are_in_the_queue", addresses.count == offers.level)
    offers.holds(addresses)
    pieces = _pieces(m, claims, inside, engine, walk, begin)
    ends = _beats(m, claims, inside, engine)
    _responses(m, claims, inside, engine, walk, begin, pieces, offers, ends)


def _asks(inside: Inside) -> tuple[Value, Value]:
    """A read is asked for, with its address, strobes and whether it is the last; behind them come the
    blocks."""
    takes = inside["slot.register.i__valid"] & inside["slot.register.i__ready"]
    return takes, inside["slot.register.i__payload"][: -TINY.act_blocks]


def _pieces(
    m: Module, claims: Claims, inside: Inside, engine: StoreEngine, walk: AnyWalk, begin: Value
) -> Passage:
    """From pieces to reads of the SRAM, each with the strobes of its beat."""
    piece = walk.pieces.payload
    names = ("sram", "len", "first", "last", "begins", "ends")
    row = {"sram": piece.row.sram, "first": piece.row.first, "last": piece.row.last}
    fields = {name: Value.cast(row.get(name, getattr(piece, name, None))) for name in names}
    slot_takes, asked = _asks(inside)
    width = len(asked) - BUS - 1
    addr, strobe, last = asked[:width], asked[width:-1], asked[-1]
    pieces = Passage(
        m,
        claims,
        capacity=_BURSTS,
        enters=begin,
        entry=Cat(fields.values()),
        leaves=slot_takes & last,
        exit=inside["bursts.r_data"],
        name="pieces",
    )
    ring = Ring(claims, inside, "bursts", _BURSTS, buffered=True)
    claims.invariant("pieces_are_in_the_queue", pieces.count == ring.level)
    ring.holds(pieces)
    #: The beat of the piece.
    index = Signal(4, name="beat_index")
    with m.If(slot_takes):
        m.d.sync += index.eq(Mux(last, 0, index + 1))
    layout = data.StructLayout({name: len(value) for name, value in fields.items()})
    watched = data.View(layout, pieces.kept)
    mask, is_last = _beat(watched, index)
    right = (strobe == mask) & (last == is_last) & (addr == (watched.sram + (index << LANES))[:width])
    claims.claim("beats_of_the_piece", ~(pieces.turn & slot_takes) | right)
    claims.invariant("index", index == inside["index"])
    there, held = inside["bursts.r_rdy"], data.View(layout, inside["bursts.r_data"])
    claims.invariant("index_in_a_piece", Mux(there, index <= held.len, index == 0))
    claims.cover("second_beat", pieces.turn & slot_takes & (index == 1) & (strobe != (1 << BUS) - 1))
    return pieces


def _beats(m: Module, claims: Claims, inside: Inside, engine: StoreEngine) -> Value:
    """From reads of the SRAM to beats on the bus; returns how many between them are the last of their
    burst."""
    bus, latency = engine.bus, ActReadSignature.LATENCY
    slot_takes, asked = _asks(inside)
    width = BUS + 1
    sent = bus.beats.valid & bus.beats.ready
    payload = bus.beats.payload.as_value()
    beats = Passage(
        m,
        claims,
        capacity=_BEATS + 2,
        enters=slot_takes,
        entry=asked[-width:],
        leaves=sent,
        exit=payload[-width:],
        name="beats",
    )
    data_beats = Passage(
        m,
        claims,
        capacity=_BEATS + 2,
        enters=inside["beats.w_en"],
        entry=Cat(Cat(engine.read.data)[: TINY.bus_bits], inside["beats.w_data"][-width:]),
        leaves=sent,
        exit=payload,
        name="read",
    )
    registers = inside["offer.o__valid"] + inside["offer.waits"]
    ring = Ring(claims, inside, "beats", _BEATS, buffered=False)
    taken = slice(-width, None)
    for passage, part in ((beats, taken), (data_beats, slice(None))):
        name = "beats" if passage is beats else "read"
        claims.invariant(
            f"{name}_at_exit", passage.lies(0, inside["offer.first"][part]) | ~inside["offer.o__valid"]
        )
        claims.invariant(
            f"{name}_behind_exit", passage.lies(1, inside["offer.second"][part]) | ~inside["offer.waits"]
        )
    claims.invariant("exit_from_the_front", ~inside["offer.waits"] | inside["offer.o__valid"])
    ring.holds(beats, registers, taken)
    claims.invariant("read_counted", data_beats.count == registers + ring.level)
    ring.holds(data_beats, registers)
    older = registers + ring.level
    for stage in reversed(range(latency)):
        valid = inside[f"valid_{stage}"]
        entry = Cat(inside[f"strobe_{stage}"], inside[f"final_{stage}"])
        claims.invariant(f"stage{stage}", ~valid | beats.lies(older, entry))
        older = older + valid
    slot_valid, slot_waits = inside["slot.register.o__valid"], inside["slot.register.waits"]
    for name, there, place in (("first", slot_valid, older), ("second", slot_waits, older + 1)):
        held = inside[f"slot.register.{name}"]
        # Behind address and strobes come the blocks.
        entry = held[len(asked) - width : len(asked)]
        claims.invariant(f"slot_{name}", ~there | beats.lies(place, entry))
    claims.invariant("slot_from_the_front", ~slot_waits | slot_valid)
    in_engine = older + slot_valid + slot_waits
    claims.invariant("beats_counted", beats.count == in_engine)
    # The room that is kept for them, which is known late.
    took = inside["offer.i__valid"] & inside["offer.i__ready"]
    came, went = Signal(name="came_late"), Signal(name="went_late")
    m.d.sync += [came.eq(slot_takes), went.eq(took)]
    kept = in_engine - registers
    claims.invariant("reserved", inside["reserved"] + came == kept + went)
    claims.invariant("fits", kept <= _BEATS)
    claims.invariant("room", ~inside["room"] | (kept <= _BEATS - 1))
    places = [
        (inside["offer.o__valid"], inside["offer.first"]),
        (inside["offer.waits"], inside["offer.second"]),
    ]
    places += ring.live()
    places += [(inside[f"valid_{stage}"], inside[f"final_{stage}"]) for stage in range(latency)]
    slots = ((slot_valid, "first"), (slot_waits, "second"))
    places += [(there, inside[f"slot.register.{name}"][len(asked) - 1]) for there, name in slots]
    return sum(there & entry[-1] for there, entry in places)


def _responses(
    m: Module,
    claims: Claims,
    inside: Inside,
    engine: StoreEngine,
    walk: AnyWalk,
    begin: Value,
    pieces: Passage,
    offers: Ring,
    ends: Value,
) -> None:
    """Bursts that were accepted, and those that were answered."""
    bus, beats = engine.bus, engine.bus.beats
    sent_last = beats.valid & beats.ready & beats.payload.last
    accepts = bus.bursts.valid & bus.bursts.ready
    #: Bursts accepted whose last beat was not sent; bursts sent whole and not answered.
    open_, whole = Signal(4, name="open"), Signal(4, name="whole")
    m.d.sync += [open_.eq(open_ + accepts - sent_last), whole.eq(whole + sent_last - bus.response)]
    claims.claim("a_beat_after_its_address", ~beats.valid | (open_ != 0))
    claims.assume("responses_follow", ~bus.response | (whole != 0))
    finals = Passage(
        m,
        claims,
        capacity=_BURSTS,
        enters=begin,
        entry=walk.pieces.payload.ends & walk.pieces.payload.row.final,
        leaves=bus.response,
        exit=inside["finals.r_data"],
        name="finals",
    )
    ring = Ring(claims, inside, "finals", _BURSTS, buffered=False)
    ring.holds(finals)
    claims.invariant("finals_counted", finals.count == ring.level)
    fine = bus.response & ~bus.error & finals.turn
    claims.claim("done_with_its_last_response", ~engine.engine.done | (bus.response & (~fine | finals.kept)))
    # Every burst is somewhere: to be accepted, accepted, or sent.
    claims.invariant("bursts_counted", finals.count == offers.level + open_ + whole)
    lasts = (inside["offer.o__valid"] & inside["offer.first"][-1]) + (
        inside["offer.waits"] & inside["offer.second"][-1]
    )
    accepted = Signal(name="accepted_late")
    m.d.sync += accepted.eq(accepts)
    claims.invariant("owed", inside["owed"] + accepted + lasts == open_)
    claims.invariant("some_owed", ~inside["some_owed"] | (inside["owed"] != 0))
    took = inside["offer.i__valid"] & inside["offer.i__ready"]
    #: Between the beats of a burst.
    between = Signal(name="between")
    with m.If(took):
        m.d.sync += between.eq(~inside["offer.i__payload"][-1])
    newest = Mux(inside["offer.waits"], inside["offer.second"][-1], inside["offer.first"][-1])
    claims.invariant("newest", ~inside["offer.o__valid"] | (between == ~newest))
    claims.invariant("between_owed", ~between | (inside["owed"] != 0))
    room = inside["finals.level"] <= _BURSTS - 1
    claims.invariant("room_to_begin", ~walk.pieces.ready | (room & (offers.level <= _OFFERS - 1)))
    claims.invariant("read_or_sent", finals.count == pieces.count + ends + whole)
