"""What a fuzzer is made of: cases, generators of cases, the pool that runs them and the verdict on each.

A generator is a module of this package with a function ``cases``; it is found by that name, no list names it.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import pkgutil
import random
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, cast

import tests.fuzz

__all__ = [
    "FAULTS",
    "Case",
    "Generator",
    "Outcome",
    "Pool",
    "case_at",
    "generators",
    "load_case",
    "save_case",
]

_ROOT = Path(__file__).resolve().parents[2]
#: Seconds for one case, and bytes that a process may take beyond what it needs before its first case.
HANG_SECONDS = 60.0
MEMORY_BYTES = 2 << 30
_START_SECONDS = 300.0
#: Files of cases lie in memory, where the system has such a folder: there are many, and none lives for long.
_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One command and the files that it reads.

    Parameters
    ----------
    name      : says what was done to the files; need not be unique
    files     : contents by file name; they lie in the folder in which the command runs
    argv      : arguments of `systolith`
    allowed   : exit statuses that are right; 1, a difference between levels, only where it is listed
    generator : name of the generator that made it, filled in by `case_at`
    """

    name: str
    files: Mapping[str, bytes]
    argv: tuple[str, ...]
    allowed: tuple[int, ...] = (0, 2)
    generator: str = ""


class Generator(Protocol):
    """What a module of this package offers in order to be run."""

    #: Cases of the quick suite: a few seconds' worth.
    QUICK: int

    def cases(self, rng: random.Random) -> Iterator[Case]:
        """An endless stream; the first case depends on nothing but the state of `rng`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a case ended.

    Parameters
    ----------
    kind           : 'ok', 'different' or 'refused'; or one of `FAULTS`
    status         : exit status; None where there is none
    seconds        : wall time
    peak           : bytes, the largest resident size of the process or one of its children
    stdout, stderr : the first 20,000 characters of each
    """

    kind: str
    status: int | None
    seconds: float
    peak: int
    stdout: str = ""
    stderr: str = ""


#: Kinds of an outcome that no case may have.
FAULTS = (
    "hang",  # longer than HANG_SECONDS
    "crash",  # ended by a signal
    "traceback",
    "internal error",
    "memory",  # more than MEMORY_BYTES
    "status",  # an exit status that the case does not allow
    "sentence",  # a refusal that is not exactly one line, or anything else on standard error
    "escape",  # a control character in the output
)
#: Lines of the progress, which are on standard error too.
_PROGRESS = re.compile(r"(importing|compiling|preparing|running on|comparing with) \S")
_KINDS = {0: "ok", 1: "different", 2: "refused"}


def verdict(case: Case, status: int, peak: int, stdout: str, stderr: str) -> str:
    """The kind of outcome of a command that came to its end."""
    lines = [line for line in stderr.splitlines() if not _PROGRESS.match(line)]
    if "Traceback (most recent call last)" in stdout + stderr:
        return "traceback"
    if "internal error" in stderr:
        return "internal error"
    if peak > MEMORY_BYTES:
        return "memory"
    if status not in case.allowed:
        return "status"
    if not all(line.startswith("systolith: ") for line in lines) or (status != 0 and len(lines) != 1):
        return "sentence"
    if any(ord(c) < 32 and c not in "\n\t" or 127 <= ord(c) < 160 for c in stdout + stderr):
        return "escape"
    return _KINDS[status]


