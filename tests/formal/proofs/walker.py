"""The walk of LOAD and STORE over external memory: every row is checked, every burst lies in its region."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data

from systolith.hw.engine.transfer import RowWalker, row_layout
from systolith.hw.interfaces import HwErrorCode
from systolith.hw.soc.axi import PAGE_BYTES
from systolith.spec.isa import Engine, Region, Space
from systolith.spec.memory import BURST_BEATS
from tests.formal.kit.claims import Claims, Inside
from tests.formal.kit.plant import Plant
from tests.formal.kit.proof import proof
from tests.formal.kit.streams import stays_offered
from tests.formal.kit.transfer import BUS, LANES, TINY, hold_regions

_TRANSFER = "systolith.hw.engine.transfer"
_CAPACITY = {
    Space.ACT: TINY.act_bytes,
    Space.WEIGHT: TINY.weight_bytes,
    Space.PARAM: TINY.param_bytes,
    Space.TABLE: TINY.table_bytes,
}


@dataclass(frozen=True)
class _Row:
    """A row as the instruction has it: its first byte in region and SRAM, its bytes minus 1, its operands."""

    offset: Signal
    sram: Signal
    bytes: Signal
    program: Signal
    space: Signal

    @classmethod
    def named(cls, name: str) -> "_Row":
        widths = {"offset": 32, "sram": 13, "bytes": 13, "program": 1, "space": 2}
        return cls(**{of: Signal(bits, name=f"{name}_{of}") for of, bits in widths.items()})

    def follows(self, before: "_Row") -> list[Any]:
        return [getattr(self, f.name).eq(getattr(before, f.name)) for f in dataclasses.fields(self)]

    @property
    def lane(self) -> Value:
        return self.offset[:LANES]

    @property
    def beats(self) -> Value:
        """Beats minus 1."""
        return (self.lane + self.bytes) >> LANES


def _capacity(m: Module, space: Value, name: str) -> Signal:
    """Bytes of the SRAM that a row's space names."""
    found = Signal(range(max(_CAPACITY.values()) + 1), name=name)
    with m.Switch(space):
        for member, size in _CAPACITY.items():
            with m.Case(member):
                m.d.comb += found.eq(size)
    return found


def _follow(m: Module, inside: Inside, engine: Engine, layout: Any) -> tuple[_Row, _Row]:
    """The row that is measured and the one that is offered, as they come from the instruction."""
    op = data.View(layout, inside["op"])
    measured, taken = inside["measured"], inside["taken"]
    first, second = _Row.named("measured"), _Row.named("offered")
    with m.If(~measured | taken):
        m.d.sync += [
            first.offset.eq(inside["_offset"]),
            first.sram.eq(inside["_sram"]),
            first.bytes.eq(op.bytes),
            first.program.eq(op.region == Region.PROGRAM),
        ]
        if engine is Engine.LOAD:
            m.d.sync += first.space.eq(op.space)
    with m.If(measured & taken):
        m.d.sync += second.follows(first)
    return first, second


def _measured(
    m: Module, claims: Claims, inside: Inside, at: _Row, base: Value, size: Value, engine: Engine
) -> None:
    """Invariants of the registers in which a row is measured."""
    row = data.View(row_layout(TINY), inside["measured_row"])
    last = at.lane + at.bytes
    right = [
        inside["measured_beat"] == ((base >> LANES) + (at.offset >> LANES))[: 32 - LANES],
        row.sram == (at.sram - at.lane)[:13],
        row.first == at.lane,
        row.last == last[:LANES],
        row.beats == at.beats,
        inside["_last_offset"] == at.offset + at.bytes,
        inside["_last_sram"] == at.sram + at.bytes,
        inside["_program"] == at.program,
        inside["size"] == size,
    ]
    if engine is Engine.LOAD:
        odd = (at.lane | at.sram[:LANES] | ~at.bytes[:LANES]).any()
        right += [row.space == at.space, inside["_misaligned"] == ((at.space != Space.ACT) & odd)]
    else:
        piece = data.View(row_layout(TINY), inside["row"])
        claims.invariant("stores_are_of_act", (row.space == Space.ACT) & (piece.space == Space.ACT))
    for index, condition in enumerate(right):
        claims.invariant(f"measured{index}", ~inside["measured"] | condition)


