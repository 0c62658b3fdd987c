"""Where other libraries are called: what they raise becomes an error of the compiler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from systolith.compiler.base.errors import CompileError
from systolith.spec.printable import printable

__all__ = ["one_line", "told"]

_LONGEST = 300


def one_line(error: BaseException | str) -> str:
    """The text of another library's error: on one line, without control characters, of bounded length."""
    text = printable(" ".join(str(error).split()) or type(error).__name__)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


@contextmanager
def told(kind: type[CompileError], stage: str, node: str, sentence: str, hint: str = "") -> Iterator[None]:
    """For calls of another library alone: its exceptions become `kind`, with their text behind `sentence`.

    An error that the compiler raised passes as it is, and so does one of the file system, such as a full
    disk. Code of this project does not belong in the block: an exception of its own is a defect, and must
    stay visible as one.
    """
    try:
        yield
    except (CompileError, OSError):
        raise
    except MemoryError as error:
        raise kind(stage, node, f"{sentence}: there is not enough memory", hint) from error
    except Exception as error:
        raise kind(stage, node, f"{sentence}: {one_line(error)}", hint) from error
