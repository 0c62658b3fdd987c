"""Memories that are written in bus beats and read in wide lines: weights and parameters."""

from amaranth.hdl import Cat, Module, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from systolith.hw.interfaces import BeatWriteSignature, ParamReadSignature, WeightReadSignature
from systolith.hw.leaf.twins import register_copies
from systolith.spec.arch import ArchConfig

__all__ = ["ParamMemory", "WeightMemory"]


def _banks(
    m: Module, write, *, banks: int, bank_bytes: int, lines: int, bus_bytes: int, copies: int = 1
) -> list:
    """Memories side by side that share a line address for writing; returns their read ports.

    A line has banks * bank_bytes bytes. Where that is less than a beat, a beat is written in several cycles.
    What is written can be read two cycles later; with `copies`, two or four, of the registers before the
    memories, which take turns with them, four.
    """
    line_bytes = banks * bank_bytes
    grain = min(bank_bytes, bus_bytes)
    ports = []
    for bank in range(banks):
        memory = Memory(shape=data.ArrayLayout(unsigned(8), bank_bytes), depth=lines, init=[])
        m.submodules[f"bank{bank}"] = memory
        ports.append((memory.read_port(), memory.write_port(granularity=grain)))
    part = Signal(range(max(2, bus_bytes // line_bytes)))
    parts = max(1, bus_bytes // line_bytes)
    beats = max(1, line_bytes // bus_bytes)
    line, sub = Signal(range(max(2, lines))), Signal(range(max(2, beats)))
    if parts > 1:
        m.d.comb += [
            line.eq((write.beat << (parts - 1).bit_length()) | part),
            write.ready.eq(part == parts - 1),
        ]
        with m.If(write.valid):
            m.d.sync += part.eq(part + 1)
    else:
        m.d.comb += [line.eq(write.beat >> (beats - 1).bit_length()), write.ready.eq(1)]
        if beats > 1:
            m.d.comb += sub.eq(write.beat[: (beats - 1).bit_length()])
    # The memory's blocks lie far apart, so a beat goes to them from registers.
    late_line = Signal.like(line, reset_less=True)
    given = write.data.word_select(part, 8 * line_bytes) if parts > 1 else write.data
    late_data = Signal(len(given), name="late_data", reset_less=True)
    # With an enable: LOAD gives all memories the same data, and synthesis would make one register of theirs.
    with m.If(write.valid):
        m.d.sync += [late_line.eq(line), late_data.eq(given)]
    late_bytes = len(given) // 8
    late = [(late_line, late_data)]
    if copies > 1:
        late = list(
            zip(
                register_copies(m, late_line, copies, "line"),
                register_copies(m, late_data, copies, "data"),
                strict=True,
            )
        )
    for bank, (_, port) in enumerate(ports):
        line_here, data_here = late[bank % copies]
        m.d.comb += port.addr.eq(line_here)
        value, enable = [], Signal(bank_bytes // grain, name=f"late_enable{bank}")
        for segment in range(bank_bytes // grain):
            first = bank * bank_bytes + segment * grain
            value.append(data_here[8 * (first % late_bytes) : 8 * (first % late_bytes + grain)])
            m.d.sync += enable[segment].eq(write.valid & (sub == first // late_bytes))
        for step in range(2 if copies > 1 else 0):
            before, enable = enable, Signal(len(enable), name=f"enable{bank}_{step}")
            m.d.sync += enable.eq(before)
        m.d.comb += [port.data.eq(Cat(value)), port.en.eq(enable)]
    return [read for read, _ in ports]


class WeightMemory(wiring.Component):
    """The weight SRAM: `weight_rows_per_cycle` banks of one row of weights each, every one in quarters that
    have their addresses by themselves.

    Members
    -------
    write : In(BeatWriteSignature)
    read : In(WeightReadSignature)
    """

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        super().__init__(
            {"write": In(BeatWriteSignature(arch, arch.weight_bytes)), "read": In(WeightReadSignature(arch))}
        )

    def elaborate(self, platform):
        m = Module()
        arch = self._arch
        parts = min(4, arch.cols)
        ports = _banks(
            m,
            self.write,
            banks=parts * arch.weight_rows_per_cycle,
            bank_bytes=arch.cols // parts,
            lines=arch.weight_tiles * arch.weight_load_cycles,
            bus_bytes=arch.bus_bytes,
            copies=parts,
        )
        for bank, line in enumerate(self.read.line):
            of_bank = ports[parts * bank : parts * (bank + 1)]
            for port, address in zip(of_bank, register_copies(m, line, parts, f"line{bank}"), strict=True):
                # Read enable tied high: a gated enable would be as timing-critical as the address.
                m.d.comb += [port.en.eq(1), port.addr.eq(address)]
            m.d.comb += self.read.data[bank].eq(Cat(port.data.as_value() for port in of_bank))
        return m


class ParamMemory(wiring.Component):
    """The parameter SRAM: bias, multiplier and shift of `lanes` columns in a line, so that it is as narrow as
    the output stage.

    Members
    -------
    write : In(BeatWriteSignature)
    read : In(ParamReadSignature)    data ``LATENCY`` cycles after the address
    """

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        super().__init__(
            {"write": In(BeatWriteSignature(arch, arch.param_bytes)), "read": In(ParamReadSignature(arch))}
        )

    def elaborate(self, platform):
        m = Module()
        arch = self._arch
        (port,) = _banks(
            m,
            self.write,
            banks=1,
            bank_bytes=arch.param_chunk_bytes,
            lines=arch.param_rows * arch.chunks,
            bus_bytes=arch.bus_bytes,
        )
        m.d.comb += [
            port.en.eq(self.read.en),
            port.addr.eq(self.read.addr),
            self.read.data.eq(port.data.as_value()),
        ]
        return m
