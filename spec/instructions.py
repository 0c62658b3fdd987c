"""What an instruction set is: formats of fields, and the encoder, decoder, assembler and disassembler that
derive from them. The one of Systolith is `spec.isa`. Standard library only."""

from __future__ import annotations

import enum
import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property

from systolith.spec.enums import Engine
from systolith.spec.errors import SystolithError
from systolith.spec.printable import excerpt

__all__ = ["Field", "Format", "Instr", "Isa", "IsaError"]

#: Characters of an operand's value in assembly: all engines by name, or 64 binary digits.
_LONGEST_VALUE = 80


class IsaError(SystolithError, ValueError):
    """An instruction that cannot be encoded, decoded or assembled."""


@dataclass(frozen=True, slots=True)
class Field:
    """One operand: `bits` wide, stored as ``value - bias``.

    Parameters
    ----------
    name : str        not `shape`, `eq` or `as_value`, which a hardware layout reserves
    bits : int        width in the instruction word
    signed : bool     two's complement
    bias : int        subtracted before encoding: 1 for counts, so that zero cannot be written
    unit : str        for documentation
    doc : str         meaning
    enum : type       an IntEnum whose members are the legal values, written by name in assembly
    """

    name: str
    bits: int
    doc: str
    signed: bool = False
    bias: int = 0
    unit: str = ""
    enum: type[enum.IntEnum] | None = None

    @property
    def min(self) -> int:
        """Smallest value."""
        return (-(1 << (self.bits - 1)) if self.signed else 0) + self.bias

    @property
    def max(self) -> int:
        """Largest value."""
        if self.enum is not None:
            return max(self.enum)
        return (1 << (self.bits - self.signed)) - 1 + self.bias


@dataclass(frozen=True, slots=True)
class Format:
    """One instruction: mnemonic, opcode, the engine that executes it, its fields, and its effect.

    `fixed` are operands that this core does not have, with the one value that is meant without them.
    """

    mnemonic: str
    opcode: int
    engine: Engine | None
    fields: tuple[Field, ...]
    effect: str
    doc: str = ""
    fixed: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Instr:
    """One instruction: mnemonic and operand values (a missing operand has its default, the smallest
    non-negative value)."""

    mnemonic: str
    operands: dict[str, int] = field(default_factory=dict)

    def __getattr__(self, name: str) -> int:
        # Only called for names that are not attributes: operands read as `instr.base`.
        try:
            return self.operands[name]
        except KeyError:
            raise AttributeError(f"{self.mnemonic} has no operand {name!r}") from None

    def __hash__(self) -> int:
        return hash((self.mnemonic, tuple(sorted(self.operands.items()))))


