"""Values that are likely to be taken wrongly, and edits of trees of JSON."""

from __future__ import annotations

import copy
import random
from typing import Any

__all__ = ["NAMES", "SCALARS", "edit_bytes", "edit_tree", "number"]

#: Names that a terminal, an editor or a file system might trip over.
NAMES = (
    "",
    "x",
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "two\nlines",
    "tab\t",
    "\N{RIGHT-TO-LEFT OVERRIDE}txt.exe",
    "half\ud800",
    "\x9b2J",
    "\0",
    "é",
    "層",
    "../x",
    "[bold]x[/bold]",
    "{0}",
    "%s%n",
    "a" * 5000,
    "x" * 200,
    "\N{ZERO WIDTH SPACE}",
    "-",
    "--help",
    "CON",
    "'\"",
)
#: Values of the wrong type, or of the right type and out of any range.
SCALARS = (
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    15,
    16,
    127,
    128,
    255,
    256,
    4096,
    65_535,
    1 << 24,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 16,
    1 << 32,
    1 << 40,
    (1 << 63) - 1,
    1 << 63,
    1 << 64,
    10**400,
    -(1 << 31),
    -(1 << 63),
    0.0,
    -0.0,
    0.5,
    1e-46,
    1e-45,
    1e39,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    [],
    {},
    [[]],
    [None],
    {"": None},
    *NAMES,
)


def number(rng: random.Random, value: int) -> int:
    """A number near another, or far from it."""
    return rng.choice(
        [value + 1, value - 1, value * 2, value // 2, -value, value ^ (1 << rng.randrange(33)), 0]
    )


def edit_tree(rng: random.Random, tree: Any) -> None:
    """Change one place of a tree of lists and objects, in place."""
    places = list(_places(tree))
    if not places:
        return
    holder, key = rng.choice(places)
    value = holder[key]
    kind = rng.random()
    if kind < 0.35 and type(value) is int:
        holder[key] = number(rng, value)
    elif kind < 0.45 and type(value) is float:
        holder[key] = value * rng.choice([-1, 0, 2, 0.5, 1e30, 1e-30, 1e300])
    elif kind < 0.55:
        del holder[key]
    elif kind < 0.65:
        # A copy, since a place inside itself would be no tree.
        other, name = copy.deepcopy(rng.choice(places))
        holder[key] = (
            other.get(name) if isinstance(other, dict) else (other[name] if name < len(other) else None)
        )
    elif kind < 0.75 and isinstance(holder, list):
        holder.insert(key, rng.choice([value, rng.choice(SCALARS)]))
    elif kind < 0.78 and isinstance(holder, dict):
        holder[rng.choice(NAMES)] = rng.choice(SCALARS)
    elif kind < 0.80 and isinstance(value, list):
        holder[key] = value * rng.choice([2, 50])
    else:
        holder[key] = rng.choice(SCALARS)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """All (container, key) of a tree, of long lists the first and some others."""
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else [*range(min(len(holder), 4))]
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], list | dict):
                waiting.append(holder[key])
    return found


def edit_bytes(rng: random.Random, data: bytes, most: int = 4) -> bytes:
    """A few bits, bytes or runs of a text changed, cut out, repeated or added."""
    edited = bytearray(data)
    for _ in range(rng.randint(1, most)):
        at, size = rng.randrange(len(edited) + 1), rng.choice([1, 1, 2, 4, 8, 64])
        match rng.randrange(6):
            case 0 if at < len(edited):
                edited[at] ^= 1 << rng.randrange(8)
            case 1:
                edited[at : at + size] = rng.randbytes(min(size, len(edited) - at))
            case 2:
                del edited[at : at + size]
            case 3:
                edited[at:at] = rng.randbytes(size)
            case 4:
                edited[at : at + size] = rng.choice([b"\0", b"\xff"]) * min(size, len(edited) - at)
            case 5:
                edited[at:at] = edited[at : at + size]
    if rng.random() < 0.1:
        del edited[rng.randrange(len(edited) + 1) :]
    return bytes(edited)
