"""Look-up tables of one int8, one copy per lane."""

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith.hw.interfaces import BeatWriteSignature, chunk_layout
from systolith.spec.arch import ArchConfig
from systolith.spec.numerics import TABLE_SIZE

__all__ = ["Table"]


class Table(wiring.Component):
    """``o[lane] = tables[slot][i[lane] & 255]`` for every lane, one cycle later.

    Members
    -------
    write : In(BeatWriteSignature)   one entry per cycle; `ready` with a beat's last
    slot, i : In
    o : Out                          latency 1, one result per lane and cycle
    """

    LATENCY = 1

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        super().__init__({"write": In(BeatWriteSignature(arch, arch.table_bytes)),
                          "slot": In(range(arch.table_slots)), "i": In(chunk_layout(arch)),
                          "o": Out(chunk_layout(arch))})

    def elaborate(self, platform):
        m = Module()
        arch = self._arch
        byte = Signal(range(arch.bus_bytes))
        m.d.comb += self.write.ready.eq(byte == arch.bus_bytes - 1)
        with m.If(self.write.valid):
            m.d.sync += byte.eq(byte + 1)
        for lane in range(arch.lanes):
            memory = Memory(shape=unsigned(8), depth=arch.table_slots * TABLE_SIZE, init=[])
            m.submodules[f"lane{lane}"] = memory
            read, write = memory.read_port(), memory.write_port()
            m.d.comb += [
                write.en.eq(self.write.valid), write.data.eq(self.write.data.word_select(byte, 8)),
                write.addr.eq((self.write.beat << (arch.bus_bytes - 1).bit_length()) | byte),
                read.en.eq(1), read.addr.eq((self.slot << 8) | self.i[lane].as_unsigned()),
                self.o[lane].eq(read.data.as_signed()),
            ]
        return m
