"""LOAD on the bus and at the memories: what comes is written where the walk says, and nothing else."""

from typing import Any
from unittest.mock import patch

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data

from systolith.hw.engine.load import LoadEngine
from systolith.hw.engine.transfer import row_layout
from systolith.spec.isa import Space
from tests.formal.kit.claims import Claims, Inside
from tests.formal.kit.plant import Plant
from tests.formal.kit.proof import proof
from tests.formal.kit.rings import Ring
from tests.formal.kit.streams import Passage, stays_offered
from tests.formal.kit.transfer import BUS, LANES, TINY, AnyWalk, lanes_of

_LOAD = "systolith.hw.engine.load"
#: Places in the queues of rows and of bursts, fewer than there are.
_ROWS, _OFFERS = 4, 4


def _engine(m: Module, claims: Claims) -> tuple[LoadEngine, Inside, AnyWalk]:
    engine = LoadEngine(TINY)
    constants = {"READ_BURSTS": _ROWS, "BURST_OFFERS": _OFFERS, "RowWalker": AnyWalk}
    with patch.dict(LoadEngine.elaborate.__globals__, **constants):
        inside = claims.design("engine", engine)
    return engine, inside, AnyWalk.free(m, claims)


@proof(
    Plant(
        "the mask of a row's end in its first beat",
        _LOAD,
        "with m.If(last):\n            m.d.comb += last_mask",
        "with m.If(first):\n            m.d.comb += last_mask",
        "beats_of_the_row",
    ),
    Plant(
        "the next row begins a beat early",
        _LOAD,
        "last_of_many.eq(index + 1 == row.beats)",
        "last_of_many.eq(index + 2 == row.beats)",
        "beats_of_the_row",
    ),
    Plant(
        "a beat is written twice",
        _LOAD,
        "accepted.eq(write & Mux(slot.tag.to_act, self.act.ready, ready))",
        "accepted.eq(write & Mux(slot.tag.to_act, self.act.ready & (tag.mask != 1), ready))",
        "written_where_it_belongs",
    ),
    Plant(
        "the rows' queue overflows",
        _LOAD,
        "(rows.w_level < READ_BURSTS - 1)",
        "(rows.w_level < READ_BURSTS + 1)",
        "no_queue_overflows",
    ),
    depth=2,
    cycles=12,
)
def load_bus(m: Module, claims: Claims) -> None:
    """LOAD's AXI side and its writes, where nothing fails: each piece of the walk becomes one burst, with its
    address and length, in order; each beat that comes is written once, unchanged, in order, to the memory of
    its row, to the next address of the row, in the row's lanes alone; `done` is with the last write of an
    instruction; offers stay; no queue overflows. With `load_walk`: nothing outside the SRAM. Queues of 4."""
    engine, inside, walk = _engine(m, claims)
    bus, piece = engine.bus, walk.pieces.payload
    claims.assume("nothing_fails", ~engine.engine.stop & ~walk.failed & ~bus.beats.payload.error)
    # A row without an error: what fails has one.
    claims.assume("no_errors", piece.row.error == 0)
    lost = [inside[f"{queue}.w_en"] & ~inside[f"{queue}.w_rdy"] for queue in ("rows", "offers")]
    claims.claim("no_queue_overflows", ~Cat(lost).any())
    bursts = bus.bursts
    stays = stays_offered(m, "bursts", bursts.valid, bursts.ready, bursts.payload.as_value())
    claims.claim("bursts_offer_stays", stays)
    begins = walk.pieces.valid & walk.pieces.ready
    offers = Ring(claims, inside, "offers", _OFFERS, buffered=False)
    addresses = Passage(
        m,
        claims,
        capacity=_OFFERS,
        enters=begins,
        entry=Cat(piece.addr, piece.len),
        leaves=bursts.valid & bursts.ready,
        exit=bursts.payload.as_value(),
        name="addresses",
    )
    claims.invariant("addresses_are_in_the_queue", addresses.count == offers.level)
    offers.holds(addresses)
    taken, given = _rows(m, claims, inside, engine, begins & piece.begins, piece.row, offers)
    _writes(m, claims, inside, engine, taken, given)


