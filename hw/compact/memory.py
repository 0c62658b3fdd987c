"""The activation SRAM of a compact core: single-port memory, two halfwords wide."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.hw.leaf.ice40 import SinglePortRam
from systolith.spec.arch import ArchConfig

__all__ = ["CompactActMemory", "ReadPort", "WordWritePort"]


class ReadPort(wiring.Signature):
    """Four bytes from any address: valid in the cycle after ``valid & ready``. An odd address takes two
    accesses."""

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__({"valid": Out(1), "addr": Out(range(arch.act_bytes)), "ready": In(1)})


class WordWritePort(wiring.Signature):
    """One aligned word with byte enables; `ready` where it is not always taken."""

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "word": Out(range(arch.act_bytes // 4)),
                "data": Out(32),
                "mask": Out(4),
                "ready": In(1),
            }
        )


class CompactActMemory(wiring.Component):
    """One access per cycle, in this order: results of OUTPUT, LOAD's writes, STORE's reads, MATRIX's reads.

    Members
    -------
    output_write : In(WordWritePort)   always taken
    load_write : In(WordWritePort)
    store_read, matrix_read : In(ReadPort)
    data : Out(32)                     what was read last, for one cycle

    Timing
    ------
    An odd address is read in two accesses; others may come between them, but not the other reader's.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        super().__init__(
            {
                "output_write": In(WordWritePort(arch)),
                "load_write": In(WordWritePort(arch)),
                "store_read": In(ReadPort(arch)),
                "matrix_read": In(ReadPort(arch)),
                "data": Out(32),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        arch = self._arch
        words = arch.act_bytes // 4
        m.submodules.even = even = SinglePortRam(words)
        m.submodules.odd = odd = SinglePortRam(words)
        output, load, store, matrix = self.output_write, self.load_write, self.store_read, self.matrix_read
        half = Signal()
        half_store = Signal()
        use_store = Signal()
        address = Signal.like(matrix.addr)
        reading, writing, done = Signal(), Signal(), Signal()
        m.d.comb += [
            use_store.eq(Mux(half, half_store, store.valid)),
            address.eq(Mux(use_store, store.addr, matrix.addr)),
            writing.eq(output.valid | load.valid),
            load.ready.eq(~output.valid),
            reading.eq(~writing & Mux(use_store, store.valid, matrix.valid)),
            # The first access of an odd address brings its first byte, the second the other three.
            done.eq(reading & (~address[0] | half)),
            store.ready.eq(~writing & use_store & (~address[0] | half)),
            matrix.ready.eq(~writing & ~use_store & (~address[0] | half)),
        ]
        with m.If(reading):
            m.d.sync += [half.eq(~done), half_store.eq(use_store)]
        first = Signal(len(address) - 1)
        following = Signal(len(address) - 1)
        line = Signal(range(words))
        m.d.comb += [first.eq(address[1:] + half), following.eq(first + 1)]
        word, data, mask = Signal(range(words)), Signal(32), Signal(4)
        m.d.comb += [
            word.eq(Mux(output.valid, output.word, load.word)),
            data.eq(Mux(output.valid, output.data, load.data)),
            mask.eq(Mux(output.valid, output.mask, load.mask)),
            line.eq(following[1:]),
        ]
        for index, ram in enumerate((even, odd)):
            m.d.comb += [
                ram.enable.eq(reading | writing),
                ram.write.eq(writing),
                ram.data.eq(data[16 * index : 16 * index + 16]),
                ram.mask.eq(mask[2 * index : 2 * index + 2]),
                ram.addr.eq(Mux(writing, word, first[1:] if index else line)),
            ]
        # What was asked for a cycle ago: the halfword that came first, and whether it is the second access.
        swapped, second, begun = (
            Signal(name=name, reset_less=True) for name in ("swapped", "second", "begun")
        )
        saved = Signal(8, reset_less=True)
        m.d.sync += [swapped.eq(first[0]), second.eq(half), begun.eq(reading)]
        found = Signal(32)
        m.d.comb += found.eq(Mux(swapped, Cat(odd.o, even.o), Cat(even.o, odd.o)))
        with m.If(begun & ~second):
            m.d.sync += saved.eq(found[8:16])
        m.d.comb += self.data.eq(Mux(second, Cat(saved, found[:24]), found))
        return m
