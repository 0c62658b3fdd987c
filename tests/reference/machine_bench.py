"""The machine on a bench: every memory random, operands at random, whole memories compared."""

from fractions import Fraction

import numpy as np
import pytest

from systolith.reference.machine import Machine
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import isa_for

__all__ = [
    "ARCHS",
    "Bench",
    "COMMON",
    "EXTREMES",
    "SEEDS",
    "every_arch",
    "every_seed",
    "execute",
    "replay",
    "rounded",
    "state",
]

COMMON = dict(bus_bits=32, act_bytes=1 << 10, act_blocks=1, weight_bytes=1 << 10, acc_depth=128, param_rows=8)
#: More columns than rows and the reverse; two rows per weight line and one.
ARCHS = [
    ArchConfig(name="broad", rows=2, cols=8, lanes=4, weight_rows_per_cycle=2, table_slots=4, **COMMON),
    ArchConfig(name="tall", rows=8, cols=4, lanes=2, weight_rows_per_cycle=2, table_slots=2, **COMMON),
]
SEEDS = range(12)
EXTREMES = (-128, 127, -1, 0)
every_arch = pytest.mark.parametrize("arch", ARCHS, ids=lambda arch: arch.name)
every_seed = pytest.mark.parametrize("seed", SEEDS)


class Bench:
    """A machine whose memories are all random, and random operands for it."""

    def __init__(self, arch, seed):
        self.arch, self.isa, self.rng = arch, isa_for(arch), np.random.default_rng(seed)
        self.machine = Machine(arch, self.bytes(512), self.bytes(512))
        for name in ("act", "weight", "param", "table"):
            memory = getattr(self.machine, name)
            memory[:] = self.bytes(len(memory)).view(memory.dtype)
        self.machine.acc[:] = self.rng.integers(-(1 << 31), 1 << 31, self.machine.acc.shape)

    def bytes(self, size):
        return self.rng.integers(0, 256, size).astype(np.uint8)

    def pick(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def int8(self):
        return int(self.rng.choice([*EXTREMES, self.pick(-128, 127)]))

    def bounds(self):
        """Lower and upper bound of a result; half the time all of int8."""
        return dict(
            zip(
                ("low", "high"),
                sorted((self.int8(), self.int8())) if self.pick(0, 1) else (-128, 127),
                strict=True,
            )
        )

    def result(self):
        return dict(zero=self.int8(), **self.bounds(), **self.table())

    def table(self):
        return dict(table=self.pick(0, 1), slot=self.pick(0, self.arch.table_slots - 1))

    def steps(self, *names):
        """Steps between rows and pixels: small, none at all (results overlap), or nearly a whole memory
        (backwards)."""
        return {
            name: int(self.rng.choice([0, self.pick(1, 30), self.arch.act_bytes - self.pick(1, 30)]))
            for name in names
        }

    def address(self):
        return self.pick(0, self.arch.act_bytes - 1)

    def looked_up(self, q, instr):
        return int(self.machine.table[instr.slot * 256 + (q & 255)]) if instr.table else q


def rounded(total, shift, zero, low, high):
    """Python's `round` of a fraction is half to even."""
    return min(max(round(Fraction(int(total), 1 << int(shift))) + zero, low), high)


def state(machine):
    return {name: getattr(machine, name).copy() for name in ("act", "weight", "param", "table", "acc")} | {
        region.name: memory.copy() for region, memory in machine.regions.items()
    }


def execute(bench, mnemonic, expected=None, **operands):
    """One instruction; every memory that is not in `expected` must be as before, and the hook must tell every
    change."""
    instr = bench.isa.make(mnemonic, **operands)
    before = state(bench.machine)
    want = before | (expected(instr, before) if expected else {})
    effects = []
    bench.machine.on_instruction = lambda offset, told, effect: effects.append((told, effect))
    bench.machine.execute(instr)
    bench.machine.on_instruction = None
    ((told, effect),) = effects
    assert told is instr
    if effect.space != "chain":
        replay(effect, before)
    for name, memory in state(bench.machine).items():
        np.testing.assert_array_equal(
            memory, want[name], err_msg=f"{name} after {bench.isa.disassemble(instr)}"
        )
        np.testing.assert_array_equal(
            memory, before[name], err_msg=f"{name} as told of {bench.isa.disassemble(instr)}"
        )
    return instr


def replay(effect, memories):
    """Write what the hook told, in its order."""
    memory = memories["DATA" if effect.space == "data" else effect.space]
    for address, row, kept in zip(effect.addresses, effect.rows, effect.kept, strict=True):
        if effect.space == "acc":
            memory[address, :kept] = row[:kept]
        else:
            memory[(address + np.arange(kept)) % len(memory)] = row[:kept].view(memory.dtype)