def _rows(
    m: Module, claims: Claims, inside: Inside, engine: LoadEngine, enters: Value, row: Any, offers: Ring
) -> tuple[Value, Any]:
    """From rows to writes; returns when one is asked for, and which."""
    beats = engine.bus.beats
    taken = inside["slot.register.i__valid"] & inside["slot.register.i__ready"]
    asked = inside["slot.register.i__payload"]
    _, tag, _, _ = inside.ports("tags")
    lines = len(tag) - TINY.bus_bits - BUS - 1
    written = data.View(
        data.StructLayout(
            {
                "beat": lines,
                "data": TINY.bus_bits,
                "mask": BUS,
                "final": 1,
                "addr": lines + LANES,
                "space": 2,
                "to_act": 1,
            }
        ),
        Cat(tag, asked[: lines + LANES + 3]),
    )
    #: The beat of the row.
    index, held = Signal(13, name="beat_index"), data.View(row_layout(TINY), inside["row"])
    ends = Signal(name="ends")
    m.d.comb += ends.eq(index == held.beats)
    rows = Passage(
        m,
        claims,
        capacity=_ROWS + 1,
        enters=enters,
        entry=row,
        leaves=taken & ends,
        exit=held,
        name="rows",
    )
    with m.If(taken):
        m.d.sync += index.eq(Mux(ends, 0, index + 1))
    ring, has_row = Ring(claims, inside, "rows", _ROWS, buffered=True), inside["has_row"]
    width = row_layout(TINY).size
    claims.invariant("rows_are_counted", rows.count == ring.level + has_row)
    claims.invariant("row_at_hand", ~has_row | rows.lies(0, held))
    ring.holds(rows, has_row, slice(width))
    layout = row_layout(TINY)
    watched = data.View(layout, rows.kept)
    first = Mux(index == 0, watched.first, 0)
    last = Mux(index == watched.beats, watched.last, BUS - 1)
    address = (watched.sram + (index << LANES))[: lines + LANES]
    right = [
        written.addr == address,
        written.beat == address >> LANES,
        written.mask == lanes_of(first, last),
        written.space == watched.space,
        written.to_act == (watched.space == Space.ACT),
        written.final == (watched.final & (index == watched.beats)),
    ]
    claims.claim("beats_of_the_row", ~(rows.turn & taken) | Cat(right).all())
    read = Passage(
        m,
        claims,
        capacity=2,
        enters=beats.valid & beats.ready,
        entry=beats.payload.data,
        leaves=taken,
        exit=written.data,
        name="read",
    )
    read.in_register(inside, "arrived", slice(TINY.bus_bits))
    clean = [
        ~there | ~inside[f"arrived.{place}"][TINY.bus_bits]
        for there, place in ((inside["arrived.o__valid"], "first"), (inside["arrived.waits"], "second"))
    ]
    claims.invariant("no_error_came", Cat(clean).all())
    claims.invariant("never_stopped", ~inside["stopped"])
    claims.invariant("no_error_waits", ~has_row | (held.error == 0))
    for at, (live, entry) in enumerate(ring.live()):
        claims.invariant(f"no_error_row{at}", ~live | (data.View(layout, entry[:width]).error == 0))
    waits, at_exit = inside["rows.r_rdy"], inside["rows.r_data"]
    claims.invariant("no_error_next", ~waits | (data.View(layout, at_exit[:width]).error == 0))
    for name, there, entry in (("hand", has_row, None), ("next", waits, at_exit)):
        if entry is not None:
            of = data.View(layout, entry[:width])
            claims.invariant(f"single_{name}", ~there | (entry[-1] == (of.beats == 0)))
    for at, (live, entry) in enumerate(ring.live()):
        of = data.View(layout, entry[:width])
        claims.invariant(f"single_row{at}", ~live | (entry[-1] == (of.beats == 0)))
    claims.invariant("single_at_hand", ~has_row | (inside["single"] == (held.beats == 0)))
    claims.invariant("index", index == inside["index"])
    own = inside.own()
    (first_at,) = [at for at, signal in enumerate(own) if signal.init == 1]
    is_first, last_of_many = own[first_at : first_at + 2]
    claims.invariant("first", is_first == (index == 0))
    claims.invariant("last_of_many", ~has_row | is_first | (last_of_many == (index == held.beats)))
    claims.invariant("index_in_a_row", Mux(has_row, index <= held.beats, index == 0))
    claims.invariant("room", ~inside["may_begin"] | ((ring.level < _ROWS) & (offers.level < _OFFERS)))
    claims.cover("second_beat", rows.turn & taken & (index == 1))
    return taken, written


