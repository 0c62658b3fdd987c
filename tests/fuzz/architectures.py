"""Cases of TOML architectures."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np

from systolith.spec.arch import PRESETS
from tests.fuzz.bases import dense_model, npz
from tests.fuzz.kit import Case
from tests.fuzz.values import edit_bytes

__all__ = ["QUICK", "cases"]

QUICK = 120
_VALUES = (
    "0",
    "-1",
    "1",
    "2",
    "3",
    "4",
    "8",
    "16",
    "32",
    "64",
    "1024",
    "4096",
    "65536",
    "16777216",
    "2147483648",
    "1e400",
    "18446744073709551616",
    "9" * 5000,
    "0x" + "f" * 5000,
    "nan",
    "inf",
    "true",
    "false",
    '""',
    '"x"',
    '"\\u001b[31m"',
    '"\\u202e"',
    "[]",
    "{}",
    "[[]]",
    "1979-05-27",
    "07:32:00",
    "'''",
    "[" * 3000,
    "{a=" * 500,
    '"' + "n" * 300 + '"',
    "\x1b",
    "\0",
    "é",
)


def cases(rng: random.Random) -> Iterator[Case]:
    """Files made of a preset with other values, for the assembler and now and then for a whole model."""
    while True:
        lines = PRESETS[rng.choice(list(PRESETS))].to_toml().splitlines()
        for _ in range(rng.choice([1, 1, 2, 3])):
            at = rng.randrange(len(lines))
            key = lines[at].partition(" = ")[0]
            match rng.randrange(6):
                case 0:
                    del lines[at]
                case 1:
                    lines.append(lines[at])
                case 2:
                    lines.append(
                        rng.choice(["[table]", "x = 1", "\x1b[2J = 1", "rows.cols = 1", "[[a]]", '"" = 1'])
                    )
                case _:
                    near = str(1 << rng.randrange(27)) if rng.random() < 0.6 else rng.choice(_VALUES)
                    lines[at] = f"{key} = {near}"
            if not lines:
                lines = [""]
        data = "\n".join(lines).encode()
        if rng.random() < 0.15:
            data = edit_bytes(rng, data)
        files = {"core.toml": data, "text.asm": b"LOAD bytes=4\nMATMUL acc=1\nHALT\n"}
        argv: tuple[str, ...] = ("asm", "text.asm", "--arch", "core.toml")
        if rng.random() < 0.1:
            files |= {"m.onnx": dense_model(), "x.npz": npz({"x": np.full((1, 6), 1.5, np.float32)})}
            argv = rng.choice(
                [
                    ("explain", "m.onnx", "--arch", "core.toml"),
                    (
                        "verify",
                        "m.onnx",
                        "--arch",
                        "core.toml",
                        "--inputs",
                        "x.npz",
                        "--on",
                        "reference,machine",
                    ),
                ]
            )
        yield Case(name="toml", files=files, argv=argv)
