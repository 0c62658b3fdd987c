"""Cases of `asm` and `disasm`: text and words that are almost right."""

from __future__ import annotations

import random
from collections.abc import Iterator

from systolith.spec.arch import load_arch
from systolith.spec.isa import Format, isa_for
from tests.fuzz.kit import Case

__all__ = ["QUICK", "cases"]

QUICK = 100
_ARCHS = ("tiny", "array8", "array16", "icebreaker")
_VALUES = (
    "",
    "-1",
    "0",
    "1",
    "2**8",
    "0x",
    "0b1",
    "1e3",
    "1_000",
    "+7",
    "=",
    "==1",
    "nan",
    "٣",
    "99999999999999999999",
    "\N{RIGHT-TO-LEFT OVERRIDE}1",
    "\x1b[31m",
    "ACT",
    "act",
    "PROGRAM",
    "a|b",
    "ARRAY,,",
    "None",
    "0x" + "f" * 5000,
    "9" * 5000,
)
_NAMES = (
    "mnemonic",
    "self",
    "operands",
    "wait",
    "signal",
    "opcode",
    "",
    "__class__",
    "é",
    "bytes",
    "\x1b[2J",
    "kw",
    "args",
)


def _line(rng: random.Random, formats: tuple[Format, ...]) -> str:
    """One instruction with a few operands that do not belong there."""
    fmt = rng.choice(formats)
    words = []
    for field in fmt.fields:
        low, high = field.min, field.max
        value = rng.choice([low, high, rng.randint(low, high), low - 1, high + 1, 0, 1])
        words.append(f"{field.name}={value}")
    rng.shuffle(words)
    words = words[: rng.randint(0, len(words))]
    for _ in range(rng.choice([0, 0, 1, 3])):
        name = rng.choice([*_NAMES, *(field.name for field in fmt.fields)])
        words.append(f"{name}{rng.choice(['=', '=', '=', ' ', '', '==', ':'])}{rng.choice(_VALUES)}")
    mnemonic = rng.choice([fmt.mnemonic] * 8 + [fmt.mnemonic.lower(), "", "\0", "LOADX", "\x1b]0;x\x07"])
    return " ".join([mnemonic, *words])


def cases(rng: random.Random) -> Iterator[Case]:
    """Assembly text with wrong operands, and words with any bits."""
    while True:
        arch = rng.choice(_ARCHS)
        isa = isa_for(load_arch(arch))
        if rng.random() < 0.5:
            separator = rng.choice(["\n", "\n", "\r\n", "\x0b", "\u2028", " # "])
            text = separator.join(_line(rng, isa.formats) for _ in range(rng.randint(1, 6)))
            data = text.encode("utf-8", "surrogatepass")
            for _ in range(rng.choice([0, 0, 0, 1, 4])):
                at = rng.randrange(len(data) + 1)
                data = data[:at] + rng.randbytes(rng.randint(0, 2)) + data[at + rng.randint(0, 2) :]
            yield Case(
                name=f"asm for {arch}", files={"text.asm": data}, argv=("asm", "text.asm", "--arch", arch)
            )
            continue
        words = []
        for _ in range(rng.randint(0, 6)):
            fmt = rng.choice(isa.formats)
            operands = {f.name: rng.choice([f.min, f.max, rng.randint(f.min, f.max)]) for f in fmt.fields}
            try:
                word = bytearray(isa.encode(isa.make(fmt.mnemonic, **operands)))
            except ValueError:
                word = bytearray(rng.randbytes(isa.word_bytes))
            for _ in range(rng.choice([0, 0, 1, 3])):
                word[rng.randrange(len(word))] ^= 1 << rng.randrange(8)
            words.append(bytes(word))
        data = b"".join(words) + rng.randbytes(rng.choice([0, 0, 0, 1]))
        yield Case(
            name=f"words for {arch}", files={"words.bin": data}, argv=("disasm", "words.bin", "--arch", arch)
        )