@dataclass(frozen=True)
class Isa:
    """A complete instruction set for one architecture.

    Parameters
    ----------
    header : tuple of Field      the fields that every instruction begins with, opcode first
    formats : tuple of Format    operand fields follow the header, least significant bit first

    Raises
    ------
    IsaError   If opcodes or mnemonics repeat, or a name is reserved.
    """

    header: tuple[Field, ...]
    formats: tuple[Format, ...]

    def __post_init__(self) -> None:
        for values, what in (
            ([f.opcode for f in self.formats], "opcode"),
            ([f.mnemonic for f in self.formats], "mnemonic"),
        ):
            if len(set(values)) != len(values):
                raise IsaError(f"two formats share one {what}")
        for fmt in self.formats:
            names = [f.name for f in (*self.header, *fmt.fields)]
            if len(set(names)) != len(names) or {"shape", "eq", "as_value", "mnemonic", "operands"} & set(
                names
            ):
                raise IsaError(f"{fmt.mnemonic} has a repeated or reserved field name")
        if self.formats[0].opcode != 0:
            raise IsaError("the first format must have opcode 0, which hardware resets to")

    @cached_property
    def by_mnemonic(self) -> dict[str, Format]:
        """Formats by mnemonic."""
        return {fmt.mnemonic: fmt for fmt in self.formats}

    @cached_property
    def by_opcode(self) -> dict[int, Format]:
        """Formats by opcode."""
        return {fmt.opcode: fmt for fmt in self.formats}

    @cached_property
    def word_bytes(self) -> int:
        """Bytes of one instruction, a multiple of 16 so that instructions are whole beats on every bus."""
        bits = max(sum(f.bits for f in (*self.header, *fmt.fields)) for fmt in self.formats)
        return -(-bits // 128) * 16

    def fields(self, mnemonic: str) -> tuple[Field, ...]:
        """Header and operand fields of a format, in order from bit 0.

        Raises
        ------
        IsaError   If there is no such mnemonic.
        """
        try:
            return (*self.header, *self.by_mnemonic[mnemonic].fields)
        except KeyError:
            raise IsaError(
                f"unknown mnemonic {excerpt(mnemonic)}; known are {', '.join(self.by_mnemonic)}"
            ) from None

    def make(self, mnemonic: str, /, **operands: int) -> Instr:
        """An instruction with every operand present and checked.

        Raises
        ------
        IsaError   Naming the mnemonic, the field, the value and the range.
        """
        fields = self.fields(mnemonic)[1:]
        full = dict(self.by_mnemonic[mnemonic].fixed)
        known = {f.name for f in fields}
        for name, value in operands.items():
            if full.get(name, value) != value:
                raise IsaError(f"{mnemonic}.{name} must be {full[name]} on this core, not {value}")
            if name not in known and name not in full:
                raise IsaError(
                    f"{mnemonic} has no operand {excerpt(name)}; it has {', '.join(sorted(known))}"
                )
        for f in fields:
            value = int(operands.get(f.name, max(f.min, f.bias, 0)))
            if not f.min <= value <= f.max:
                raise IsaError(f"{mnemonic}.{f.name} must be from {f.min} to {f.max}, not {value}")
            full[f.name] = value
        return Instr(mnemonic, full)

    def encode(self, instr: Instr) -> bytes:
        """The instruction as `word_bytes` bytes, little endian.

        Raises
        ------
        IsaError   As `make`.
        """
        checked = self.make(instr.mnemonic, **instr.operands)
        word, position = self.by_mnemonic[instr.mnemonic].opcode, self.header[0].bits
        for f in self.fields(instr.mnemonic)[1:]:
            word |= ((checked.operands[f.name] - f.bias) & ((1 << f.bits) - 1)) << position
            position += f.bits
        return word.to_bytes(self.word_bytes, "little")

    def decode(self, data: bytes) -> Instr:
        """The instruction that `word_bytes` bytes stand for; the inverse of `encode`.

        Raises
        ------
        IsaError   On a wrong length, an illegal opcode, an illegal enum value, or a reserved bit that is not
                   zero.
        """
        if len(data) != self.word_bytes:
            raise IsaError(f"an instruction has {self.word_bytes} bytes, not {len(data)}")
        word = int.from_bytes(data, "little")
        opcode = word & ((1 << self.header[0].bits) - 1)
        if opcode not in self.by_opcode:
            raise IsaError(f"illegal opcode {opcode}")
        fmt = self.by_opcode[opcode]
        word >>= self.header[0].bits
        operands = dict(fmt.fixed)
        for f in self.fields(fmt.mnemonic)[1:]:
            raw = word & ((1 << f.bits) - 1)
            if f.signed and raw >> (f.bits - 1):
                raw -= 1 << f.bits
            value = raw + f.bias
            if not f.min <= value <= f.max:
                raise IsaError(f"{fmt.mnemonic}.{f.name} must be from {f.min} to {f.max}, not {value}")
            operands[f.name] = value
            word >>= f.bits
        if word:
            raise IsaError(f"{fmt.mnemonic} has reserved bits that are not zero")
        return Instr(fmt.mnemonic, operands)

    def disassemble(self, instr: Instr) -> str:
        """One line of assembly: the mnemonic and every operand that differs from its default."""
        parts = []
        for f in self.fields(instr.mnemonic)[1:]:
            value = instr.operands[f.name]
            if value == max(f.min, f.bias, 0):
                continue
            parts.append(f"{f.name}={self._text(f, value)}")
        return " ".join([instr.mnemonic, *parts])

    def assemble(self, line: str) -> Instr:
        """The inverse of `disassemble`; `#` begins a comment.

        Raises
        ------
        IsaError   Naming the word that is wrong.
        """
        words = line.partition("#")[0].split()
        if not words:
            raise IsaError("an empty line is no instruction")
        by_name = {f.name: f for f in self.fields(words[0])[1:]}
        operands: dict[str, int] = {}
        for word in words[1:]:
            name, equals, text = word.partition("=")
            if not equals:
                raise IsaError(f"{words[0]}: operand {excerpt(word)} must be written name=value")
            if name in operands:
                raise IsaError(f"{words[0]}: operand {excerpt(name)} is given twice")
            operands[name] = self._value(words[0], by_name.get(name), text)
        return self.make(words[0], **operands)

    def digest(self) -> bytes:
        """16 bytes that identify every opcode, field, width, position and bias."""
        table = [
            [f.mnemonic, f.opcode, [[x.name, x.bits, x.signed, x.bias] for x in (*self.header, *f.fields)]]
            for f in self.formats
        ]
        return hashlib.sha256(json.dumps(table).encode()).digest()[:16]

    @staticmethod
    def _text(f: Field, value: int) -> str:
        if f.name in ("wait", "signal"):
            return "+".join(engine.name for engine in Engine if value >> engine & 1)
        return f.enum(value).name if f.enum else str(value)

    @staticmethod
    def _value(mnemonic: str, f: Field | None, text: str) -> int:
        try:
            # No operand is as long, and Python refuses to print numbers that are much longer.
            if len(text) > _LONGEST_VALUE:
                raise ValueError
            if f is not None and f.name in ("wait", "signal") and not text.isdigit():
                names = text.split("+")
                if len(set(names)) != len(names):
                    raise ValueError
                return sum(1 << Engine[name] for name in names)
            if f is not None and f.enum and not text.isdigit():
                return f.enum[text]
            return int(text, 0)
        except (KeyError, ValueError):
            raise IsaError(
                f"{mnemonic}: {excerpt(text)} is no value for operand {f.name if f else '?'!r}"
            ) from None
