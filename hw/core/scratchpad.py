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
    Data three cycles after the grant: the banks' addresses, their data, the data aligned. A write reaches its banks one
    cycle after the grant. What a read granted in the same cycle or the next one sees of those bytes is undefined.
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
        for port, select in zip(writes, write_selects, strict=True):
            self._write_banks(m, [[write for _, write in row] for row in ports], port, select)
        lines = [self._lines(m, port.addr, "read") for port in reads]
        # A bank reads for the last port where none before it is granted, so that the last one's grant is not on the way.
        for block, row in enumerate(ports):
            for bank, (read, _) in enumerate(row):
                matrix, vector, store = (line[bank][:len(read.addr)] for line in lines)
                m.d.comb += [read.en.eq(1), read.addr.eq(Mux(read_selects[0][block], matrix, Mux(read_selects[1][block], vector, store)))]
        shift = (depth - 1).bit_length() + (width - 1).bit_length()
        for index, port in enumerate(reads):
            offset = Signal(range(width), name=f"offset{index}", reset_less=True)
            aligned_offset = Signal(range(width), name=f"offset{index}_late", reset_less=True)
            base = Signal(range(max(2, blocks)), name=f"block{index}", reset_less=True)
            following = Signal(range(max(2, blocks)), name=f"next_block{index}", reset_less=True)
            m.d.sync += [offset.eq(self._offset(port.addr)), aligned_offset.eq(offset)]
            if blocks > 1:
                next_line = (port.addr >> (width - 1).bit_length()) + 1
                m.d.sync += [base.eq(port.addr >> shift), following.eq(next_line[(depth - 1).bit_length():])]
            raw = []
            for bank in range(width):
                byte = Signal(8, name=f"raw{index}_{bank}", reset_less=True)
                where = Mux(offset > bank, following, base)
                with m.Switch(where):
                    for block in range(blocks):
                        with m.Case(block):
                            m.d.sync += byte.eq(ports[block][bank][0].data)
                raw.append(byte)
            result = Signal(data.ArrayLayout(unsigned(8), width), name=f"data{index}", reset_less=True)
            m.d.sync += result.eq(Cat(self._rotate(m, raw, aligned_offset, right=False)))
            m.d.comb += port.data.eq(result)
        return m

    def _write_banks(self, m, ports, port, select):
        """One port's granted writes to the banks, aligned in the cycle before, so that alignment has a cycle of its own."""
        width = self._arch.act_width
        late_select, address = Signal.like(select), Signal.like(port.addr, reset_less=True)
        lanes = Signal(data.ArrayLayout(9, width), reset_less=True)
        rotated = self._rotate(m, [Cat(port.data[j], port.mask[j]) for j in range(width)], self._offset(port.addr), right=True)
        m.d.sync += [late_select.eq(select), address.eq(port.addr), lanes.eq(Cat(rotated))]
        lines = self._lines(m, address, "write")
        for block, row in enumerate(ports):
            for write, line, lane in zip(row, lines, lanes, strict=True):
                with m.If(late_select[block]):
                    m.d.comb += [write.addr.eq(line[:len(write.addr)]), write.data.eq(lane[:8]),
                                 write.en.eq(lane[8] & (line[len(write.addr):] == block))]

    def _offset(self, addr):
        return addr[:(self._arch.act_width - 1).bit_length()]

    def _lines(self, m, addr, name):
        """The line (of the whole memory) of each bank: the next one for banks before the first byte."""
        arch = self._arch
        bits = (arch.act_width - 1).bit_length()
        line = addr[bits:]
        following = Signal(len(line), name=f"{name}_next_line")
        m.d.comb += following.eq(line + 1)
        result = []
        for bank in range(arch.act_width):
            own = Signal(len(line), name=f"{name}_line{bank}")
            m.d.comb += own.eq(Mux(self._offset(addr) > bank, following, line))
            result.append(own)
        return result

    def _arbitrate(self, m, ports, name):
        """Grant ports in order of priority, each if none before it wants one of its blocks; returns for each the blocks that it drives."""
        arch = self._arch
        taken = 0
        selects = []
        for index, port in enumerate(ports):
            needed = port.blocks
            grant = Signal(name=f"{name}_grant{index}")
            select = Signal(arch.act_blocks, name=f"{name}_select{index}")
            m.d.comb += [grant.eq((needed & taken) == 0), port.ready.eq(grant),
                         select.eq(Mux(port.valid & grant, needed, 0))]
            # Also what it does not get, so that a grant does not depend on the grants before it.
            taken = taken | Mux(port.valid, needed, 0)
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
