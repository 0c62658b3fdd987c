"""The SDRAM controller: an AXI4 subordinate in front of an SDR SDRAM chip."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from systolith.hw.leaf.stream_register import StreamRegister
from systolith.hw.soc.axi import Axi4Signature
from systolith.hw.soc.sdram_chip import SdramSignature, SdramTiming
from systolith.hw.soc.sdram_engine import SdramEngine, segment_layout
from systolith.spec.memory import BURST_BEATS
from systolith.spec.timing import SDRAM_READ

__all__ = ["SdramController"]

#: Two bursts of each direction are buffered: while one moves on the bus, the other moves on the pins.
_BEATS = 2 * BURST_BEATS
#: Writes begun and not yet acknowledged.
_RESPONSES = 4
#: Bursts of one direction after which the other one's turn comes, if it waits: turning the pins round costs
#: time.
_GROUP = 4
_DECERR = 3


class SdramController(wiring.Component):
    """AXI4 to SDRAM, for full-width INCR bursts of at most 16 beats.

    A burst begins on the chip when nothing can stop it any more: a read when the buffer has room for 16
    beats, a write when all its beats are here. So neither direction ever waits for a manager that lets the
    other one wait. Reads return in order, and writes are acknowledged in order; a read that is offered after
    a write was acknowledged sees it.

    Addresses are row, bank, column, byte from the top, so consecutive rows lie in different banks. Beats
    beyond the chip answer DECERR, and nothing is written.

    Parameters
    ----------
    timing : SdramTiming
    bus_bits : int       1, 2, 4 or 8 words of the chip
    addr_bits : int      at least what the chip needs
    pin_cycles : int     see `SdramEngine`

    Members
    -------
    axi : In(Axi4Signature)
    pins : Out(SdramSignature)

    Raises
    ------
    SdramError   If a beat is no burst of the chip, or the clock is too slow for the refreshes.

    Timing
    ------
    Nothing is accepted from the pins' side until power-up is over; bursts wait. See `SdramEngine` for the
    rate of the pins. From the acceptance of a read's address to its first beat, with the row open and nothing
    else under way, `READ_LATENCY` + CAS latency + words of a beat + `pin_cycles` cycles; with the bank closed
    t_rcd - 1 (at least one) more, with another row open t_rp more again.
    """

    READ_LATENCY = SDRAM_READ

    def __init__(self, timing: SdramTiming, *, bus_bits: int, addr_bits: int, pin_cycles: int = 0) -> None:
        self._timing = timing
        self._bus_bits = bus_bits
        self._pin_cycles = pin_cycles
        # Refuses what the engine would refuse, but here.
        timing.refresh_cycles(bus_bits)
        super().__init__({"axi": In(Axi4Signature(bus_bits, addr_bits)), "pins": Out(SdramSignature(timing))})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.engine = self._engine = engine = SdramEngine(
            self._timing, bus_bits=self._bus_bits, pin_cycles=self._pin_cycles
        )
        wiring.connect(m, engine.pins, wiring.flipped(self.pins))
        self._column_bits = len(engine.segments.payload.column)
        #: A read or a write begins.
        self._begin_read = Signal()
        self._begin_write = Signal()
        write_ready = self._writes(m)
        read_ready = self._reads(m)
        self._choose(m, read_ready, write_ready)
        return m

    def _address(self, m: Module, channel: str, begin: Signal) -> tuple[Signal, data.View]:
        """One address of a channel, held until its burst begins: whether there is one, and it."""
        axi = self.axi

        def of(name: str):
            return getattr(axi, channel + name)

        held = Signal(
            data.StructLayout(
                {"addr": len(of("addr")), "len": range(BURST_BEATS), "end": self._column_bits + 1}
            ),
            name=channel,
            reset_less=True,
        )
        # The column of the last beat, counted on beyond the row.
        column = of("addr")[(self._bus_bits // 8 - 1).bit_length() :][: self._column_bits]
        valid = Signal(name=f"{channel}_held")
        m.d.comb += of("ready").eq(~valid)
        with m.If(begin):
            m.d.sync += valid.eq(0)
        with m.If(of("valid") & of("ready")):
            m.d.sync += [
                valid.eq(1),
                held.addr.eq(of("addr")),
                held.len.eq(of("len")),
                held.end.eq(column + of("len")[: len(held.len)]),
            ]
        return valid, held

    def _reads(self, m: Module) -> Signal:
        """Buffers beats on their way to the bus; 1 when a read, however long, may begin."""
        axi, reads = self.axi, self._engine.reads
        m.submodules.read_beats = beats = SyncFIFOBuffered(width=self._bus_bits + 2, depth=_BEATS)
        valid, self._read = self._address(m, "ar", self._begin_read)
        room = Signal(range(_BEATS + 1), init=_BEATS)
        # A cycle late: two reads never begin in successive cycles, since an address is held for one cycle at
        # least.
        has_room = Signal(init=1)
        ready = Signal()
        m.d.comb += [
            beats.w_en.eq(reads.valid),
            beats.w_data.eq(Cat(reads.data, reads.last, reads.error)),
            axi.rvalid.eq(beats.r_rdy),
            beats.r_en.eq(axi.rready),
            axi.rdata.eq(beats.r_data[: self._bus_bits]),
            axi.rlast.eq(beats.r_data[self._bus_bits]),
            axi.rresp.eq(Mux(beats.r_data[-1], _DECERR, 0)),
            ready.eq(valid & has_room),
        ]
        m.d.sync += has_room.eq(room >= BURST_BEATS)
        m.d.sync += room.eq(room + (beats.r_rdy & beats.r_en) - Mux(self._begin_read, self._read.len + 1, 0))
        return ready

    def _writes(self, m: Module) -> Signal:
        """Buffers beats on their way to the chip, and acknowledges bursts; 1 when a write may begin."""
        axi, engine = self.axi, self._engine
        m.submodules.write_beats = beats = SyncFIFOBuffered(
            width=engine.writes.payload.shape().size, depth=_BEATS
        )
        m.submodules.responses = responses = SyncFIFO(width=1, depth=_RESPONSES)
        valid, self._write = self._address(m, "aw", self._begin_write)
        # A cycle late.
        arrived = Signal()
        whole = Signal(range(_BEATS + 1))
        under_way = Signal(range(_RESPONSES + 1))
        # A cycle late, as of reads.
        may_begin = Signal()
        ready = Signal()
        m.d.comb += [
            axi.wready.eq(beats.w_rdy),
            beats.w_en.eq(axi.wvalid),
            beats.w_data.eq(Cat(axi.wdata, axi.wstrb)),
            engine.writes.valid.eq(beats.r_rdy),
            engine.writes.payload.eq(beats.r_data),
            beats.r_en.eq(engine.writes.ready),
            responses.w_en.eq(engine.written.valid),
            responses.w_data.eq(engine.written.error),
            axi.bvalid.eq(responses.r_rdy),
            axi.bresp.eq(Mux(responses.r_data, _DECERR, 0)),
            responses.r_en.eq(axi.bready),
            ready.eq(valid & may_begin),
        ]
        m.d.sync += [
            arrived.eq(axi.wvalid & axi.wready & axi.wlast),
            may_begin.eq((whole != 0) & (under_way != _RESPONSES)),
            whole.eq(whole + arrived - self._begin_write),
            under_way.eq(under_way + self._begin_write - (axi.bvalid & axi.bready)),
        ]
        return ready

    def _choose(self, m: Module, read_ready: Signal, write_ready: Signal) -> None:
        """The order of the bursts, and their segments."""
        # The engine takes segments late in a cycle.
        m.submodules.segments = register = StreamRegister(segment_layout(self._timing, self._bus_bits))
        wiring.connect(m, register.o, self._engine.segments)
        segments, burst = register.i, Signal(segment_layout(self._timing, self._bus_bits))
        busy = Signal()
        free = Signal()
        writing = Signal()
        turns = Signal(range(_GROUP))
        read_first = Signal()
        stay = turns != 0
        m.d.comb += [
            read_first.eq(read_ready & (~write_ready | (writing ^ stay))),
            self._begin_read.eq(free & read_first),
            self._begin_write.eq(free & write_ready & ~read_first),
        ]
        begin = self._begin_read | self._begin_write
        with m.If(begin):
            m.d.sync += [
                writing.eq(~read_first),
                turns.eq(Mux(read_first == writing, _GROUP - 1, Mux(stay, turns - 1, 0))),
            ]
        # The first segment ends with the burst or with the row.
        crosses = Signal()
        end = Signal(self._column_bits + 1, reset_less=True)
        segment = segments.payload
        m.d.comb += [
            crosses.eq(end[-1]),
            segments.valid.eq(busy),
            segment.eq(burst),
            segment.last.eq(~crosses),
            free.eq(~busy | (segments.ready & ~crosses)),
        ]
        with m.If(crosses):
            m.d.comb += segment.len.eq(~burst.column)
        with m.If(free):
            # What is taken while no burst begins is not valid.
            place = Cat(burst.column, burst.bank, burst.row)
            beat = Mux(read_first, self._read.addr, self._write.addr)[
                (self._bus_bits // 8 - 1).bit_length() :
            ]
            m.d.sync += [
                busy.eq(begin),
                place.eq(beat),
                burst.error.eq(beat[len(place) :].any()),
                burst.write.eq(~read_first),
                end.eq(Mux(read_first, self._read.end, self._write.end)),
                burst.len.eq(Mux(read_first, self._read.len, self._write.len)),
            ]
        with m.Elif(segments.ready):
            page = Cat(burst.bank, burst.row)
            m.d.sync += [page.eq(page + 1), burst.column.eq(0), burst.len.eq(end), end[-1].eq(0)]
