"""What LOAD and STORE share: the walk over planes and rows with its checks, and the split of a row into bursts."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systolith.hw.interfaces import HwErrorCode, command_layout
from systolith.hw.leaf.loop import Loop
from systolith.hw.leaf.stream_register import StreamRegister
from systolith.hw.soc.axi import PAGE_BYTES
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Engine, Region, Space, isa_for
from systolith.spec.memory import BURST_BEATS

__all__ = ["RegionSignature", "RowWalker", "piece_layout", "row_layout"]


class RegionSignature(wiring.Signature):
    """Base and size of both regions of external memory; bases are multiples of the bus width; quasi-static."""

    def __init__(self, arch: ArchConfig) -> None:
        window = wiring.Signature({"base": Out(arch.addr_bits), "size": Out(32)})
        super().__init__({"program": Out(window), "data": Out(window)})


def _sram_bits(arch: ArchConfig) -> int:
    return next(f.bits for f in isa_for(arch).by_mnemonic["LOAD"].fields if f.name == "base")


def row_layout(arch: ArchConfig) -> data.StructLayout:
    """One row: where byte 0 of its first beat goes, its first and last lane, the beats it spans minus 1."""
    sram = _sram_bits(arch)
    lane = max(1, (arch.bus_bytes - 1).bit_length())
    return data.StructLayout({
        "sram": sram, "first": lane, "last": lane, "beats": max(1, sram), "space": _space_bits(arch), "final": 1, "error": HwErrorCode,
    })


def _space_bits(arch: ArchConfig) -> int:
    """Width of operand `space`."""
    return next(f.bits for f in isa_for(arch).by_mnemonic["LOAD"].fields if f.name == "space")


def piece_layout(arch: ArchConfig) -> data.StructLayout:
    """One burst of a row: its bus address and beats minus 1, the row, whether it begins and ends the row."""
    return data.StructLayout({
        "addr": arch.addr_bits, "len": range(BURST_BEATS), "row": row_layout(arch), "begins": 1, "ends": 1,
    })


class RowWalker(wiring.Component):
    """Turns a LOAD or STORE into bursts.

    Each row is checked as a whole: it must lie in its region and in its SRAM, and be aligned to beats except in the
    activation SRAM. A row that fails is one piece with `row.error` set, after which the walker is silent until reset.
    `row.sram` is, for each piece, the SRAM address of byte 0 of its first beat (it may lie before the row).

    Parameters
    ----------
    engine : Engine   LOAD or STORE

    Members
    -------
    cmd : In(stream)          instructions
    pieces : Out(stream)      bursts in order
    regions : In(RegionSignature)

    Timing
    ------
    One piece per cycle, also over the border of rows; the first three cycles after its command, with one bubble between commands.
    """

    def __init__(self, arch: ArchConfig, engine: Engine) -> None:
        if engine not in (Engine.LOAD, Engine.STORE):
            raise ValueError(f"Engine must be LOAD or STORE, not {engine!r}")
        self._arch = arch
        self._engine = engine
        super().__init__({
            "cmd": In(stream.Signature(command_layout(arch, engine))),
            "pieces": Out(stream.Signature(piece_layout(arch))),
            "regions": In(RegionSignature(arch)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        row_ready = Signal()
        self._walk(m, row_ready)
        self._split(m, row_ready)
        return m

    def _walk(self, m: Module, row_ready: Signal) -> None:
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
            # Also what is no command yet, so that its tokens are on no path but that to `active`.
            row.begin(body.rows)
            plane.begin(body.planes)
            m.d.sync += [op.eq(body), active.eq(self.cmd.valid), offset.eq(body.offset), plane_offset.eq(body.offset),
                         sram.eq(body.base), plane_sram.eq(body.base)]
        with m.Elif(active & row_ready):
            with m.If(~row.last):
                row.step()
                m.d.sync += [offset.eq(offset + op.ext_row), sram.eq(sram + op.row)]
            with m.Else():
                row.begin(op.rows)
                plane.step()
                m.d.sync += [offset.eq(plane_offset + op.ext_plane),
                             plane_offset.eq(plane_offset + op.ext_plane), sram.eq(plane_sram + op.plane),
                             plane_sram.eq(plane_sram + op.plane)]
            with m.If(final):
                m.d.sync += active.eq(0)

    def _check(self, m: Module) -> Signal:
        """The error of the row at hand, NONE if it may be moved."""
        arch, op = self._arch, self._op
        error = Signal(HwErrorCode)
        length = Signal(range((1 << len(op.bytes)) + 1))
        size = Signal(32)
        capacity = Signal(range(max(arch.act_bytes, arch.weight_bytes, arch.param_bytes, arch.table_bytes) + 1))
        program = op.region == Region.PROGRAM
        m.d.comb += [length.eq(op.bytes + 1), capacity.eq(arch.act_bytes),
                     size.eq(Mux(program, self.regions.program.size, self.regions.data.size))]
        misaligned = Signal()
        if self._engine is Engine.LOAD:
            with m.Switch(op.space):
                for space, capacity_bytes in ((Space.WEIGHT, arch.weight_bytes), (Space.PARAM, arch.param_bytes),
                                              (Space.TABLE, arch.table_bytes)):
                    with m.Case(space):
                        m.d.comb += capacity.eq(capacity_bytes)
            bits = (arch.bus_bytes - 1).bit_length()
            with m.If(op.space != Space.ACT):
                m.d.comb += misaligned.eq((self._offset[:bits] | self._sram[:bits] | length[:bits]).any())
        with m.If((self._sram + length > capacity) | misaligned):
            m.d.comb += error.eq(HwErrorCode.OPERAND_RANGE)
        with m.If(self._offset + length > size):
            m.d.comb += error.eq(HwErrorCode.REGION)
        if self._engine is Engine.STORE:
            with m.If(program):
                m.d.comb += error.eq(HwErrorCode.REGION)
        return error

    def _split(self, m: Module, row_ready: Signal) -> None:
        """Registers one row, cuts it at 16 beats and at pages, and registers the piece."""
        arch, op = self._arch, self._op
        lane_bits = (arch.bus_bytes - 1).bit_length()
        piece = Signal(piece_layout(arch))
        valid = Signal()
        moved = Signal()
        m.submodules.register = register = StreamRegister(piece.shape())
        wiring.connect(m, register.o, wiring.flipped(self.pieces))
        failed = Signal()
        row = Signal(row_layout(arch), reset_less=True)
        beat = Signal(arch.addr_bits - lane_bits, reset_less=True)
        begins = Signal(reset_less=True)
        left = Signal(len(row.beats), reset_less=True)
        page_left = Signal(range(PAGE_BYTES // arch.bus_bytes))
        count = Signal(range(BURST_BEATS))
        m.d.comb += [
            # Beats to the end of the page, minus 1: the complement of the beat's index in it.
            page_left.eq(~beat[:len(page_left)]),
            count.eq(BURST_BEATS - 1),
        ]
        ends = (left <= page_left) & (left < BURST_BEATS)
        with m.If(ends):
            m.d.comb += count.eq(left)
        with m.Elif(page_left < BURST_BEATS):
            m.d.comb += count.eq(page_left)
        m.d.comb += [
            register.i.valid.eq(valid), register.i.payload.eq(piece), moved.eq(valid & register.i.ready), piece.addr.eq(Cat(Const(0, lane_bits), beat)), piece.len.eq(count),
            piece.row.eq(row), piece.begins.eq(begins), piece.ends.eq(ends | (row.error != HwErrorCode.NONE)),
            row_ready.eq((~valid | (register.i.ready & piece.ends)) & ~failed),
        ]
        with m.If(moved):
            m.d.sync += [beat.eq(beat + count + 1), left.eq(left - count - 1), begins.eq(0),
                         row.sram.eq(row.sram + ((count + 1) << lane_bits))]
            with m.If(piece.ends):
                m.d.sync += valid.eq(0)
        error = self._check(m)
        lane = self._offset[:lane_bits]
        end = Signal(len(op.bytes) + 1)
        base = Mux(op.region == Region.PROGRAM, self.regions.program.base, self.regions.data.base)
        m.d.comb += end.eq(lane + op.bytes)
        with m.If(row_ready & self._active):
            m.d.sync += [
                valid.eq(1), begins.eq(1), beat.eq((base + self._offset) >> lane_bits), left.eq(end >> lane_bits),
                row.sram.eq(self._sram - lane), row.first.eq(lane), row.last.eq(end[:lane_bits]),
                row.beats.eq(end >> lane_bits), row.final.eq(self._final), row.error.eq(error),
                failed.eq(error != HwErrorCode.NONE),
            ]
            if self._engine is Engine.LOAD:
                m.d.sync += row.space.eq(op.space)
