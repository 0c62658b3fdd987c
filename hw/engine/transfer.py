"""What LOAD and STORE share: the walk over planes and rows with its checks, and the split of a row into
bursts."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systolith.hw.interfaces import HwErrorCode, command_layout
from systolith.hw.leaf.loop import Loop
from systolith.hw.soc.axi import PAGE_BYTES
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Engine, Region, Space, isa_for
from systolith.spec.memory import BURST_BEATS

__all__ = ["BURST_OFFERS", "RegionSignature", "RowWalker", "piece_layout", "row_layout"]

#: Bursts that wait for the bus in LOAD and in STORE, so that the walk does not depend on whether it takes
#: one.
BURST_OFFERS = 4


class RegionSignature(wiring.Signature):
    """Base and size of both regions of external memory; bases are multiples of the bus width;
    quasi-static."""

    def __init__(self, arch: ArchConfig) -> None:
        window = wiring.Signature({"base": Out(arch.addr_bits), "size": Out(32)})
        super().__init__({"program": Out(window), "data": Out(window)})


def _sram_bits(arch: ArchConfig) -> int:
    return next(f.bits for f in isa_for(arch).by_mnemonic["LOAD"].fields if f.name == "base")


def row_layout(arch: ArchConfig) -> data.StructLayout:
    """One row: where byte 0 of its first beat goes, its first and last lane, the beats it spans minus 1."""
    sram = _sram_bits(arch)
    lane = max(1, (arch.bus_bytes - 1).bit_length())
    return data.StructLayout(
        {
            "sram": sram,
            "first": lane,
            "last": lane,
            "beats": max(1, sram),
            "space": _space_bits(arch),
            "final": 1,
            "error": HwErrorCode,
        }
    )


def _space_bits(arch: ArchConfig) -> int:
    """Width of operand `space`."""
    return next(f.bits for f in isa_for(arch).by_mnemonic["LOAD"].fields if f.name == "space")


def piece_layout(arch: ArchConfig) -> data.StructLayout:
    """One burst of a row: its bus address and beats minus 1, the row, whether it begins and ends the row."""
    return data.StructLayout(
        {
            "addr": arch.addr_bits,
            "len": range(BURST_BEATS),
            "row": row_layout(arch),
            "begins": 1,
            "ends": 1,
        }
    )


class RowWalker(wiring.Component):
    """Turns a LOAD or STORE into bursts.

    Each row is checked as a whole: it must lie in its region and in its SRAM, and be aligned to beats except
    in the activation SRAM. A row that fails is one piece with `row.error` set that does not end it; then the
    walker is silent until reset. `row.sram` is, for each piece, the SRAM address of byte 0 of its first beat
    (it may lie before the row).

    Parameters
    ----------
    engine : Engine   LOAD or STORE

    Members
    -------
    cmd : In(stream)          instructions
    pieces : Out(stream)      bursts in order
    failed : Out(1)           the piece at hand, or the last one, is a row that failed
    regions : In(RegionSignature)

    Timing
    ------
    One row per cycle, and behind a piece that does not end its row a cycle more; the first `timing.ROW_WALK`
    cycles after its command, with one bubble between commands.
    """

    def __init__(self, arch: ArchConfig, engine: Engine) -> None:
        if engine not in (Engine.LOAD, Engine.STORE):
            raise ValueError(f"Engine must be LOAD or STORE, not {engine!r}")
        self._arch = arch
        self._engine = engine
        super().__init__(
            {
                "cmd": In(stream.Signature(command_layout(arch, engine))),
                "pieces": Out(stream.Signature(piece_layout(arch))),
                "failed": Out(1),
                "regions": In(RegionSignature(arch)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        taken = Signal()
        measured = Signal()
        self._walk(m, ~measured | taken)
        self._measure(m, measured, taken)
        self._split(m, measured, taken)
        return m

    def _walk(self, m: Module, ready: Value) -> None:
        """Registers `_op` and the position of the next row; offers one row per cycle."""
        sram_bits = _sram_bits(self._arch)
        body = self.cmd.payload.body[self._engine.name]
        self._op = op = Signal.like(body, name="op", reset_less=True)
        self._active = active = Signal()
        self._offset = offset = Signal(32, reset_less=True)
        self._sram = sram = Signal(sram_bits, reset_less=True)
        plane_offset = Signal(32, reset_less=True)
        plane_sram = Signal(sram_bits, reset_less=True)
        row, plane = Loop(m, len(body.rows), "row"), Loop(m, len(body.planes), "plane")
        self._final = final = Signal()
        m.d.comb += [self.cmd.ready.eq(~active), final.eq(row.last & plane.last)]
        with m.If(self.cmd.ready):
            # Latched even when `valid` is low, which keeps the token logic off the operand path.
            row.begin(body.rows)
            plane.begin(body.planes)
            m.d.sync += [
                op.eq(body),
                active.eq(self.cmd.valid),
                offset.eq(body.offset),
                plane_offset.eq(body.offset),
                sram.eq(body.base),
                plane_sram.eq(body.base),
            ]
        with m.Elif(active & ready):
            with m.If(~row.last):
                row.step()
                m.d.sync += [offset.eq(offset + op.ext_row), sram.eq(sram + op.row)]
            with m.Else():
                row.begin(op.rows)
                plane.step()
                m.d.sync += [
                    offset.eq(plane_offset + op.ext_plane),
                    plane_offset.eq(plane_offset + op.ext_plane),
                    sram.eq(plane_sram + op.plane),
                    plane_sram.eq(plane_sram + op.plane),
                ]
            with m.If(final):
                m.d.sync += active.eq(0)

    def _measure(self, m: Module, measured: Signal, taken: Signal) -> None:
        """Registers the beats and the ends of the next row, from which its checks and its first burst
        follow."""
        arch, op = self._arch, self._op
        lane_bits = (arch.bus_bytes - 1).bit_length()
        self._row = row = Signal(row_layout(arch), name="measured_row", reset_less=True)
        self._beat = beat = Signal(arch.addr_bits - lane_bits, name="measured_beat", reset_less=True)
        # Where the last byte lies in external memory and on chip.
        self._last_offset = last_offset = Signal(33, reset_less=True)
        self._last_sram = last_sram = Signal(_sram_bits(arch) + 1, reset_less=True)
        self._program = program = Signal(reset_less=True)
        self._size = size = Signal(32, name="size", reset_less=True)
        self._misaligned = misaligned = Signal(reset_less=True)
        lane = self._offset[:lane_bits]
        last = Signal(len(op.bytes) + 1)
        in_program = op.region == Region.PROGRAM
        base = Mux(in_program, self.regions.program.base, self.regions.data.base)
        m.d.comb += last.eq(lane + op.bytes)
        with m.If(~measured | taken):
            m.d.sync += [
                measured.eq(self._active),
                beat.eq((base >> lane_bits) + (self._offset >> lane_bits)),
                row.sram.eq(self._sram - lane),
                row.first.eq(lane),
                row.last.eq(last[:lane_bits]),
                row.beats.eq(last >> lane_bits),
                row.final.eq(self._final),
                last_offset.eq(self._offset + op.bytes),
                last_sram.eq(self._sram + op.bytes),
                program.eq(in_program),
                size.eq(Mux(in_program, self.regions.program.size, self.regions.data.size)),
            ]
            if self._engine is Engine.LOAD:
                aligned = ~(self._offset[:lane_bits] | self._sram[:lane_bits] | ~op.bytes[:lane_bits]).any()
                m.d.sync += [row.space.eq(op.space), misaligned.eq((op.space != Space.ACT) & ~aligned)]

    def _check(self, m: Module) -> Signal:
        """The error of the measured row, NONE if it may be moved."""
        arch = self._arch
        error = Signal(HwErrorCode)
        capacity = Signal(
            range(max(arch.act_bytes, arch.weight_bytes, arch.param_bytes, arch.table_bytes) + 1)
        )
        m.d.comb += capacity.eq(arch.act_bytes)
        if self._engine is Engine.LOAD:
            with m.Switch(self._row.space):
                for space, capacity_bytes in (
                    (Space.WEIGHT, arch.weight_bytes),
                    (Space.PARAM, arch.param_bytes),
                    (Space.TABLE, arch.table_bytes),
                ):
                    with m.Case(space):
                        m.d.comb += capacity.eq(capacity_bytes)
        with m.If((self._last_sram >= capacity) | self._misaligned):
            m.d.comb += error.eq(HwErrorCode.OPERAND_RANGE)
        with m.If(self._last_offset >= self._size):
            m.d.comb += error.eq(HwErrorCode.REGION)
        if self._engine is Engine.STORE:
            with m.If(self._program):
                m.d.comb += error.eq(HwErrorCode.REGION)
        return error

    def _split(self, m: Module, measured: Signal, taken: Signal) -> None:
        """Registers one row with the length of its next piece: up to 16 beats, and not over the end of a
        page."""
        arch = self._arch
        lane_bits = (arch.bus_bytes - 1).bit_length()
        row = Signal(row_layout(arch), reset_less=True)
        valid, failed = Signal(), self.failed
        # The piece at hand is known; it is the row's last one; it is to be known next.
        known, ends, later = Signal(), Signal(), Signal()
        begins = Signal(reset_less=True)
        beat = Signal.like(self._beat, name="beat", reset_less=True)
        left = Signal.like(row.beats, name="left", reset_less=True)
        count = Signal(range(BURST_BEATS), reset_less=True)
        piece = self.pieces.payload
        m.d.comb += [
            self.pieces.valid.eq(known),
            piece.addr.eq(Cat(Const(0, lane_bits), beat)),
            piece.len.eq(count),
            piece.row.eq(row),
            piece.begins.eq(begins),
            piece.ends.eq(ends),
            taken.eq(~valid | (ends & self.pieces.ready)),
        ]
        # A row that is taken comes with its first piece; a later piece is looked at when the row has moved
        # on.
        from_beat, from_left = Signal.like(beat, name="from_beat"), Signal.like(left, name="from_left")
        page_left = Signal(range(PAGE_BYTES // arch.bus_bytes))
        next_count, next_ends = Signal.like(count, name="next_count"), Signal()
        m.d.comb += [
            from_beat.eq(Mux(later, beat, self._beat)),
            from_left.eq(Mux(later, left, self._row.beats)),
            # Beats to the end of the page, minus 1: the complement of the beat's index in it.
            page_left.eq(~from_beat[: len(page_left)]),
            next_ends.eq((from_left <= page_left) & (from_left < BURST_BEATS)),
            next_count.eq(
                Mux(next_ends, from_left, Mux(page_left < BURST_BEATS, page_left, BURST_BEATS - 1))
            ),
        ]
        m.d.sync += later.eq(0)
        with m.If(known & self.pieces.ready):
            m.d.sync += [
                known.eq(0),
                later.eq(~ends & ~failed),
                ends.eq(0),
                begins.eq(0),
                beat.eq(beat + count + 1),
                left.eq(left - count - 1),
                row.sram.eq(row.sram + ((count + 1) << lane_bits)),
            ]
            with m.If(ends):
                m.d.sync += valid.eq(0)
        with m.If(later):
            m.d.sync += [known.eq(1), count.eq(next_count), ends.eq(next_ends)]
        error = self._check(m)
        with m.If(measured & taken):
            m.d.sync += [
                valid.eq(1),
                known.eq(1),
                begins.eq(1),
                beat.eq(self._beat),
                left.eq(self._row.beats),
                count.eq(next_count),
                # A row that fails never ends, so that none follows.
                ends.eq(next_ends & (error == HwErrorCode.NONE)),
                row.eq(self._row),
                row.error.eq(error),
                failed.eq(error != HwErrorCode.NONE),
            ]
