"""Operands arrive in their registers, whichever beats they straddle."""

import random

import pytest
from amaranth.hdl import Module, Shape, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from systolith.hw.compact.operands import UnitSignature, capture, operand
from systolith.spec.isa import isa_for
from tests.hw.compact.bench import each_arch, give
from tests.hw.kit import simulate

#: Bits by which every second register is wider than its operand.
EXTRA = 3


class Captured(wiring.Component):
    """Every field of one format in a register of its own, all ones where `spoil` was set."""

    def __init__(self, arch, mnemonic):
        self._arch, self._mnemonic = arch, mnemonic
        self.fields = isa_for(arch).by_mnemonic[mnemonic].fields
        self.registers = {}
        for index, field in enumerate(self.fields):
            register = operand(arch, mnemonic, field.name)
            if index % 2 and not field.signed:
                register = Signal(len(register) + EXTRA, name=field.name)
            self.registers[field.name] = register
        super().__init__({"unit": In(UnitSignature(arch)), "spoil": In(1)})

    def elaborate(self, platform):
        m = Module()
        with m.If(self.spoil):
            m.d.sync += [register.eq(-1) for register in self.registers.values()]
        capture(m, self._arch, self.unit, self._mnemonic, self.registers)
        return m


def random_value(field, rng):
    return rng.choice((field.min, field.max, rng.randint(field.min, field.max)))


@each_arch
@pytest.mark.parametrize("mnemonic", ["LOAD", "STORE", "MATMUL", "OUTPUT"])
def test_every_operand_of_random_instructions_is_captured(arch, mnemonic):
    dut, rng = Captured(arch, mnemonic), random.Random(f"{arch.name} {mnemonic}")

    async def bench(ctx):
        for turn in range(12):
            instr = isa_for(arch).make(mnemonic, **{f.name: random_value(f, rng) for f in dut.fields})
            ctx.set(dut.spoil, 1)
            await ctx.tick()
            ctx.set(dut.spoil, 0)
            await give(ctx, dut.unit, arch, instr, rng, gap=(0.0, 0.4)[turn % 2])
            captured = {name: ctx.get(register) for name, register in dut.registers.items()}
            assert captured == {f.name: instr.operands[f.name] - f.bias for f in dut.fields}, f"turn {turn}"

    simulate(dut, bench)


@each_arch
def test_a_register_has_the_shape_of_its_operand(arch):
    for mnemonic in ("LOAD", "STORE", "MATMUL", "OUTPUT"):
        for field in isa_for(arch).by_mnemonic[mnemonic].fields:
            assert operand(arch, mnemonic, field.name).shape() == Shape(field.bits, field.signed), field.name
