"""Decode: which engine executes an instruction word, and whether the word is legal. Derived from the table of
`spec.isa`."""

from amaranth.hdl import Cat, Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systolith.hw.interfaces import command_layout
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Engine, isa_for

__all__ = ["Decode", "header_layout"]


def header_layout(arch: ArchConfig) -> data.StructLayout:
    """The fields that every instruction begins with."""
    return data.StructLayout({f.name: f.bits for f in isa_for(arch).header})


class Decode(wiring.Component):
    """Checks and sorts one instruction word; combinational.

    Members
    -------
    word : In                  the instruction
    format, legal : Out        one bit per format of the table: the opcode is the format's; enumerated
                    operands and reserved bits
                               are as the format has them, and without an engine there are neither waits nor
                               signals. A word is legal if some format has both bits, which a later cycle may
                               look at
    halt : Out(1)              it is HALT
    engine : Out(one bit each) who executes it; none for NOP and HALT
    wait, signal : Out         the header's masks
    commands : Out             per engine, in the order of `Engine`: what it receives
    """

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        header = header_layout(arch)
        super().__init__(
            {
                "word": In(8 * isa_for(arch).word_bytes),
                "format": Out(len(isa_for(arch).formats)),
                "legal": Out(len(isa_for(arch).formats)),
                "halt": Out(1),
                "engine": Out(len(Engine)),
                "wait": Out(header["wait"].width),
                "signal": Out(header["signal"].width),
                "commands": Out(data.StructLayout({e.name.lower(): command_layout(arch, e) for e in Engine})),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        arch, isa = self._arch, isa_for(self._arch)
        header_bits = sum(f.bits for f in isa.header)
        header = data.View(header_layout(arch), self.word[:header_bits])
        m.d.comb += [self.wait.eq(header.wait), self.signal.eq(header.signal)]
        for engine in Engine:
            command = self.commands[engine.name.lower()]
            m.d.comb += [command.opcode.eq(header.opcode), command.body.raw.eq(self.word[header_bits:])]
        for index, fmt in enumerate(isa.formats):
            position = header_bits
            checks = []
            for field in fmt.fields:
                value = self.word[position : position + field.bits]
                if field.enum is not None:
                    checks.append(value.matches(*(int(member) - field.bias for member in field.enum)))
                position += field.bits
            if position < len(self.word):
                checks.append(self.word[position:] == 0)
            if fmt.engine is None:
                checks += [header.wait == 0, header.signal == 0]
            m.d.comb += [
                self.format[index].eq(header.opcode == fmt.opcode),
                self.legal[index].eq(Cat(checks).all()),
            ]
            with m.If(self.format[index]):
                m.d.comb += self.halt.eq(fmt.mnemonic == "HALT")
                if fmt.engine is not None:
                    m.d.comb += self.engine.eq(1 << fmt.engine)
        return m