def _walk(m: Module, claims: Claims, engine: Engine) -> None:
    walker = RowWalker(TINY, engine)
    inside = claims.design("walker", walker)
    bounds = hold_regions(m, claims, walker.regions)
    first, at = _follow(m, inside, engine, walker.cmd.payload.body[engine.name].shape())

    def window(row: _Row) -> tuple[Value, Value]:
        (base, size), (data_base, data_size) = bounds["program"], bounds["data"]
        return Mux(row.program, base, data_base), Mux(row.program, size, data_size)

    _measured(m, claims, inside, first, *window(first), engine)
    piece, offered, failed = walker.pieces.payload, walker.pieces.valid, walker.failed
    row, moves = piece.row, walker.pieces.valid & walker.pieces.ready
    base, size = window(at) if engine is Engine.LOAD else bounds["data"]
    # The bytes of the piece that are moved, first and last, in external memory and in the SRAM.
    skipped, end = Signal(LANES), Signal(LANES)
    span, low, high, there = Signal(14), Signal(34), Signal(34), Signal(13)
    m.d.comb += [
        skipped.eq(Mux(piece.begins, row.first, 0)),
        end.eq(Mux(piece.ends, row.last, BUS - 1)),
        span.eq((piece.len << LANES) + end - skipped),
        low.eq(piece.addr + skipped),
        high.eq(low + span),
        there.eq(row.sram + skipped),
    ]
    capacity = _capacity(m, row.space, "capacity")
    good = offered & ~failed
    moved = Signal(14)
    with m.If(inside["measured"] & inside["taken"]):
        m.d.sync += moved.eq(0)
    with m.Elif(moves):
        m.d.sync += moved.eq(moved + piece.len + 1)
    # From the region's base on: the piece's first beat, and its last byte.
    start, stop = Signal(34, name="start"), Signal(34, name="stop")
    m.d.comb += [start.eq(at.offset - at.lane + (moved << LANES)), stop.eq(start + skipped + span)]
    claims.claim("inside_its_region", ~good | ((low >= base) & (high < base + size)))
    claims.claim("inside_its_sram", ~good | (there + span < capacity))
    whole = (skipped == 0) & (end == BUS - 1) & (row.sram[:LANES] == 0)
    claims.claim("whole_beats_but_to_act", ~good | (row.space == Space.ACT) | whole)
    in_page = piece.addr[: (PAGE_BYTES - 1).bit_length()]
    claims.claim("inside_a_page", ~offered | (in_page + ((piece.len + 1) << LANES) <= PAGE_BYTES))
    claims.claim("whole_beats_of_the_bus", ~offered | (piece.addr[:LANES] == 0))
    stays = stays_offered(m, "piece", offered, walker.pieces.ready, piece.as_value())
    claims.claim("offer_stays", stays)
    if engine is Engine.STORE:
        claims.claim("no_store_to_program", ~good | ~at.program)
    # What is refused, and with which code.
    lies_out = at.offset + at.bytes >= size
    odd = (at.lane | at.sram[:LANES] | ~at.bytes[:LANES]).any()
    odd = (at.space != Space.ACT) & odd if engine is Engine.LOAD else 0
    lies_out = lies_out | (at.program if engine is Engine.STORE else 0)
    own = _capacity(m, at.space, "own_capacity")
    wrong = (at.sram + at.bytes >= own) | odd
    code = Mux(lies_out, HwErrorCode.REGION.value, Mux(wrong, HwErrorCode.OPERAND_RANGE.value, 0))
    if engine is Engine.STORE:
        # The size of the region that the instruction names is compared; a store to PROGRAM fails anyway.
        code = Mux(at.program, HwErrorCode.REGION.value, code)
    claims.claim("refused_with_its_code", ~offered | (row.error == code))
    claims.claim("failed_says_so", ~offered | (failed == (row.error != HwErrorCode.NONE)))
    silent = Signal()
    with m.If(moves & failed):
        m.d.sync += silent.eq(1)
    claims.claim("silent_after_a_failure", ~(silent & offered))
    # The pieces of a row follow each other, and are all of it.
    done = (moved << LANES) + (piece.len << LANES) + end - at.lane
    claims.claim("a_row_is_whole", ~(good & piece.ends) | (done == at.bytes))
    claims.claim("a_row_begins_once", ~offered | (piece.begins == (moved == 0)))
    follows = piece.addr == (base + at.offset - at.lane + (moved << LANES))[:32]
    claims.claim("pieces_follow_each_other", ~good | follows)
    _offered(m, claims, inside, walker, at, moved, code, window(at)[0], silent)
    # Steps to the claims of region and SRAM, one by one.
    claims.invariant("starts_behind_base", ~good | (piece.addr == (base + start)[:32]))
    claims.invariant("stops_in_its_row", ~good | (stop <= at.offset + at.bytes))
    claims.invariant("starts_before_it_stops", ~good | (start <= stop))
    claims.invariant("row_in_its_region", ~good | (at.offset + at.bytes < size))
    claims.invariant("no_wrap", ~good | (piece.addr == base + start))
    claims.invariant("first_byte", ~good | (low == base + (start + skipped)))
    claims.invariant("last_byte", ~good | (high == base + stop))
    claims.invariant("last_byte_in_region", ~good | (stop < size))
    claims.cover("a_row_of_two_bursts", good & piece.ends & ~piece.begins)
    claims.cover("refused", offered & failed)


