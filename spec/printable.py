"""Text from files that strangers made, as it may be printed. Standard library only."""

from __future__ import annotations

import unicodedata

__all__ = ["excerpt", "is_name", "printable"]


def printable(text: str, keep: str = "") -> str:
    """The text with every character escaped that is not plainly visible: control characters, which a
    terminal would obey; marks of direction, which reorder what stands near them; line separators, surrogates
    and spaces other than the one.

    Parameters
    ----------
    keep : characters that stay as they are, although they are of these kinds
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in text
    )


def excerpt(value: object, most: int = 60) -> str:
    """`repr` of any value, printable, at most `most` characters long, whatever the value's size."""
    if isinstance(value, int) and value.bit_length() > 256:
        # Python refuses to convert very long numbers.
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, str | bytes):
        value = value[:most]
    elif isinstance(value, list | tuple | dict):
        return f"{type(value).__name__} of {len(value)}"
    shown = printable(repr(value))
    return shown if len(shown) <= most else shown[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def is_name(value: str, most: int) -> bool:
    """Whether a text has 1 to `most` characters, and among them neither control characters nor halves of
    surrogate pairs."""
    return 0 < len(value) <= most and not any(unicodedata.category(c) in ("Cc", "Cs") for c in value)
