"""Look-up tables of one int8, one copy per lane."""

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith.hw.interfaces import BeatWriteSignature, chunk_layout
from systolith.spec import timing
from systolith.spec.arch import ArchConfig
from systolith.spec.numerics import TABLE_SIZE

__all__ = ["Table"]


class Table(wiring.Component):
    """``o[lane] = tables[slot][i[lane] & 255]`` for every lane, ``LATENCY`` cycles later.

    Members
    -------
    write : In(BeatWriteSignature)   one entry per cycle; `ready` with a beat's last
    slot, i : In
    o : Out                          latency `LATENCY`, one result per lane and cycle
    """

    LATENCY = timing.TABLE

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        super().__init__(
            {
                "write": In(BeatWriteSignature(arch, arch.table_bytes)),
                "slot": In(range(arch.table_slots)),
                "i": In(chunk_layout(arch)),
                "o": Out(chunk_layout(arch)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        arch = self._arch
        byte = Signal(range(arch.bus_bytes))
        m.d.comb += self.write.ready.eq(byte == arch.bus_bytes - 1)
        # The lanes' memories lie apart, so an entry goes to them, and what is read comes from them, by
        # registers.
        address, entry, enable = (
            Signal(range(arch.table_slots * TABLE_SIZE), reset_less=True),
            Signal(8, reset_less=True),
            Signal(),
        )
        m.d.sync += enable.eq(self.write.valid)
        with m.If(self.write.valid):
            m.d.sync += [
                byte.eq(byte + 1),
                entry.eq(self.write.data.word_select(byte, 8)),
                address.eq((self.write.beat << (arch.bus_bytes - 1).bit_length()) | byte),
            ]
        result = Signal(chunk_layout(arch), reset_less=True)
        m.d.comb += self.o.eq(result)
        for lane in range(arch.lanes):
            memory = Memory(shape=unsigned(8), depth=arch.table_slots * TABLE_SIZE, init=[])
            m.submodules[f"lane{lane}"] = memory
            read, write = memory.read_port(), memory.write_port()
            m.d.comb += [
                write.en.eq(enable),
                write.data.eq(entry),
                write.addr.eq(address),
                read.en.eq(1),
                read.addr.eq((self.slot << 8) | self.i[lane].as_unsigned()),
            ]
            m.d.sync += result[lane].eq(read.data.as_signed())
        return m
