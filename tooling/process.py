"""Runs programs in a scratch folder; nothing of the caller's folder enters a build."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from systolith.spec.errors import SystolithError
from systolith.tooling.location import CacheError, cache_root, is_full, tool_caches

__all__ = ["Job", "ToolError", "child", "run_tool", "run_tools", "tool_environment"]

_TIMEOUT = 900
#: Free bytes below which a program that fails without a word has probably met a full disk.
_SUSPICIOUS = 1 << 24
#: Seconds between two looks at running programs.
_POLL = 0.02
#: Variables that would add folders, options or another installation to what a compiler or Verilator reads.
_DROPPED = {
    *("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEFILES", "GNUMAKEFLAGS"),
    *("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "OBJC_INCLUDE_PATH", "LIBRARY_PATH", "COMPILER_PATH"),
    *(
        "GCC_EXEC_PREFIX",
        "CPPFLAGS",
        "CFLAGS",
        "CXXFLAGS",
        "LDFLAGS",
        "DEPENDENCIES_OUTPUT",
        "SUNPRO_DEPENDENCIES",
    ),
    *("YOWASP_MOUNT", "ABC", "WAVES"),
}
_DROPPED_PREFIXES = ("VERILATOR_", "SYSTEMC")


class ToolError(SystolithError):
    """A program that is missing, too old, or failed; one sentence that names it and the remedy."""


@dataclass(frozen=True, slots=True)
class Job:
    """A program to run.

    Parameters
    ----------
    command : tuple   the program's path and its arguments
    what : str        what a message calls it
    stdin : str       what it reads
    """

    command: tuple[str, ...]
    what: str
    stdin: str = ""


def tool_environment(scratch: Path | None = None) -> dict[str, str]:
    """Environment of a tool: ours without what would change a build, temporary files in `scratch`, and the
    tools' own caches in ours where their usual place cannot be written."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _DROPPED and not name.startswith(_DROPPED_PREFIXES)
    }
    if scratch is not None:
        kept["TMPDIR"] = str(scratch)
    with contextlib.suppress(CacheError):
        kept |= tool_caches(cache_root())
    return kept


@contextlib.contextmanager
def child(
    command: Sequence[str],
    folder: Path,
    output: IO[str],
    *,
    stdin: IO[str] | int = subprocess.DEVNULL,
    stderr: IO[str] | int = subprocess.STDOUT,
    env: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """A running program in a folder, killed with all that it started if the `with` block is left early.

    Parameters
    ----------
    env : dict   its environment; None: `tool_environment(folder)`

    Raises
    ------
    ToolError   If it cannot be started.
    """
    try:
        # In a process group: g++ and sh start others, which would live on.
        process = subprocess.Popen(
            list(command),
            cwd=folder,
            stdin=stdin,
            stdout=output,
            stderr=stderr,
            env=tool_environment(folder) if env is None else env,
            process_group=0,
            text=True,
        )
    except FileNotFoundError as error:
        raise ToolError(
            f"{command[0]} was not found: install it with the system's package manager"
        ) from error
    except OSError as error:
        raise ToolError(f"{command[0]} cannot be run: {error.strerror}; install it again") from error
    try:
        yield process
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run_tool(
    command: Sequence[str],
    what: str,
    folder: Path,
    *,
    stdin: str = "",
    failure: type[SystolithError] = ToolError,
) -> str:
    """Run one program in a folder; returns its standard output. Raises what `run_tools` raises."""
    return run_tools([Job(tuple(command), what, stdin)], folder, failure=failure)[0]


def run_tools(jobs: Sequence[Job], folder: Path, *, failure: type[SystolithError] = ToolError) -> list[str]:
    """Run programs at the same time in a folder; returns their standard outputs. If one fails, or Ctrl-C is
    pressed, the others are killed.

    Raises
    ------
    ToolError    If a program is not there.
    OSError      If the disk is full; a scratch folder of the cache makes a sentence of it.
    `failure`    If one refuses its input, with its first message and then the others, or takes too long.
    """
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:

        def file() -> IO[str]:
            return stack.enter_context(
                tempfile.TemporaryFile("w+", dir=folder, encoding="utf-8", errors="replace")
            )

        running = []
        for job in jobs:
            out, err, given = file(), file(), file()
            given.write(job.stdin)
            given.seek(0)
            running.append(
                (job, out, err, stack.enter_context(child(job.command, folder, out, stdin=given, stderr=err)))
            )
        waiting = list(running)
        while waiting:
            for job, out, err, process in list(waiting):
                if process.poll() is None:
                    continue
                waiting.remove((job, out, err, process))
                if process.returncode:
                    raise _failed(job, _text(err) + _text(out), process.returncode, folder, failure)
            if waiting and time.monotonic() - begin > _TIMEOUT:
                raise failure(f"{waiting[0][0].what} did not finish within {_TIMEOUT} seconds")
            time.sleep(_POLL if waiting else 0)
        # Verilator and Yosys end well though nothing of what they wrote was taken.
        if is_full(folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        return [_text(out) for _, out, _, _ in running]


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _failed(job: Job, text: str, status: int, folder: Path, failure: type[SystolithError]) -> Exception:
    """The error of a program that ended with a status; the sentence, then what it printed."""
    lines = [line for line in text.splitlines() if line.strip()]
    # What the program left out it has removed by now; a little of the space may be free again.
    silent = not lines and is_full(folder, least=_SUSPICIOUS)
    if silent or is_full(folder) or re.search(r"No space left on device|Disk quota exceeded", text):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    ended = f"status {status}" if status > 0 else f"signal {-status}"
    first = next(
        (line for line in lines if "rror" in line or "%Warning" in line), lines[-1] if lines else ended
    )
    return failure(f"{job.what} failed: {first}\n" + "\n".join(lines[:40]))