class _Worker:
    """A process that runs cases one after another; see `worker`."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.worker", str(MEMORY_BYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            # Endless steps on the host need not take the time that a user's may.
            env={**os.environ, "SYSTOLITH_HOST_SECONDS": "2"},
            start_new_session=True,
        )
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.case: Case | None = None
        self.begun = time.monotonic()
        #: False until the process has imported what it needs.
        self.ready = False

    def send(self, case: Case) -> None:
        assert self.process.stdin is not None
        self._folder = tempfile.TemporaryDirectory(prefix="systolith-fuzz-", dir=_MEMORY)
        _write(Path(self._folder.name), case.files)
        request = json.dumps({"folder": self._folder.name, "argv": case.argv})
        self.process.stdin.write(request.encode() + b"\n")
        self.process.stdin.flush()
        self.case, self.begun = case, time.monotonic()

    def receive(self) -> Outcome | None:
        """The outcome of the case; None where the process says for the first time that it is ready."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        case, seconds = self.case, time.monotonic() - self.begun
        if not line:
            status = self.process.wait()
            if case is None:
                raise RuntimeError(f"a worker of the fuzzer ended with status {status} before its first case")
            return self._end(Outcome(kind="crash", status=status, seconds=seconds, peak=0))
        if not self.ready:
            self.ready = True
            return None
        assert case is not None
        answer = json.loads(line)
        kind = verdict(case, answer["status"], answer["peak"], answer["stdout"], answer["stderr"])
        return self._end(Outcome(kind=kind, seconds=seconds, **answer))

    def overdue(self) -> Outcome | None:
        """The outcome 'hang', where the time is over."""
        seconds = time.monotonic() - self.begun
        if self.case is None or seconds < HANG_SECONDS:
            if not self.ready and seconds > _START_SECONDS:
                raise RuntimeError("a worker of the fuzzer does not start")
            return None
        self.kill()
        return self._end(Outcome(kind="hang", status=None, seconds=seconds, peak=0))

    def _end(self, outcome: Outcome) -> Outcome:
        assert self._folder is not None
        self._folder.cleanup()
        self._folder = None
        return outcome

    def kill(self) -> None:
        """End it, and whatever it has started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        if self._folder is not None:
            self._folder.cleanup()


class Pool:
    """Workers that run cases within limits of time and memory; closed at the end of a `with` block."""

    def __init__(self, jobs: int = 1) -> None:
        self._workers = [_Worker() for _ in range(jobs)]

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.kill()

    def run(self, cases: Iterable[Case]) -> Iterator[tuple[Case, Outcome]]:
        """Each case with its outcome, in the order in which they end."""
        pending = iter(cases)
        exhausted = False
        while True:
            for worker in self._workers:
                if worker.ready and worker.case is None and not exhausted:
                    case = next(pending, None)
                    exhausted = case is None
                    if case is not None:
                        worker.send(case)
            if exhausted and all(worker.case is None for worker in self._workers):
                return
            waiting = [worker for worker in self._workers if worker.case is not None or not worker.ready]
            ready, _, _ = select.select([worker.process.stdout for worker in waiting], [], [], 1.0)
            for worker in waiting:
                outcome = worker.receive() if worker.process.stdout in ready else worker.overdue()
                if outcome is None:
                    continue
                assert worker.case is not None
                yield worker.case, outcome
                worker.case = None
                if worker.process.poll() is not None:
                    worker.kill()
                    self._workers[self._workers.index(worker)] = _Worker()


def generators() -> dict[str, Generator]:
    """The generators by the names of their modules."""
    modules = [
        importlib.import_module(f"tests.fuzz.{info.name}")
        for info in pkgutil.iter_modules(tests.fuzz.__path__)
        if info.name not in ("__main__", "kit", "worker") and not info.name.startswith("test_")
    ]
    return {
        module.__name__.rpartition(".")[2]: cast(Generator, module)
        for module in modules
        if hasattr(module, "cases")
    }


def case_at(generator: Generator, name: str, seed: int, first: int = 0) -> Iterator[Case]:
    """Cases of a generator from number `first` on: each has a random generator of its own, from seed and
    number, so that any one can be made again alone."""
    for number in itertools.count(first):
        case = next(generator.cases(random.Random(f"{name}/{seed}/{number}")))
        yield replace(case, generator=name)


def save_case(folder: Path, case: Case, outcome: Outcome) -> None:
    """A folder with the case's files, its command and how it ended, for `load_case`."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, case.files)
    record = {"name": case.name, "argv": case.argv, "allowed": case.allowed, "files": sorted(case.files)}
    text = json.dumps({**record, "outcome": asdict(outcome)}, indent=2)
    (folder / "case.json").write_text(text + "\n", encoding="utf-8")


def load_case(folder: Path) -> Case:
    """What `save_case` wrote."""
    record = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    files = {name: (folder / name).read_bytes() for name in record["files"]}
    return Case(
        name=record["name"], files=files, argv=tuple(record["argv"]), allowed=tuple(record["allowed"])
    )


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(data)
