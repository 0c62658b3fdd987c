"""STORE: activation SRAM to external memory."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from systolith.hw.engine.transfer import BURST_OFFERS, RegionSignature, RowWalker
from systolith.hw.interfaces import ActReadSignature, EngineSignature, HwErrorCode
from systolith.hw.leaf.request_slot import RequestSlot
from systolith.hw.leaf.stream_register import StreamRegister
from systolith.hw.soc.axi import WriteSignature
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Engine
from systolith.spec.memory import BURST_BEATS

__all__ = ["StoreEngine"]

#: Bursts under way at most.
WRITE_BURSTS = 32
#: Beats read from the SRAM ahead of the bus.
WRITE_BEATS = 16


class StoreEngine(wiring.Component):
    """Executes STORE: reads rows from the activation SRAM and writes them in bursts, with byte strobes.

    Members
    -------
    engine : In(EngineSignature)    commands; the next one's bursts begin before the last one's are
             acknowledged
    read : Out(ActReadSignature)    one read per beat, at the SRAM address of the beat's byte 0
    bus : Out(WriteSignature)
    regions : In(RegionSignature)

    Timing
    ------
    One burst begins and one beat moves per cycle. `done` is in the cycle of the last response.
    A burst that has begun is always finished, also after a stop or an error.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        super().__init__(
            {
                "engine": In(EngineSignature(arch, Engine.STORE)),
                "read": Out(ActReadSignature(arch)),
                "bus": Out(WriteSignature(arch)),
                "regions": In(RegionSignature(arch)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        arch = self._arch
        m.submodules.walker = walker = RowWalker(arch, Engine.STORE)
        wiring.connect(m, wiring.flipped(self.regions), walker.regions)
        row = walker.pieces.payload.row
        burst_layout = data.StructLayout(
            {
                "sram": row.sram.shape(),
                "len": range(BURST_BEATS),
                "first": row.first.shape(),
                "last": row.last.shape(),
                "begins": 1,
                "ends": 1,
            }
        )
        m.submodules.bursts = bursts = SyncFIFOBuffered(width=burst_layout.size, depth=WRITE_BURSTS)
        m.submodules.finals = finals = SyncFIFO(width=1, depth=WRITE_BURSTS)
        failed = Signal()
        stopped = Signal()
        m.d.comb += [
            stopped.eq(failed | self.engine.stop),
            walker.cmd.payload.eq(self.engine.cmd.payload),
            walker.cmd.valid.eq(self.engine.cmd.valid),
            self.engine.cmd.ready.eq(walker.cmd.ready),
        ]
        piece = walker.pieces.payload
        good = ~walker.failed
        begin = Signal()
        burst = Signal(burst_layout)
        m.submodules.offers = offers = SyncFIFO(
            width=self.bus.bursts.payload.shape().size, depth=BURST_OFFERS
        )
        # A cycle late, so there is room for one burst more than is known here. Of the other two queues the
        # second is the fuller one.
        may_begin = Signal()
        m.d.sync += may_begin.eq(
            (finals.w_level < WRITE_BURSTS - 1) & (offers.w_level < BURST_OFFERS - 1) & ~stopped
        )
        m.d.comb += [
            begin.eq(walker.pieces.valid & good & may_begin),
            walker.pieces.ready.eq(may_begin),
            offers.w_en.eq(begin),
            offers.w_data.eq(Cat(piece.addr, piece.len)),
            self.bus.bursts.valid.eq(offers.r_rdy),
            self.bus.bursts.payload.eq(offers.r_data),
            offers.r_en.eq(self.bus.bursts.ready),
            bursts.w_en.eq(begin),
            finals.w_en.eq(begin),
            bursts.w_data.eq(burst),
            finals.w_data.eq(piece.ends & row.final),
            burst.sram.eq(row.sram),
            burst.len.eq(piece.len),
            burst.first.eq(row.first),
            burst.last.eq(row.last),
            burst.begins.eq(piece.begins),
            burst.ends.eq(piece.ends),
        ]
        self._read(m, bursts, burst_layout)
        self._respond(m, finals, walker, begin, stopped, failed)
        return m

    def _read(self, m: Module, bursts: SyncFIFOBuffered, burst_layout: data.StructLayout) -> None:
        """Reads the beats of the bursts in order, and offers each to the bus once its address is accepted."""
        arch = self._arch
        beat_layout = self.bus.beats.payload.shape()
        m.submodules.beats = beats = SyncFIFO(width=beat_layout.size, depth=WRITE_BEATS)
        # Whether the bus takes a beat comes from far away.
        m.submodules.offer = offer = StreamRegister(beat_layout)
        wiring.connect(m, offer.o, wiring.flipped(self.bus.beats))
        burst = Signal(burst_layout)
        index = Signal(range(BURST_BEATS))
        reserved = Signal(range(WRITE_BEATS + 1))
        taken, late_taken = Signal(), Signal()
        granted, late_granted = Signal(), Signal()
        # Late, so there is room for as many beats more as may be granted until it is known.
        room = Signal()
        last = index == burst.len
        m.submodules.slot = slot = RequestSlot(arch, data.StructLayout({"strobe": arch.bus_bytes, "last": 1}))
        first_mask = Signal(arch.bus_bytes)
        last_mask = Signal(arch.bus_bytes)
        m.d.comb += [burst.eq(bursts.r_data), first_mask.eq(-1), last_mask.eq(-1)]
        with m.If((index == 0) & burst.begins):
            m.d.comb += first_mask.eq(Cat(burst.first <= lane for lane in range(arch.bus_bytes)))
        with m.If(last & burst.ends):
            m.d.comb += last_mask.eq(Cat(burst.last >= lane for lane in range(arch.bus_bytes)))
        m.d.comb += [
            slot.i.valid.eq(bursts.r_rdy & room),
            slot.i.payload.addr.eq(burst.sram + (index << (arch.bus_bytes - 1).bit_length())),
            slot.i.payload.tag.strobe.eq(first_mask & last_mask),
            slot.i.payload.tag.last.eq(last),
            granted.eq(slot.i.valid & slot.i.ready),
            bursts.r_en.eq(granted & last),
            self.read.valid.eq(slot.valid),
            self.read.addr.eq(slot.addr),
            self.read.blocks.eq(slot.blocks),
            slot.ready.eq(self.read.ready),
        ]
        with m.If(granted):
            m.d.sync += index.eq(index + 1)
            with m.If(last):
                m.d.sync += index.eq(0)
        # What is known of a beat travels beside its data.
        valid, strobe, final = slot.valid & slot.ready, slot.tag.strobe, slot.tag.last
        for step in range(ActReadSignature.LATENCY):
            next_valid = Signal(name=f"valid_{step}")
            next_strobe = Signal(arch.bus_bytes, name=f"strobe_{step}", reset_less=True)
            next_final = Signal(name=f"final_{step}", reset_less=True)
            m.d.sync += [next_valid.eq(valid), next_strobe.eq(strobe), next_final.eq(final)]
            valid, strobe, final = next_valid, next_strobe, next_final
        entry = Signal(beat_layout)
        m.d.comb += [
            entry.data.eq(self.read.data.as_value()[: arch.bus_bits]),
            entry.strobe.eq(strobe),
            entry.last.eq(final),
            beats.w_en.eq(valid),
            beats.w_data.eq(entry),
        ]
        # Beats whose burst the bus has accepted, in bursts; also late, and exact where one is taken.
        owed = Signal(range(WRITE_BURSTS + 2))
        some_owed = Signal()
        accepted = Signal()
        ended = Signal()
        m.d.comb += [
            offer.i.valid.eq(beats.r_rdy & some_owed),
            offer.i.payload.eq(beats.r_data),
            taken.eq(offer.i.valid & offer.i.ready),
            beats.r_en.eq(taken),
            ended.eq(taken & offer.i.payload.last),
        ]
        m.d.sync += [
            accepted.eq(self.bus.bursts.valid & self.bus.bursts.ready),
            owed.eq(owed + accepted - ended),
            some_owed.eq(accepted | (owed > 1) | ((owed != 0) & ~ended)),
            late_granted.eq(granted),
            late_taken.eq(taken),
            reserved.eq(reserved + late_granted - late_taken),
            room.eq(reserved < WRITE_BEATS - 2),
        ]
        self._moving = late_taken

    def _respond(
        self, m: Module, finals: SyncFIFO, walker: RowWalker, begin: Signal, stopped: Signal, failed: Signal
    ) -> None:
        """Counts responses, and reports done and errors in order."""
        under_way = Signal(range(WRITE_BURSTS + 2))
        response = self.bus.response
        row = walker.pieces.payload.row
        m.d.sync += under_way.eq(under_way + begin - response)
        # A burst may still begin in the cycle in which a stop comes.
        m.d.comb += [
            self.engine.idle.eq((under_way == 0) & ~begin),
            finals.r_en.eq(response),
            self.engine.stall.eq((under_way != 0) & ~self._moving),
        ]
        with m.If(~failed):
            with m.If(response & self.bus.error):
                m.d.comb += [self.engine.error.eq(1), self.engine.error_code.eq(HwErrorCode.BUS_WRITE)]
            with m.Elif(response):
                m.d.comb += self.engine.done.eq(finals.r_data)
            # A row at fault is reported when all before it are acknowledged.
            with m.Elif(walker.failed & (under_way == 0) & ~stopped):
                m.d.comb += [self.engine.error.eq(1), self.engine.error_code.eq(row.error)]
        with m.If(self.engine.error):
            m.d.sync += failed.eq(1)
