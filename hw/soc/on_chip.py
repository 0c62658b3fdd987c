"""External memory on the FPGA itself: an AXI4 subordinate over single-port RAM."""

from dataclasses import dataclass

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from systolith.hw.soc.axi import Axi4Signature

__all__ = ["OnChip", "OnChipMemory"]

_DECERR = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class OnChip:
    """External memory of a board that has it on the FPGA.

    Parameters
    ----------
    clock_hz : int   of the design
    bytes : int      a power of two of at least 4096
    """

    clock_hz: int
    bytes: int


class OnChipMemory(wiring.Component):
    """A RAM of one port, for full-width INCR bursts of at most 256 beats.

    Writes go before reads, so a read waits while beats are written. Bursts of each direction are executed one after another; a burst that begins beyond the memory
    answers DECERR, and nothing is written.

    Parameters
    ----------
    size : int        bytes, a power of two of at least 4096
    bus_bits : int
    addr_bits : int

    Members
    -------
    axi : In(Axi4Signature)

    Timing
    ------
    A beat per cycle of one direction. A read's first beat comes two cycles after its address, and the next burst's follows the last one in one cycle more.
    """

    def __init__(self, size: int, *, bus_bits: int, addr_bits: int) -> None:
        if size < 4096 or size & (size - 1):
            raise ValueError(f"size must be a power of two of at least 4096, not {size!r}")
        self._size, self._bytes = size, bus_bits // 8
        super().__init__({"axi": In(Axi4Signature(bus_bits, addr_bits))})

    def elaborate(self, platform) -> Module:
        m = Module()
        axi, depth = self.axi, self._size // self._bytes
        low, high = (self._bytes - 1).bit_length(), (self._size - 1).bit_length()
        m.submodules.memory = memory = Memory(shape=8 * self._bytes, depth=depth, init=[])
        # Never both in one cycle, so that they are one port.
        write, read = memory.write_port(granularity=8), memory.read_port()

        # -- writes
        writing, answering, refused = Signal(), Signal(), Signal()
        at = Signal(range(depth))
        m.d.comb += [axi.awready.eq(~writing & ~answering), axi.wready.eq(writing), axi.bvalid.eq(answering), axi.bresp.eq(Mux(refused, _DECERR, 0))]
        with m.If(axi.awvalid & axi.awready):
            m.d.sync += [writing.eq(1), at.eq(axi.awaddr[low:high]), refused.eq(axi.awaddr[high:] != 0)]
        beat = axi.wvalid & axi.wready
        m.d.comb += [write.addr.eq(at), write.data.eq(axi.wdata), write.en.eq(Mux(beat & ~refused, axi.wstrb, 0))]
        with m.If(beat):
            m.d.sync += at.eq(at + 1)
            with m.If(axi.wlast):
                m.d.sync += [writing.eq(0), answering.eq(1)]
        with m.If(axi.bvalid & axi.bready):
            m.d.sync += answering.eq(0)

        # -- reads
        reading, fresh, kept, last, bad, outside = (Signal(name=name) for name in ("reading", "fresh", "kept", "last", "bad", "outside"))
        source, left = Signal(range(depth)), Signal(8)
        stored = Signal(8 * self._bytes)
        m.d.comb += [axi.arready.eq(~reading), axi.rvalid.eq(fresh | kept), axi.rlast.eq(last), axi.rresp.eq(Mux(bad, _DECERR, 0)),
                     axi.rdata.eq(Mux(fresh, read.data, stored)), read.addr.eq(source)]
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += [reading.eq(1), source.eq(axi.araddr[low:high]), left.eq(axi.arlen), outside.eq(axi.araddr[high:] != 0)]
        taken = axi.rready | ~axi.rvalid
        m.d.comb += read.en.eq(reading & ~beat & taken)
        # What is not taken at once is kept here: a write may change what the RAM shows.
        m.d.sync += [fresh.eq(read.en), kept.eq(axi.rvalid & ~axi.rready)]
        with m.If(fresh):
            m.d.sync += stored.eq(read.data)
        with m.If(read.en):
            m.d.sync += [source.eq(source + 1), left.eq(left - 1), last.eq(left == 0), bad.eq(outside)]
            with m.If(left == 0):
                m.d.sync += reading.eq(0)
        return m
