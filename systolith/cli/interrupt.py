"""Ctrl-C: any command ends within a second, with nothing left behind.

`KeyboardInterrupt` does it wherever Python runs: each `with` on the way out cleans up what is its own. A call
into a library (ONNX Runtime, NumPy, Verilator's model) may take long to return, and some callbacks swallow
exceptions. So a thread is woken by the operating system's signal itself, and ends the process if the main
thread has not done so after a grace.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

__all__ = ["EXIT_INTERRUPTED", "interruptible", "told"]

#: Exit status after Ctrl-C, as shells expect it: 128 and the signal's number.
EXIT_INTERRUPTED = 128 + signal.SIGINT
#: Seconds in which the main thread may clean up.
_GRACE = 0.7


def told() -> int:
    """Say that the command was interrupted; returns the exit status."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write("systolith: interrupted\n")
        sys.stderr.flush()
    return EXIT_INTERRUPTED


class _Watch:
    """The thread, and what it knows.

    Members
    -------
    pressed : whether Ctrl-C was pressed
    """

    def __init__(self) -> None:
        self.pressed = False
        self._over = threading.Event()
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        threading.Thread(target=self._run, name="interrupt", daemon=True).start()
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, self._raise)

    def _raise(self, number: int, frame: FrameType | None) -> NoReturn:
        # Once is enough: a second one must not disturb the cleaning up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    def _run(self) -> None:
        while os.read(self._read, 1) != bytes([signal.SIGINT]):
            pass
        self.pressed = True
        if not self._over.wait(_GRACE):
            from systolith.spec.outputs import discard

            _kill_children()
            discard()
            told()
            os._exit(EXIT_INTERRUPTED)

    def stop(self) -> None:
        """The command is over; a later Ctrl-C changes nothing any more."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        self._over.set()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """A block that Ctrl-C ends: at its end the process is over, by `KeyboardInterrupt` or by `os._exit`.

    For the process of a command only, whose signals are its own. Where the caller ignores SIGINT, as a shell
    does for what runs in the background, it stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    watch, hook = _Watch(), sys.unraisablehook

    def unraisable(failed: sys.UnraisableHookArgs) -> None:
        # A callback that cannot raise swallowed it; the thread ends the process.
        if not isinstance(failed.exc_value, KeyboardInterrupt):
            hook(failed)

    sys.unraisablehook = unraisable
    try:
        yield
    except Exception:
        if watch.pressed:
            # A library made another exception of it.
            raise KeyboardInterrupt from None
        raise
    finally:
        watch.stop()


def _kill_children() -> None:
    """End what this process started, with the process groups that it made for them (Linux)."""
    me = os.getpid()
    with contextlib.suppress(OSError):
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{int(entry)}/stat", encoding="utf-8", errors="replace") as stream:
                    parent = int(stream.read().rpartition(")")[2].split()[1])
                if parent == me:
                    child = int(entry)
                    if os.getpgid(child) == child:
                        os.killpg(child, signal.SIGKILL)
                    else:
                        os.kill(child, signal.SIGKILL)
