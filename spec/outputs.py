"""Files that a program writes for its user: checked before the work, written aside, and moved into place.

What was there before stays until the new contents are complete, whatever happens meanwhile. What is no
regular file (/dev/stdout, /dev/null, a pipe) is written directly.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from systolith.spec.errors import SystolithError

__all__ = ["OutputError", "aside", "check_folder", "check_outputs", "discard", "write", "writing"]

_STANDARD_OUTPUT = ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
#: Folders whose files are devices, or names of open files: nothing can be moved to their place.
_DIRECT = ("/dev/", "/proc/")
#: Unfinished files of this process.
_unfinished: set[str] = set()


class OutputError(SystolithError):
    """A file or folder that cannot be written; one sentence."""


def check_outputs(outputs: Mapping[str, str | Path | None], inputs: Sequence[str | Path | None] = ()) -> None:
    """Refuse outputs that could not be written, before the work that leads to them.

    Parameters
    ----------
    outputs : what an output is, for the message (such as '--json'), and its path; None is not wanted, "-" is
              standard output
    inputs  : files that no output may replace

    Raises
    ------
    OutputError   Naming the output, and what is wrong with it.
    """
    seen: dict[str, str] = {}
    for what, path in outputs.items():
        if path is None or str(path) == "-":
            continue
        _check(what, str(path))
        if _is_direct(str(path)):
            continue
        real = os.path.realpath(path)
        if real in seen:
            raise OutputError(f"{seen[real]} and {what} are both {str(path)!r}: give each a file of its own")
        seen[real] = what
        if real in {os.path.realpath(given) for given in inputs if given is not None}:
            raise OutputError(f"{what} would replace the input {str(path)!r}: give it another name")


def _check(what: str, path: str) -> None:
    if not path:
        raise OutputError(f"{what} has an empty name: give a file")
    if path in _STANDARD_OUTPUT:
        return
    parent = Path(os.path.realpath(path)).parent if not _is_direct(path) else Path(path).parent
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = None
    except OSError as error:
        raise OutputError(f"cannot write {what} {path!r}: {error.strerror}") from error
    if mode is not None and stat.S_ISDIR(mode):
        raise OutputError(f"cannot write {what} {path!r}: it is a folder; name a file in it")
    if mode is not None and not os.access(path, os.W_OK):
        raise OutputError(f"cannot write {what} {path!r}: it is read-only; name another file")
    if mode is None or not _is_direct(path):
        if not parent.is_dir():
            raise OutputError(f"cannot write {what} {path!r}: there is no folder {str(parent)!r}; create it")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise OutputError(
                f"cannot write {what} {path!r}: the folder {str(parent)!r} is read-only; name another"
            )


def check_folder(what: str, path: str | Path | None) -> None:
    """Refuse a folder in which nothing could be written; one that is missing is made later, with its parents.

    Raises
    ------
    OutputError   Naming the folder, and what is wrong with it.
    """
    if path is None:
        return
    if not str(path):
        raise OutputError(f"{what} has an empty name: give a folder")
    there = Path(os.path.abspath(path))
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise OutputError(f"cannot write {what} to {str(path)!r}: {str(there)!r} is no folder; name another")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {what} to {str(path)!r}: {str(there)!r} is read-only; name another")


@contextlib.contextmanager
def aside(path: str | Path) -> Iterator[Path]:
    """A file that becomes `path` when the block ends without an exception; it has the suffix of `path`.

    Raises
    ------
    OutputError   If it cannot be written or moved.
    """
    if _is_direct(str(path)):
        yield Path(path)
        return
    target = Path(os.path.realpath(path))
    with _told(path):
        handle, name = tempfile.mkstemp(
            prefix=f".{target.stem[:64]}-", suffix=f".part{target.suffix}", dir=target.parent
        )
        _unfinished.add(name)
        os.close(handle)
    try:
        with _told(path):
            os.chmod(name, _mode(target))
        yield Path(name)
        with _told(path):
            os.replace(name, target)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(name)
        _unfinished.discard(name)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[IO[bytes]]:
    """A stream whose bytes become the file when the block ends without an exception.

    Raises
    ------
    OutputError   If they cannot be written.
    """
    if str(path) in _STANDARD_OUTPUT:
        sys.stdout.flush()
        with _told(path):
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        return
    with aside(path) as part, _told(path), open(part, "wb") as stream:
        yield stream


def write(path: str | Path, data: bytes) -> None:
    """Write a whole file.

    Raises
    ------
    OutputError   If it cannot be written; what was there stays.
    """
    with writing(path) as stream:
        stream.write(data)


def discard() -> None:
    """Remove what is unfinished, for a process that is about to end without returning."""
    for name in list(_unfinished):
        with contextlib.suppress(OSError):
            os.unlink(name)


@contextlib.contextmanager
def _told(path: str | Path) -> Iterator[None]:
    """An operating system's error, told of the file that the user named."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror or error}") from error


def _is_direct(path: str) -> bool:
    """Whether the path names something into whose place no file can be moved."""
    if os.path.abspath(path).startswith(_DIRECT):
        return True
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _mode(target: Path) -> int:
    """Permissions of the new file: those of the old one, else what the user's mask leaves."""
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