def _offered(
    m: Module,
    claims: Claims,
    inside: Inside,
    walker: RowWalker,
    at: _Row,
    moved: Value,
    code: Value,
    base: Value,
    silent: Value,
) -> None:
    """Invariants of the row that is offered. What the walker knows of it follows from what it does; two
    cycles tell."""
    piece, known, ready = walker.pieces.payload, walker.pieces.valid, walker.pieces.ready
    row, left = piece.row, inside["left"]
    #: There is a row; its next piece is about to be known.
    valid, later = Signal(name="has_row"), Signal(name="about_to_offer")
    m.d.sync += later.eq(known & ready & ~piece.ends & ~walker.failed)
    with m.If(known & ready & piece.ends):
        m.d.sync += valid.eq(0)
    with m.If(inside["measured"] & inside["taken"]):
        m.d.sync += valid.eq(1)
    beat = piece.addr >> LANES
    to_page = (PAGE_BYTES // BUS - 1) - (beat & (PAGE_BYTES // BUS - 1))
    fits = (left <= to_page) & (left < BURST_BEATS)
    last = at.lane + at.bytes
    right = {
        "beat": beat == ((base >> LANES) + (at.offset >> LANES) + moved)[: 32 - LANES],
        "left": left == (at.beats - moved)[:13],
        "moved": moved <= at.beats,
        "sram": row.sram == (at.sram - at.lane + (moved << LANES))[:13],
        "lanes": (row.first == at.lane) & (row.last == last[:LANES]),
        "space": row.space == at.space,
        "code": row.error == code,
        "failed": walker.failed == (row.error != HwErrorCode.NONE),
        "begins": piece.begins == (moved == 0),
        "count": ~known
        | (piece.len == Mux(fits, left, Mux(to_page < BURST_BEATS, to_page, BURST_BEATS - 1))),
        "ends": ~known | (piece.ends == (fits & (row.error == HwErrorCode.NONE))),
    }
    # What is behind the one piece of a row that failed does not matter.
    live = valid & (known | (row.error == HwErrorCode.NONE))
    for name, condition in right.items():
        claims.invariant(f"offered_{name}", ~live | condition)
    claims.invariant("taken_when_it_ends", inside["taken"] == (~valid | (piece.ends & ready)))
    claims.invariant("known_of_a_row", ~known | valid)
    claims.invariant("next_is_to_be_known", ~later | (valid & ~known))
    bad = (row.error != HwErrorCode.NONE) & walker.failed
    claims.invariant("failed_row_stays", ~silent | (valid & ~known & ~later & bad))
    claims.invariant("a_row_waits_for_its_piece", ~valid | known | later | silent)
    claims.invariant("ends_only_known", ~piece.ends | known)


_PLANTS = (
    Plant(
        "the region's end is a byte late",
        _TRANSFER,
        "with m.If(self._last_offset >= self._size)",
        "with m.If(self._last_offset > self._size)",
        "inside_its_region",
    ),
    Plant(
        "the end of a row wraps at 32 bits",
        _TRANSFER,
        "last_offset = Signal(33, reset_less=True)",
        "last_offset = Signal(32, reset_less=True)",
        "inside_its_region",
    ),
    Plant(
        "the SRAM's end is a byte late",
        _TRANSFER,
        "(self._last_sram >= capacity)",
        "(self._last_sram > capacity)",
        "inside_its_sram",
    ),
    Plant(
        "a burst crosses a page",
        _TRANSFER,
        "Mux(page_left < BURST_BEATS, page_left, BURST_BEATS - 1)",
        "BURST_BEATS - 1",
        "inside_a_page",
    ),
    Plant(
        "the walk goes on behind a failure",
        _TRANSFER,
        "ends.eq(next_ends & (error == HwErrorCode.NONE))",
        "ends.eq(next_ends)",
        "silent_after_a_failure",
    ),
)


@proof(*_PLANTS, depth=2, cycles=8)
def load_walk(m: Module, claims: Claims) -> None:
    """LOAD's bursts: all bytes that one moves lie in the region that the instruction names and in the SRAM
    that it names, whole beats but for the activation SRAM; a burst lies in a page of 4 KiB; a row comes
    whole, in pieces that follow each other; one that does not fit is refused with its code, and nothing comes
    after it. For all instructions, and all regions that a
    driver may set: bases are multiples of the bus's width, ends within the address space."""
    _walk(m, claims, Engine.LOAD)


@proof(
    _PLANTS[0],
    Plant(
        "a store to PROGRAM is let through",
        _TRANSFER,
        "with m.If(self._program):",
        "with m.If(self._program & self._misaligned):",
        "no_store_to_program",
    ),
    depth=2,
    cycles=8,
)
def store_walk(m: Module, claims: Claims) -> None:
    """STORE's bursts: all bytes that one moves lie in DATA and in the activation SRAM, never in PROGRAM; the
    rest as of LOAD. For all instructions, and all regions that a
    driver may set: bases are multiples of the bus's width, ends within the address space."""
    _walk(m, claims, Engine.STORE)
