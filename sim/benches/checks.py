"""What a bench compares, whichever simulator it runs in."""

from __future__ import annotations

import random

from systolith.hw.interfaces import command_layout
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Engine, Instr, isa_for

__all__ = ["EffectChecker", "command_bits", "command_values", "signed8", "split_bytes"]


def signed8(byte: int) -> int:
    """A byte read as two's complement."""
    return (byte & 255) - ((byte & 128) << 1)


def split_bytes(value: int, count: int, bits: int = 8) -> tuple[int, ...]:
    """The low `count` bytes of a port (or elements of so many bits), lane 0 first, each read as two's
    complement."""
    elements = (value >> bits * lane & ((1 << bits) - 1) for lane in range(count))
    return tuple(element - (element >> (bits - 1) << bits) for element in elements)


def command_values(arch: ArchConfig, instr: Instr) -> dict[str, int]:
    """Operands as an engine receives them."""
    return {f.name: instr.operands[f.name] - f.bias for f in isa_for(arch).by_mnemonic[instr.mnemonic].fields}


def command_bits(arch: ArchConfig, engine: Engine, instr: Instr, rng: random.Random) -> int:
    """A command as an engine receives it; bits that its format does not define are random."""
    layout, fmt = command_layout(arch, engine), isa_for(arch).by_mnemonic[instr.mnemonic]
    defined = layout["opcode"].width + layout["body"].shape[instr.mnemonic].width
    bits = layout.const(
        {"opcode": fmt.opcode, "body": {instr.mnemonic: command_values(arch, instr)}}
    ).as_bits()
    return bits | rng.getrandbits(layout.size) >> defined << defined


class EffectChecker:
    """Compares an engine's effects with the expected ones, and its `done` with the end of each instruction.

    Parameters
    ----------
    effects : list of list    per instruction, its effects in order
    seed : int                shown on failure
    """

    def __init__(self, effects: list[list], seed: int) -> None:
        self.expected = [(index, effect) for index, group in enumerate(effects) for effect in group]
        self.ends = [sum(len(group) for group in effects[: index + 1]) for index in range(len(effects))]
        self.seed, self.done, self.seen, self.cycles = seed, 0, 0, []

    def step(self, cycle: int, effect, done: int) -> None:
        """One clock cycle: the effect that took place (or None), and `done`."""
        if effect is not None:
            assert self.seen < len(self.expected), f"seed {self.seed}: an effect too many: {effect}"
            index, expected = self.expected[self.seen]
            assert effect == expected, f"seed {self.seed}: effect {self.seen} is {effect}, not {expected}"
            assert index == self.done, f"seed {self.seed}: instruction {index} acts when {self.done} are done"
            self.seen += 1
            self.cycles.append(cycle)
        if done:
            assert self.done < len(self.ends), f"seed {self.seed}: done once too often"
            assert self.seen == self.ends[self.done], f"seed {self.seed}: {self.done} is done too early"
            self.done += 1

    @property
    def complete(self) -> bool:
        """Whether every instruction is done."""
        return self.done == len(self.ends)
