"""The activation SRAM: blocks of byte-wide banks, so that a vector may begin at any byte."""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from systolith.hw.interfaces import ActReadSignature, ActWriteSignature
from systolith.spec.arch import ArchConfig

__all__ = ["Scratchpad"]


class Scratchpad(wiring.Component):
    """Three read and three write ports over `act_blocks` blocks with one read and one write port each.

    Members
    -------
    matrix_read, vector_read, store_read : In(ActReadSignature)      in order of priority; the first is always
                                                                     granted
    output_write, vector_write, load_write : In(ActWriteSignature)   in order of priority

    Timing
    ------
    Data two cycles after the grant. A write is seen by reads granted in later cycles; what a read granted in
    the same cycle sees of the bytes that are written is undefined.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        super().__init__({
            **{f"{name}_read": In(ActReadSignature(arch)) for name in ("matrix", "vector", "store")},
            **{f"{name}_write": In(ActWriteSignature(arch)) for name in ("output", "vector", "load")},
        })

    def elaborate(self, platform):
        m = Module()
        arch = self._arch
        width, blocks = arch.act_width, arch.act_blocks
        depth = arch.act_block_bytes // width
        reads = (self.matrix_read, self.vector_read, self.store_read)
        writes = (self.output_write, self.vector_write, self.load_write)
        read_selects = self._arbitrate(m, reads, "read")
        write_selects = self._arbitrate(m, writes, "write")
        ports = []
        for block in range(blocks):
            row = []
            for bank in range(width):
                memory = Memory(shape=unsigned(8), depth=depth, init=[])
                m.submodules[f"bank{block}_{bank}"] = memory
                row.append((memory.read_port(), memory.write_port()))
            ports.append(row)
        lines = {id(port): self._lines(m, port, name) for name,
                 group in (("read", reads), ("write", writes)) for port in group}
        rotated = {id(port): self._rotate(m, [Cat(port.data[j], port.mask[j]) for j in range(width)],
                                          self._offset(port), right=True) for port in writes}
        for block in range(blocks):
            for bank in range(width):
                read, write = ports[block][bank]
                for port, select in zip(reads, read_selects, strict=True):
                    with m.If(select[block]):
                        m.d.comb += read.addr.eq(lines[id(port)][bank][:len(read.addr)])
                m.d.comb += read.en.eq(Cat(s[block] for s in read_selects).any())
                for port, select in zip(writes, write_selects, strict=True):
                    line = lines[id(port)][bank]
                    with m.If(select[block]):
                        m.d.comb += [write.addr.eq(line[:len(write.addr)]),
                                     write.data.eq(rotated[id(port)][bank][:8]),
                                     write.en.eq(rotated[id(port)][bank][8]
                                                 & (line[len(write.addr):] == block))]
        for index, port in enumerate(reads):
            offset = Signal(range(width), name=f"offset{index}", reset_less=True)
            base = Signal(range(max(2, blocks)), name=f"block{index}", reset_less=True)
            following = Signal(range(max(2, blocks)), name=f"next_block{index}", reset_less=True)
            m.d.sync += offset.eq(self._offset(port))
            shift = (depth - 1).bit_length() + (width - 1).bit_length()
            if blocks > 1:
                next_line = (port.addr >> (width - 1).bit_length()) + 1
                m.d.sync += [base.eq(port.addr >> shift), following.eq(next_line[(depth - 1).bit_length():])]
            raw = []
            for bank in range(width):
                byte = Signal(8, name=f"raw{index}_{bank}")
                where = Mux(offset > bank, following, base)
                with m.Switch(where):
                    for block in range(blocks):
                        with m.Case(block):
                            m.d.comb += byte.eq(ports[block][bank][0].data)
                raw.append(byte)
            aligned = self._rotate(m, raw, offset, right=False)
            result = Signal(data.ArrayLayout(unsigned(8), width), name=f"data{index}", reset_less=True)
            m.d.sync += result.eq(Cat(aligned))
            m.d.comb += port.data.eq(result)
        return m

    def _offset(self, port):
        return port.addr[:(self._arch.act_width - 1).bit_length()]

    def _lines(self, m, port, name):
        """The line (of the whole memory) of each bank: the next one for banks before the first byte."""
        arch = self._arch
        bits = (arch.act_width - 1).bit_length()
        line = port.addr[bits:]
        following = Signal(len(line), name=f"{name}_next_line")
        m.d.comb += following.eq(line + 1)
        result = []
        for bank in range(arch.act_width):
            own = Signal(len(line), name=f"{name}_line{bank}")
            m.d.comb += own.eq(Mux(self._offset(port) > bank, following, line))
            result.append(own)
        return result

    def _arbitrate(self, m, ports, name):
        """Grant ports in order of priority; returns for each the blocks that it drives."""
        arch = self._arch
        bits = (arch.act_width - 1).bit_length()
        block_bits = (arch.act_block_bytes - 1).bit_length()
        taken = 0
        selects = []
        for index, port in enumerate(ports):
            needed = Signal(arch.act_blocks, name=f"{name}_needed{index}")
            if arch.act_blocks == 1:
                m.d.comb += needed.eq(1)
            else:
                last = Signal(len(port.addr), name=f"{name}_last{index}")
                m.d.comb += last.eq(((port.addr >> bits) + (self._offset(port) != 0)) << bits)
                m.d.comb += needed.eq((1 << port.addr[block_bits:]) | (1 << last[block_bits:]))
            grant = Signal(name=f"{name}_grant{index}")
            select = Signal(arch.act_blocks, name=f"{name}_select{index}")
            m.d.comb += [grant.eq((needed & taken) == 0), port.ready.eq(grant),
                         select.eq(Mux(port.valid & grant, needed, 0))]
            used = Signal(arch.act_blocks, name=f"{name}_used{index}")
            m.d.comb += used.eq(taken | select)
            taken = used
            selects.append(select)
        return selects

    def _rotate(self, m, lanes, amount, right):
        """Rotate lanes so that lane `amount` becomes lane 0, or (right) lane 0 becomes lane `amount`."""
        width = len(lanes)
        for stage in range((width - 1).bit_length()):
            step = 1 << stage
            moved = []
            for lane in range(width):
                source = (lane - step if right else lane + step) % width
                value = Signal(len(lanes[0]), name=f"rotate{stage}_{lane}")
                m.d.comb += value.eq(Mux(amount[stage], lanes[source], lanes[lane]))
                moved.append(value)
            lanes = moved
        return lanes