def _writes(m: Module, claims: Claims, inside: Inside, engine: LoadEngine, taken: Value, given: Any) -> None:
    """From what was asked for to the memories."""
    ports = {Space.WEIGHT: engine.weights, Space.PARAM: engine.params, Space.TABLE: engine.tables}
    moves = {Space.ACT: engine.act.valid & engine.act.ready}
    moves |= {space: port.valid & port.ready for space, port in ports.items()}
    accepted = Cat(moves.values()).any()
    write_at, _, read_at, tag = inside.ports("tags")
    addr = inside["slot.register.first"]
    width = len(given.addr) + 3
    writes = Passage(
        m,
        claims,
        capacity=2,
        enters=taken,
        entry=given,
        leaves=accepted,
        exit=Cat(tag, addr[:width]),
        name="writes",
    )
    kept = data.View(given.shape(), writes.kept)
    right = [~(kept.space == space) | (moves[space] == accepted) for space in Space]
    act = engine.act
    in_act = (act.addr == kept.addr) & (act.mask == kept.mask) & (Cat(act.data)[: TINY.bus_bits] == kept.data)
    right.append(~moves[Space.ACT] | in_act)
    for space, port in ports.items():
        same = (port.beat == kept.beat[: len(port.beat)]) & (port.data == kept.data)
        right.append(~moves[space] | same)
    several = [a & b for at, a in enumerate(moves.values()) for b in list(moves.values())[:at]]
    claims.claim("one_memory_at_a_time", ~Cat(several).any())
    claims.claim("written_where_it_belongs", ~(writes.turn & accepted) | Cat(right).all())
    claims.claim("done_with_the_last_write", ~writes.turn | (engine.engine.done == (accepted & kept.final)))
    valid, waits = inside["slot.register.o__valid"], inside["slot.register.waits"]
    claims.invariant("writes_are_in_the_slot", writes.count == valid + waits)
    claims.invariant("slot_from_the_front", ~waits | valid)
    tags = len(tag)
    for name, at in (("first", 0), ("second", 1)):
        held = inside[f"slot.register.{name}"][:width]
        here = writes.watched & (writes.ahead == at)
        claims.invariant(f"slot_{name}", ~here | (held == writes.kept[tags:]))
        claims.invariant(f"to_act_{name}", (writes.count <= at) | (held[-1] == (held[-3:-1] == Space.ACT)))
    claims.invariant("tags_in_step", write_at == (read_at + writes.count)[: len(write_at)])
    place = (read_at + writes.ahead)[: len(read_at)]
    for at, row in enumerate(inside.rows("tags")):
        here = writes.watched & (place == at)
        claims.invariant(f"tag{at}", ~here | (row == writes.kept[:tags]))


@proof(
    Plant(
        "what comes after a stop is written",
        _LOAD,
        "write = slot.valid & ~stopped",
        "write = slot.valid",
        "nothing_is_written_after_a_stop",
    ),
    Plant(
        "a burst begins after a stop",
        _LOAD,
        "self.bus.bursts.valid.eq(offers.r_rdy & ~stopped)",
        "self.bus.bursts.valid.eq(offers.r_rdy)",
        "no_burst_after_a_stop",
    ),
    Plant(
        "an error is passed over",
        _LOAD,
        "bus_error.eq(here & has_row & ~stopped & beat.error & ~slot.valid)",
        "bus_error.eq(here & has_row & ~stopped & beat.error & ~slot.valid & ~row.final)",
        "an_error_is_reported",
    ),
    depth=3,
    cycles=12,
)
def load_stops(m: Module, claims: Claims) -> None:
    """From the cycle after an error or a stop on LOAD writes nothing and begins no burst, and takes what
    still comes from the bus; a beat that the bus reports as bad is never written, and is reported once all
    older ones are written."""
    engine, inside, walk = _engine(m, claims)
    claims.assume("an_error_has_its_row", walk.failed == (walk.pieces.payload.row.error != 0))
    halted = Signal()
    with m.If(engine.engine.error | engine.engine.stop):
        m.d.sync += halted.eq(1)
    ports = (engine.act, engine.weights, engine.params, engine.tables)
    claims.claim("nothing_is_written_after_a_stop", ~halted | ~Cat(port.valid for port in ports).any())
    claims.claim("no_burst_after_a_stop", ~halted | ~engine.bus.bursts.valid)
    # The two that wait in the register are dropped, too.
    claims.claim("what_comes_is_taken", ~(halted & _held(m, halted)) | engine.bus.beats.ready)
    claims.invariant("halted", halted == inside["stopped"])
    bad = inside["arrived.o__valid"] & inside["arrived.first"][TINY.bus_bits]
    taken = inside["slot.register.i__valid"] & inside["slot.register.i__ready"]
    claims.claim("a_bad_beat_is_not_written", ~(bad & taken))
    waits = bad & inside["has_row"] & ~halted & ~inside["slot.register.o__valid"]
    claims.claim("an_error_is_reported", ~waits | engine.engine.error)
    claims.cover("reports", waits & engine.engine.error)


def _held(m: Module, flag: Value) -> Signal:
    """The flag was 1 in the cycle before."""
    before = Signal(name="was_halted")
    m.d.sync += before.eq(flag)
    return before
