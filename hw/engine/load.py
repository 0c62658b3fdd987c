"""LOAD: external memory to the on-chip memories."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith.hw.engine.transfer import BURST_OFFERS, RegionSignature, RowWalker, row_layout
from systolith.hw.interfaces import ActWriteSignature, BeatWriteSignature, EngineSignature, HwErrorCode
from systolith.hw.leaf.request_slot import RequestSlot
from systolith.hw.leaf.stream_register import StreamRegister
from systolith.hw.soc.axi import READ_BURSTS, ReadSignature
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Engine, Space

__all__ = ["LoadEngine"]


class LoadEngine(wiring.Component):
    """Executes LOAD: reads rows in bursts, and writes each beat as it comes.

    Members
    -------
    engine : In(EngineSignature)         commands; the next one's bursts begin while the last one's beats
             still come
    act : Out(ActWriteSignature)         a beat as a masked part of a vector, at the SRAM address of its byte
          0
    weights, params, tables : Out(BeatWriteSignature)
    bus : Out(ReadSignature)
    regions : In(RegionSignature)

    Timing
    ------
    One burst begins and one beat moves per cycle; up to `READ_BURSTS` bursts are under way. A beat is written
    `timing.LOAD_WRITE` cycles after it comes; while the port is taken, four wait here and the next one on
    the bus. `done` is in the cycle of the last write. Errors are reported in order, when all older beats are
    written.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        super().__init__(
            {
                "engine": In(EngineSignature(arch, Engine.LOAD)),
                "act": Out(ActWriteSignature(arch)),
                "weights": Out(BeatWriteSignature(arch, arch.weight_bytes)),
                "params": Out(BeatWriteSignature(arch, arch.param_bytes)),
                "tables": Out(BeatWriteSignature(arch, arch.table_bytes)),
                "bus": Out(ReadSignature(arch)),
                "regions": In(RegionSignature(arch)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.walker = walker = RowWalker(self._arch, Engine.LOAD)
        m.submodules.rows = rows = SyncFIFOBuffered(width=row_layout(self._arch).size + 1, depth=READ_BURSTS)
        m.submodules.offers = offers = SyncFIFO(
            width=self.bus.bursts.payload.shape().size, depth=BURST_OFFERS
        )
        wiring.connect(m, wiring.flipped(self.regions), walker.regions)
        # After a stop or an error, until reset.
        stopped = Signal()
        piece = walker.pieces
        # A cycle late, so there is room for one piece more than is known here.
        may_begin = Signal()
        m.d.sync += may_begin.eq((rows.w_level < READ_BURSTS - 1) & (offers.w_level < BURST_OFFERS - 1))
        m.d.comb += [
            walker.cmd.payload.eq(self.engine.cmd.payload),
            walker.cmd.valid.eq(self.engine.cmd.valid),
            self.engine.cmd.ready.eq(walker.cmd.ready),
            piece.ready.eq(may_begin),
            offers.w_en.eq(piece.valid & may_begin & ~walker.failed),
            offers.w_data.eq(Cat(piece.payload.addr, piece.payload.len)),
            rows.w_en.eq(piece.valid & may_begin & piece.payload.begins),
            rows.w_data.eq(Cat(piece.payload.row, piece.payload.row.beats == 0)),
            self.bus.bursts.valid.eq(offers.r_rdy & ~stopped),
            self.bus.bursts.payload.eq(offers.r_data),
            offers.r_en.eq(self.bus.bursts.ready & ~stopped),
        ]
        under_way = Signal(range(READ_BURSTS + 2))
        begun = self.bus.bursts.valid & self.bus.bursts.ready
        ended = self.bus.beats.valid & self.bus.beats.ready & self.bus.beats.payload.last
        m.d.sync += under_way.eq(under_way + begun - ended)
        m.d.comb += self.engine.idle.eq((under_way == 0) & ~self.bus.bursts.valid)
        self._write(m, rows, stopped)
        return m

    def _write(self, m: Module, rows: SyncFIFOBuffered, stopped: Signal) -> None:
        """Moves beats to the SRAM that the oldest row names."""
        arch, beats = self._arch, self.bus.beats
        # The oldest row, out of its queue, whose memory may be late; it has one beat.
        row = Signal(row_layout(arch), reset_less=True)
        single = Signal(reset_less=True)
        has_row = Signal()
        next_row = Signal()
        index = Signal.like(row.beats)
        moved = Signal(len(row.sram))
        address = Signal(len(row.sram))
        first_mask = Signal(arch.bus_bytes)
        last_mask = Signal(arch.bus_bytes)
        first, last_of_many = Signal(init=1), Signal()
        last = Mux(first, single, last_of_many)
        lanes = (arch.bus_bytes - 1).bit_length()
        m.d.comb += [
            moved.eq(index << lanes),
            address.eq(row.sram + moved),
            first_mask.eq(-1),
            last_mask.eq(-1),
        ]
        with m.If(first):
            m.d.comb += first_mask.eq(Cat(row.first <= lane for lane in range(arch.bus_bytes)))
        with m.If(last):
            m.d.comb += last_mask.eq(Cat(row.last >= lane for lane in range(arch.bus_bytes)))
        tag_layout = data.StructLayout(
            {"beat": len(row.sram) - lanes, "data": arch.bus_bits, "mask": arch.bus_bytes, "final": 1}
        )
        m.submodules.slot = slot = RequestSlot(
            arch, data.StructLayout({"space": row.space.shape(), "to_act": 1})
        )
        # In a memory beside the slot, in the same order, so that the SRAM's late grant reaches few cells. It
        # has more places than the slot has, and the next one is written before it is known whether a beat is
        # taken.
        m.submodules.tags = tags = Memory(shape=tag_layout, depth=2 * RequestSlot.DEPTH, init=[])
        tag_write, tag_read = tags.write_port(), tags.read_port(domain="comb")
        given_tag, tag = Signal(tag_layout), Signal(tag_layout)
        # What the bus offers and whether it is taken do not depend on each other.
        m.submodules.arrived = arrived = StreamRegister(beats.payload.shape())
        wiring.connect(m, arrived.i, wiring.flipped(beats))
        beat, here = arrived.o.payload, arrived.o.valid
        able = Signal()
        taken = Signal()
        bus_error = Signal()
        m.d.comb += [
            slot.i.payload.addr.eq(address),
            given_tag.beat.eq(address >> lanes),
            given_tag.data.eq(beat.data),
            given_tag.mask.eq(first_mask & last_mask),
            given_tag.final.eq(last & row.final),
            slot.i.payload.tag.space.eq(row.space),
            slot.i.payload.tag.to_act.eq(row.space == Space.ACT),
            tag_write.en.eq(1),
            tag_write.data.eq(given_tag),
            tag.eq(tag_read.data),
            next_row.eq(~has_row | (taken & last)),
            rows.r_en.eq(next_row),
            able.eq(has_row & ~beat.error),
            slot.i.valid.eq(here & able),
            taken.eq(slot.i.valid & slot.i.ready),
            bus_error.eq(here & has_row & ~stopped & beat.error & ~slot.valid),
            # On a stop, what still comes is taken and dropped.
            arrived.o.ready.eq(stopped | (able & slot.i.ready)),
        ]
        with m.If(taken):
            m.d.sync += [
                tag_write.addr.eq(tag_write.addr + 1),
                index.eq(index + 1),
                first.eq(last),
                last_of_many.eq(index + 1 == row.beats),
            ]
            with m.If(last):
                m.d.sync += index.eq(0)
        with m.If(next_row):
            m.d.sync += [has_row.eq(rows.r_rdy), Cat(row, single).eq(rows.r_data)]
        write = slot.valid & ~stopped
        accepted = Signal()
        m.d.comb += [
            self.act.addr.eq(slot.addr),
            self.act.blocks.eq(slot.blocks),
            self.act.mask.eq(tag.mask),
            self.act.data.as_value()[: arch.bus_bits].eq(tag.data),
            slot.ready.eq(accepted),
        ]
        m.d.sync += tag_read.addr.eq(tag_read.addr + accepted)
        ports = {Space.WEIGHT: self.weights, Space.PARAM: self.params, Space.TABLE: self.tables}
        for port in ports.values():
            m.d.comb += [port.beat.eq(tag.beat), port.data.eq(tag.data)]
        # The SRAM's grant comes late, so that it is the SRAM is known from a register.
        ready = Signal()
        m.d.comb += [
            self.act.valid.eq(write & slot.tag.to_act),
            accepted.eq(write & Mux(slot.tag.to_act, self.act.ready, ready)),
        ]
        with m.Switch(slot.tag.space):
            for space, port in ports.items():
                with m.Case(space):
                    m.d.comb += [port.valid.eq(write), ready.eq(port.ready)]
        m.d.comb += self.engine.done.eq(accepted & tag.final)
        with m.If(~stopped & (has_row | slot.valid)):
            m.d.comb += self.engine.stall.eq(~accepted)
        # What is at fault is reported when all before it is written.
        with m.If(~stopped & has_row & (row.error != HwErrorCode.NONE) & ~slot.valid):
            m.d.comb += [self.engine.error.eq(1), self.engine.error_code.eq(row.error)]
        with m.Elif(bus_error):
            m.d.comb += [self.engine.error.eq(1), self.engine.error_code.eq(HwErrorCode.BUS_READ)]
        with m.If(self.engine.error | self.engine.stop):
            m.d.sync += stopped.eq(1)
