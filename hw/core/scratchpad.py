"""The activation SRAM: blocks of byte-wide banks, so that a vector may begin at any byte."""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from systolith.hw.interfaces import ActReadSignature, ActWriteSignature
from systolith.hw.leaf.delay import delayed
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
    The banks lie far apart, so there are registers before and behind each. Data `timing.ACT_READ` cycles
    after the grant: the request at its blocks, the banks' addresses, their data, those in registers, those
    of the right blocks aligned. A write goes to its blocks, is aligned, and reaches the banks; a read that is
    granted less than `timing.ACT_WRITE` cycles after it sees undefined bytes there.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        super().__init__(
            {
                **{f"{name}_read": In(ActReadSignature(arch)) for name in ("matrix", "vector", "store")},
                **{f"{name}_write": In(ActWriteSignature(arch)) for name in ("output", "vector", "load")},
            }
        )

    def elaborate(self, platform):
        m = Module()
        arch = self._arch
        width, blocks = arch.act_width, arch.act_blocks
        depth = arch.act_block_bytes // width
        reads = (self.matrix_read, self.vector_read, self.store_read)
        writes = (self.output_write, self.vector_write, self.load_write)
        self._arbitrate(m, reads, "read")
        write_selects = self._arbitrate(m, writes, "write")
        ports = []
        for block in range(blocks):
            row = []
            for bank in range(width):
                memory = Memory(shape=unsigned(8), depth=depth, init=[])
                m.submodules[f"bank{block}_{bank}"] = memory
                row.append((memory.read_port(), memory.write_port()))
            ports.append(row)
        for block, row in enumerate(ports):
            self._write_block(
                m,
                block,
                [write for _, write in row],
                writes,
                Cat(select[block] for select in write_selects).any(),
            )
            self._read_block(m, block, [read for read, _ in row], reads)
        fetched = [
            [delayed(m, read.data, 1, f"fetched{block}_{bank}") for bank, (read, _) in enumerate(row)]
            for block, row in enumerate(ports)
        ]
        shift = (depth - 1).bit_length() + (width - 1).bit_length()
        for index, port in enumerate(reads):
            address = Signal.like(port.addr, name=f"address{index}", reset_less=True)
            m.d.sync += address.eq(port.addr)
            offset, base, following = (
                self._offset(address),
                Signal(range(max(2, blocks)), name=f"block{index}"),
                Signal(range(max(2, blocks)), name=f"next_block{index}"),
            )
            if blocks > 1:
                next_line = (address >> (width - 1).bit_length()) + 1
                m.d.comb += [base.eq(address >> shift), following.eq(next_line[(depth - 1).bit_length() :])]
            # Beside the banks' addresses, their data, those in registers.
            wheres = [
                delayed(m, Mux(offset > bank, following, base), 3, f"block{index}_{bank}")
                for bank in range(width)
            ]
            raw = []
            for bank, where in enumerate(wheres):
                byte = Signal(8, name=f"raw{index}_{bank}")
                with m.Switch(where):
                    for block in range(blocks):
                        with m.Case(block):
                            m.d.comb += byte.eq(fetched[block][bank])
                raw.append(byte)
            result = Signal(data.ArrayLayout(unsigned(8), width), name=f"data{index}", reset_less=True)
            m.d.sync += result.eq(
                Cat(self._rotate(m, raw, delayed(m, offset, 3, f"offset{index}"), right=False))
            )
            m.d.comb += port.data.eq(result)
        return m

    def _read_block(self, m, block, banks, ports):
        """The request that a block is granted to, and from it the address of each bank."""
        address = Signal.like(ports[0].addr, name=f"read_address{block}", reset_less=True)
        m.d.sync += address.eq(self._chosen(block, ports, [port.addr for port in ports]))
        line, following, after = self._lines(m, address, f"read{block}")
        for bank, read in enumerate(banks):
            m.d.comb += [
                read.en.eq(1),
                read.addr.eq(
                    delayed(
                        m,
                        Mux(after[bank], following, line)[: len(read.addr)],
                        1,
                        f"bank_address{block}_{bank}",
                    )
                ),
            ]

    def _write_block(self, m, block, banks, ports, granted):
        """The write that a block is granted to, and from it, aligned, that of each bank."""
        width = self._arch.act_width
        lane = data.StructLayout({"data": 8, "mask": 1})
        lanes = data.ArrayLayout(lane, width)
        address = Signal.like(ports[0].addr, name=f"write_address{block}", reset_less=True)
        given = Signal(lanes, name=f"write_lanes{block}", reset_less=True)
        valid = Signal(name=f"write_valid{block}")
        m.d.sync += [
            valid.eq(granted),
            address.eq(self._chosen(block, ports, [port.addr for port in ports])),
            *(
                lane.eq(self._chosen(block, ports, [Cat(port.data[j], port.mask[j]) for port in ports]))
                for j, lane in enumerate(given)
            ),
        ]
        aligned = Signal(lanes, name=f"aligned_lanes{block}", reset_less=True)
        aligned_valid = Signal(name=f"aligned_valid{block}")
        line, following, after = self._lines(m, address, f"write{block}")
        aligned_line, aligned_following = (
            Signal.like(line, name=f"aligned_line{block}", reset_less=True),
            Signal.like(line, name=f"aligned_next{block}", reset_less=True),
        )
        aligned_after = Signal(width, name=f"aligned_after{block}", reset_less=True)
        m.d.sync += [
            aligned.eq(
                Cat(self._rotate(m, [lane.as_value() for lane in given], self._offset(address), right=True))
            ),
            aligned_valid.eq(valid),
            aligned_line.eq(line),
            aligned_following.eq(following),
            aligned_after.eq(after),
        ]
        for bank, write in enumerate(banks):
            where = Mux(aligned_after[bank], aligned_following, aligned_line)
            enable = Signal(name=f"bank_enable{block}_{bank}")
            m.d.sync += enable.eq(aligned_valid & aligned[bank].mask & (where[len(write.addr) :] == block))
            m.d.comb += [
                write.addr.eq(delayed(m, where[: len(write.addr)], 1, f"bank_line{block}_{bank}")),
                write.data.eq(delayed(m, aligned[bank].data, 1, f"bank_data{block}_{bank}")),
                write.en.eq(enable),
            ]

    @staticmethod
    def _chosen(block, ports, values):
        """The value of the first port that wants the block: where another port is granted it, none before
        that one does, so no grant is on the way."""
        chosen = values[-1]
        for port, value in zip(ports[-2::-1], values[-2::-1], strict=True):
            chosen = Mux(port.valid & port.blocks[block], value, chosen)
        return chosen

    def _offset(self, addr):
        return addr[: (self._arch.act_width - 1).bit_length()]

    def _lines(self, m, addr, name):
        """The line (of the whole memory) of an address, the next one, and for each bank whether it has that,
        as it lies before the first byte."""
        line = Signal(len(addr) - (self._arch.act_width - 1).bit_length(), name=f"{name}_line")
        following = Signal.like(line, name=f"{name}_next_line")
        after = Signal(self._arch.act_width, name=f"{name}_after")
        m.d.comb += [
            line.eq(addr >> (len(addr) - len(line))),
            following.eq(line + 1),
            after.eq(Cat(self._offset(addr) > bank for bank in range(len(after)))),
        ]
        return line, following, after

    def _arbitrate(self, m, ports, name):
        """Grant ports in order of priority, each if none before it wants one of its blocks; returns for each
        the blocks that it drives."""
        arch = self._arch
        taken = 0
        selects = []
        for index, port in enumerate(ports):
            needed = port.blocks
            grant = Signal(name=f"{name}_grant{index}")
            select = Signal(arch.act_blocks, name=f"{name}_select{index}")
            m.d.comb += [
                grant.eq((needed & taken) == 0),
                port.ready.eq(grant),
                select.eq(Mux(port.valid & grant, needed, 0)),
            ]
            # A port without a grant counts too, so that a grant does not depend on the grants before it.
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
