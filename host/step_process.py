"""Host steps in a process of their own, with a limit of memory and of time for each request.

There is one such process for all host steps of this one; it starts at the first and is replaced where it had
to be ended. Starting takes about a third of a second, a request about as long as copying its arrays twice.
"""

from __future__ import annotations

import atexit
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import dataclass, field
from typing import Any

from systolith.host.sequences import Value, Values
from systolith.host.step_wire import WireError, receive, send
from systolith.spec.errors import SystolithError

__all__ = ["Limits", "Loaded", "HostStepError", "HostStepFailure"]

#: Seconds in which the process must have imported ONNX Runtime and said that it is ready.
_START_SECONDS = 60.0


class HostStepError(SystolithError, ValueError):
    """A host step that ONNX Runtime cannot load or run; the text is one sentence that names a remedy."""


class HostStepFailure(Exception):
    """A host step that was refused or did not come to its end; the text is a clause without a full stop.

    Parameters
    ----------
    remedy : what to do, where that is known
    """

    def __init__(self, text: str, remedy: str = "") -> None:
        self.remedy = remedy
        super().__init__(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may take: by default, what the environment says.

    Parameters
    ----------
    seconds : wall time; SYSTOLITH_HOST_SECONDS, 20 without it
    bytes   : memory beyond that of ONNX Runtime itself and four times the step's model and its inputs;
              SYSTOLITH_HOST_MEMORY, in megabytes, 1024 without it. Enforced where the system has RLIMIT_AS.
    """

    seconds: float = field(default_factory=lambda: _number("SYSTOLITH_HOST_SECONDS", 20.0))
    bytes: int = field(default_factory=lambda: int(_number("SYSTOLITH_HOST_MEMORY", 1024.0) * (1 << 20)))


def _number(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 < value < 1e9:
        raise HostStepError(f"the environment variable {name} is {text!r}: give a positive number")
    return value


class _Process:
    """The process and the channel to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # -P: what lies in the user's folder is not imported. Nothing that it prints is for the user.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "systolith.host.step_worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._channel = ours
        self._fresh = True
        self.owner = os.getpid()

    def ask(
        self, request: dict[str, Any], values: Values, model: bytes, seconds: float
    ) -> tuple[dict[str, Any], dict[str, Value]]:
        """The answer to a request; the process is ended where there is none in time, or on Ctrl-C.

        Raises
        ------
        WireError, TimeoutError
        """
        try:
            if self._fresh:
                receive(self._channel, time.monotonic() + _START_SECONDS)
                self._fresh = False
            deadline = time.monotonic() + seconds
            self._channel.settimeout(seconds)
            # The alarm in the process is a second net, for a parent that is gone.
            send(self._channel, {**request, "seconds": seconds + 5.0}, values, model)
            header, results, _ = receive(self._channel, deadline)
        except BaseException:
            self.end()
            raise
        return header, results

    def end(self) -> None:
        """Kill it and take its status."""
        self._channel.close()
        self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """Leave it to the process that started it: this one is a fork."""
        self._channel.close()
        self._process.returncode = 0


class _Server:
    """The one process of this one, and what lies in it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._keys = itertools.count()
        self._generation = 0
        self._dropped: list[str] = []
        atexit.register(self.end)

    @property
    def generation(self) -> tuple[int, int]:
        """Another one whenever what was loaded is gone: the process has ended, or this one is a fork."""
        return os.getpid(), self._generation

    def key(self) -> str:
        """A name that no other step has."""
        return str(next(self._keys))

    def drop(self, key: str) -> None:
        """Forget a step with the next request."""
        self._dropped.append(key)

    def end(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            if self._process is not None and self._process.owner == os.getpid():
                self._process.end()
            self._process = None

    def ask(
        self,
        request: dict[str, Any],
        limits: Limits,
        values: Values | None = None,
        model: bytes = b"",
    ) -> tuple[dict[str, Any], dict[str, Value]]:
        """The answer to a request.

        Raises
        ------
        HostStepFailure
        """
        with self._lock:
            if self._process is not None and self._process.owner != os.getpid():
                self._process.forget()
                self._process = None
            if self._process is None:
                self._process = _Process()
            dropped, self._dropped = self._dropped, []
            request = {**request, "bytes": limits.bytes, "drop": dropped}
            answered = False
            try:
                header, results = self._process.ask(request, values or {}, model, limits.seconds)
                answered = True
            except TimeoutError:
                raise HostStepFailure(
                    f"they take more than {limits.seconds:g} seconds",
                    "change the model, or allow more with SYSTOLITH_HOST_SECONDS",
                ) from None
            except WireError as error:
                raise HostStepFailure(
                    f"ONNX Runtime ended with them ({error})",
                    "change the model, or allow more memory with SYSTOLITH_HOST_MEMORY",
                ) from error
            finally:
                if not answered:
                    self._process = None
                    self._generation += 1
        if header.get("memory"):
            raise HostStepFailure(
                f"they take more than {limits.bytes >> 20} MB of memory",
                "change the model, or allow more with SYSTOLITH_HOST_MEMORY",
            )
        if "error" in header:
            raise HostStepFailure(header["error"], "change the model" if header.get("refused") else "")
        return header, results


_SERVER = _Server()


class Loaded:
    """One host step, loaded in the process; it is forgotten there with this object.

    Parameters
    ----------
    model : bytes     ONNX
    limits : Limits

    Members
    -------
    inputs, outputs : names, as ONNX Runtime tells them
    seconds         : wall time of the last run, without the copying

    Raises
    ------
    HostStepFailure   If it is refused, or does not load within the limits.
    """

    def __init__(self, model: bytes, limits: Limits) -> None:
        self._model, self._limits = model, limits
        self._key = _SERVER.key()
        weakref.finalize(self, _SERVER.drop, self._key)
        self.seconds = 0.0
        self._load()

    def _load(self) -> None:
        header, _ = _SERVER.ask({"do": "load", "key": self._key}, self._limits, model=self._model)
        self.inputs: list[str] = header["inputs"]
        self.outputs: list[str] = header["outputs"]
        self._generation = _SERVER.generation

    def run(self, feeds: Values) -> dict[str, Value]:
        """Results by name.

        Raises
        ------
        HostStepFailure   If ONNX Runtime fails, or the run is not done within the limits.
        """
        if self._generation != _SERVER.generation:
            self._load()
        header, results = _SERVER.ask({"do": "run", "key": self._key}, self._limits, feeds)
        self.seconds = float(header["seconds"])
        return results
