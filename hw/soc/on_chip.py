"""On-chip memory behind AXI4, for boards without a memory chip: single-port RAM, 32 bits wide."""

from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from systolith.hw.leaf.ice40 import SinglePortRam
from systolith.hw.soc.axi import Axi4Signature
from systolith.spec.memory import BURST_BEATS

__all__ = ["OnChipMemory", "OnChipRam"]

#: Bytes of two RAMs side by side.
_BANK_BYTES = 1 << 16
_DECERR = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class OnChipRam:
    """On-chip memory as the external memory of a board.

    Parameters
    ----------
    bytes : int      its size
    clock_hz : int   clock of the whole design
    """

    bytes: int
    clock_hz: int


class OnChipMemory(wiring.Component):
    """Memory from address 0 on, an AXI4 subordinate.

    Parameters
    ----------
    size : int        bytes: a power of two from 1 KiB to 128 KiB
    addr_bits : int   width of the bus's addresses

    Members
    -------
    axi : In(Axi4Signature)   32 bits; bursts of full width and at most 16 beats; DECERR for one that begins
          past the end

    Timing
    ------
    One burst at a time, reads before writes. The first beat of a read comes two cycles after its address,
    then one per cycle; a write takes its first beat in the cycle after its address, and is answered in the
    cycle after its last beat.

    Raises
    ------
    ValueError   If the size is none of these, or the bus cannot reach all of it.
    """

    def __init__(self, size: int, *, addr_bits: int) -> None:
        if size not in (1 << bits for bits in range(10, 18)) or size > 1 << addr_bits:
            raise ValueError(
                f"on-chip memory must be a power of two from 1 KiB to 128 KiB within {addr_bits} bits of "
                f"address, not {size!r} bytes"
            )
        self._size = size
        super().__init__({"axi": In(Axi4Signature(32, addr_bits))})

    def elaborate(self, platform) -> Module:
        m = Module()
        axi = self.axi
        bank_bytes = min(self._size, _BANK_BYTES)
        banks = self._size // bank_bytes
        word = Signal(range(self._size // 4), reset_less=True)
        left = Signal(range(BURST_BEATS), reset_less=True)
        outside = Signal(reset_less=True)
        writing, step = Signal(), Signal()
        address = Signal(len(axi.araddr))
        bank_bits = (banks - 1).bit_length()
        outputs = []
        for bank in range(banks):
            chosen = word[len(word) - bank_bits :] == bank
            data = []
            for half in range(2):
                ram = SinglePortRam(bank_bytes // 4)
                m.submodules[f"ram{bank}_{half}"] = ram
                m.d.comb += [
                    ram.enable.eq((step | writing) & chosen),
                    ram.write.eq(writing),
                    ram.addr.eq(word),
                    ram.mask.eq(axi.wstrb[2 * half : 2 * half + 2]),
                    ram.data.eq(axi.wdata[16 * half : 16 * half + 16]),
                ]
                data.append(ram.o)
            outputs.append(Cat(data))
        # A RAM keeps what it read until it is used again.
        m.d.comb += [
            address.eq(Mux(axi.arvalid, axi.araddr, axi.awaddr)),
            axi.rdata.eq(outputs[0]),
            axi.rresp.eq(Mux(outside, _DECERR, 0)),
            axi.bresp.eq(axi.rresp),
        ]
        if banks > 1:
            was = Signal(range(banks), reset_less=True)
            with m.If(step):
                m.d.sync += was.eq(word[len(word) - bank_bits :])
            for bank in range(1, banks):
                with m.If(was == bank):
                    m.d.comb += axi.rdata.eq(outputs[bank])
        with m.If(step | writing):
            m.d.sync += word.eq(word + 1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [axi.arready.eq(1), axi.awready.eq(~axi.arvalid)]
                m.d.sync += [
                    word.eq(address >> 2),
                    left.eq(axi.arlen),
                    outside.eq((address >> (self._size - 1).bit_length()) != 0),
                ]
                with m.If(axi.arvalid):
                    m.next = "FIRST"
                with m.Elif(axi.awvalid):
                    m.next = "WRITE"
            with m.State("FIRST"):
                m.d.comb += step.eq(1)
                m.next = "READ"
            with m.State("READ"):
                m.d.comb += [axi.rvalid.eq(1), axi.rlast.eq(left == 0)]
                with m.If(axi.rready):
                    m.d.comb += step.eq(1)
                    m.d.sync += left.eq(left - 1)
                    with m.If(axi.rlast):
                        m.next = "IDLE"
            with m.State("WRITE"):
                m.d.comb += [axi.wready.eq(1), writing.eq(axi.wvalid & ~outside)]
                with m.If(axi.wvalid & axi.wlast):
                    m.next = "RESPONSE"
            with m.State("RESPONSE"):
                m.d.comb += axi.bvalid.eq(1)
                with m.If(axi.bready):
                    m.next = "IDLE"
        return m
