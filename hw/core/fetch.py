"""Fetch: prefetches the instruction stream from the PROGRAM region."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from systolith.hw.interfaces import HwErrorCode
from systolith.hw.soc.axi import PAGE_BYTES, ReadSignature
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import isa_for
from systolith.spec.memory import BURST_BEATS, FETCH_BEATS

__all__ = ["Fetch", "fetched_layout"]


def fetched_layout(arch: ArchConfig) -> data.StructLayout:
    """One instruction: its word, its offset in the PROGRAM region, and an error instead of a word."""
    return data.StructLayout({"word": 8 * isa_for(arch).word_bytes, "offset": 32, "error": HwErrorCode})


class Fetch(wiring.Component):
    """Reads instructions from `entry` on, as far as its buffer has room and the region reaches.

    Members
    -------
    start : In(1)             pulse, first thing after reset: begin at `entry`
    entry, base, size : In    offset of the first instruction, base and size of the PROGRAM region;
                        quasi-static
    halt : In(1)              begin no further burst and drop what comes, from the next cycle on; until reset
    o : Out(stream)           instructions in order; REGION past the end of the region, BUS_READ if a beat of
        it failed
    bus : Out(ReadSignature)  beats are always taken at once: no more is asked for than the buffer holds
    idle : Out(1)             no burst is under way, or offered

    Timing
    ------
    One instruction per ``word_bytes / bus_bytes`` cycles. A burst is offered `timing.FETCH_BURST` cycles
    after the one before it was accepted.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        super().__init__(
            {
                "start": In(1),
                "entry": In(32),
                "base": In(arch.addr_bits),
                "size": In(32),
                "halt": In(1),
                "o": Out(stream.Signature(fetched_layout(arch))),
                "bus": Out(ReadSignature(arch)),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        arch = self._arch
        lanes = (arch.bus_bytes - 1).bit_length()
        m.submodules.beats = beats = SyncFIFOBuffered(width=arch.bus_bits + 1, depth=FETCH_BEATS)
        active = Signal()
        beat = Signal(33 - lanes, reset_less=True)
        end = Signal(32 - lanes)
        reserved = Signal(range(FETCH_BEATS + 1))
        under_way = Signal(range(FETCH_BEATS + 1))
        # Address and length of the next burst take two cycles; `settled` says that the first one is over for
        # `beat`.
        address = Signal(arch.addr_bits, reset_less=True)
        page_left = Signal(range(PAGE_BYTES // arch.bus_bytes))
        count, late_count = Signal(range(BURST_BEATS)), Signal(range(BURST_BEATS), reset_less=True)
        region_left = Signal(33 - lanes, reset_less=True)
        inside = Signal(reset_less=True)
        settled = Signal()
        m.d.comb += [end.eq(self.size >> lanes), page_left.eq(~address[lanes : lanes + len(page_left)])]
        limit = Mux(page_left < BURST_BEATS, page_left, BURST_BEATS - 1)
        m.d.comb += count.eq(Mux(region_left < limit, region_left, limit))
        m.d.sync += [
            address.eq(self.base + (beat << lanes)),
            region_left.eq(end - beat - 1),
            inside.eq(beat < end),
            late_count.eq(count),
            settled.eq(1),
        ]
        begun, late_begun = Signal(), Signal()
        offered = Signal()
        taken = Signal()
        # A cycle late: a beat more does no harm.
        drops = Signal()
        burst = self.bus.bursts
        m.d.comb += [
            burst.valid.eq(offered),
            burst.payload.addr.eq(Cat(Const(0, lanes), address[lanes:])),
            burst.payload.len.eq(late_count),
            begun.eq(burst.valid & burst.ready),
            self.bus.beats.ready.eq(1),
            beats.w_en.eq(self.bus.beats.valid & ~drops),
            beats.w_data.eq(Cat(self.bus.beats.payload.data, self.bus.beats.payload.error)),
            self.idle.eq((under_way == 0) & ~offered),
        ]
        m.d.sync += [
            drops.eq(self.halt),
            # Known by the time at which the burst behind it is settled.
            late_begun.eq(begun),
            reserved.eq(reserved + Mux(late_begun, late_count + 1, 0) - taken),
            under_way.eq(under_way + begun - (self.bus.beats.valid & self.bus.beats.payload.last)),
            offered.eq(
                active & settled & inside & (reserved <= FETCH_BEATS - BURST_BEATS) & ~begun & ~self.halt
            ),
        ]
        with m.If(self.start):
            m.d.sync += [active.eq(1), beat.eq(self.entry >> lanes), settled.eq(0)]
        with m.Elif(begun):
            m.d.sync += [beat.eq(beat + late_count + 1), settled.eq(0)]
        self._assemble(m, beats, taken, active)
        return m

    def _assemble(self, m: Module, beats: SyncFIFOBuffered, taken: Signal, active: Signal) -> None:
        """Collects the beats of one instruction."""
        arch = self._arch
        word_bytes = isa_for(arch).word_bytes
        total = word_bytes // arch.bus_bytes
        word = Signal(8 * word_bytes, reset_less=True)
        bad = Signal()
        offset = Signal(33, reset_less=True)
        count = Signal(range(total + 1))
        whole = Signal()  # count == total
        # A cycle late: an instruction takes several beats, so none is complete before its end is compared.
        outside = Signal()
        moved = self.o.valid & self.o.ready
        m.d.comb += [
            taken.eq(beats.r_rdy & (~whole | self.o.ready)),
            beats.r_en.eq(taken),
            self.o.valid.eq(whole | outside),
            self.o.payload.word.eq(word),
            self.o.payload.offset.eq(offset),
        ]
        with m.If(outside):
            m.d.comb += self.o.payload.error.eq(HwErrorCode.REGION)
        with m.Elif(bad):
            m.d.comb += self.o.payload.error.eq(HwErrorCode.BUS_READ)
        m.d.sync += outside.eq(active & (offset + word_bytes > self.size))
        with m.If(moved):
            m.d.sync += [count.eq(0), whole.eq(0), offset.eq(offset + word_bytes), bad.eq(0)]
        with m.If(taken):
            m.d.sync += [
                count.eq(Mux(moved, 1, count + 1)),
                whole.eq(Mux(moved, total == 1, count == total - 1)),
                word.eq(Cat(word, beats.r_data[: arch.bus_bits])[arch.bus_bits :]),
                bad.eq((bad & ~moved) | beats.r_data[-1]),
            ]
        with m.If(self.start):
            m.d.sync += offset.eq(self.entry)
