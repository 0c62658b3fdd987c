"""What a core did against what the machine does, instruction by instruction: the first beat that is wrong.

The core's trace ports show everything that an engine changes; the machine says what each instruction should
change.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from systolith.evidence.finding import Finding, Found
from systolith.reference.machine import Effect, Machine, MachineError
from systolith.spec.cells import GATE
from systolith.spec.isa import Engine, Instr

__all__ = ["TRACES", "Comparison"]

#: What an engine's instructions write, by the source of the log; those of one instruction lie between two
#: `done`.
_WRITES = {
    Engine.LOAD: ("load", "weight", "param", "table"),
    Engine.MATRIX: ("sums",),
    Engine.OUTPUT: ("output", "chain"),
    Engine.VECTOR: ("vector",),
}
#: The sources of the log that a comparison needs.
TRACES = (
    *(name for names in _WRITES.values() for name in names),
    "acc",
    "store",
    *(f"done.{e.name.lower()}" for e in Engine),
)
#: An element of the chain.
_CHAIN = np.dtype(f"<i{GATE.width // 8}")
_SPACES = {"load": "act", "output": "act", "vector": "act", "sums": "acc"}


@dataclass(slots=True)
class _Task:
    """One instruction and what it should do; the effect is freed once it has been compared."""

    offset: int
    instr: Instr
    engine: Engine
    ordinal: int
    effect: Effect | None = None


class Comparison:
    """One stream: the machine is stepped as far as the events need."""

    def __init__(self, machine: Machine, entry: int, sources: tuple[str, ...], data_base: int) -> None:
        self._machine, self._next, self._data_base = machine, entry, data_base
        machine.on_instruction = self._record
        self._code = {name: sources.index(name) for name in sources}
        self._tasks: list[_Task] = []
        self._by_engine: dict[Engine, list[_Task]] = {engine: [] for engine in Engine}
        self._reads: deque[tuple[_Task, np.ndarray, np.ndarray]] = deque()
        self._done: dict[Engine, list[int]] = {engine: [] for engine in Engine}
        self._pending: dict[Engine, np.ndarray | None] = dict.fromkeys(Engine)
        # How much of the current instruction of STORE, and of OUTPUT as a reader, has been compared, and
        # where STORE's began.
        self._stored = self._read = 0
        self._stored_task = 0
        self._last = 0
        self._ended = False
        self._effect: Effect | None = None

    # -- the machine
    # ------------------------------------------------------------------------------------------
    def _record(self, offset: int, instr: Instr, effect: Effect) -> None:
        self._effect = effect

    def _step(self) -> bool:
        """Execute one more instruction; False behind HALT."""
        if self._ended:
            return False
        machine = self._machine
        self._effect = None
        offset, self._next = self._next, self._next + machine.isa.word_bytes
        try:
            instr = machine.step(offset)
        except MachineError:
            # The core must stop here too; its own error report is the finding.
            self._ended = True
            return False
        engine = machine.isa.by_mnemonic[instr.mnemonic].engine
        if engine is None:
            self._ended = instr.mnemonic == "HALT"
            return not self._ended
        mine = self._by_engine[engine]
        task = _Task(offset, instr, engine, len(mine), self._effect)
        mine.append(task)
        self._tasks.append(task)
        if engine is Engine.OUTPUT:
            entries = np.arange(instr.acc, instr.acc + instr.ny * instr.nx)
            self._reads.append((task, entries, machine.acc[entries]))
        return True

    def _task(self, engine: Engine, ordinal: int) -> _Task | None:
        """The `ordinal`-th instruction of an engine, or None if the stream has no more."""
        mine = self._by_engine[engine]
        while len(mine) <= ordinal:
            if not self._step():
                return None
        return mine[ordinal]

    # -- the core
    # ---------------------------------------------------------------------------------------------
    def feed(self, events: np.ndarray) -> None:
        """Compare what the core did in some more cycles.

        Raises
        ------
        Found   The earliest difference.
        """
        if len(events):
            self._last = int(events["cycle"][-1])
        found = [self._compare_reads(self._of(events, "acc")), self._compare_stores(events)]
        for engine, names in _WRITES.items():
            found += self._compare_engine(engine, self._of(events, *names), events)
        self._raise(found)

    def finish(self, cycle: int) -> None:
        """The core says DONE.

        Raises
        ------
        Found   If an instruction is not done.
        """
        while self._step():
            pass
        if any(task.ordinal >= len(self._done[task.engine]) for task in self._tasks):
            self.stop("unfinished", None, cycle)

    def stop(self, kind: str, error: int | None, cycle: int) -> None:
        """The core ended without DONE: by an error at an instruction, by doing nothing any more, or by
        breaking the bus.

        Raises
        ------
        Found   Always.
        """
        self._raise([], anything=True)
        while self._step():
            pass
        at = self._last or cycle
        if kind == "error":
            task = next((task for task in self._tasks if task.offset == error), None)
        else:
            # All before it in the program are done, so it had all it waits for: it should have finished.
            task = next((task for task in self._tasks if task.ordinal >= len(self._done[task.engine])), None)
            error = self._next - self._machine.isa.word_bytes
        if kind == "protocol":
            at = cycle
        if task is None:
            # An instruction that no engine executes: HALT, or an illegal word.
            offset = self._next if error is None else error
            raise Found(
                Finding(kind=kind, offset=offset, instr=None, engine=None, ordinal=0, begin=at, cycle=at)
            )
        pending = self._pending[task.engine]
        writes = 0 if pending is None else int((pending["ordinal"] == task.ordinal).sum())
        tokens = self._tokens(task) if kind == "unfinished" else ()
        raise Found(replace(self._finding(task, kind, at, pending), writes=writes, tokens=tokens))

    def _raise(self, found: list[Finding | None], anything: bool = False) -> None:
        """Raise the earliest; once there is one, wrong beats of instructions that are not complete count
        too."""
        if not anything and not any(found):
            return
        for engine in _WRITES:
            pending = self._pending[engine]
            if pending is not None and len(pending):
                ordinal = int(pending["ordinal"][0])
                if (task := self._task(engine, ordinal)) is not None and task.effect is not None:
                    found.append(self._compare_writes(task, pending[pending["ordinal"] == ordinal], None))
        first = min(
            (finding for finding in found if finding is not None),
            key=lambda f: (f.cycle, list(_WRITES).index(f.engine) if f.engine in _WRITES else 9),
            default=None,
        )
        if first is not None:
            raise Found(first)

    def _of(self, events: np.ndarray, *names: str) -> np.ndarray:
        return events[np.isin(events["source"], [self._code[name] for name in names])]

    # -- writes of instructions, between one `done` and the next
    # --------------------------------------------------
    def _compare_engine(self, engine: Engine, writes: np.ndarray, events: np.ndarray) -> list[Finding | None]:
        pending = self._pending[engine]
        if pending is not None and len(pending):
            writes = np.concatenate([pending, writes])
        done = self._of(events, f"done.{engine.name.lower()}")["cycle"]
        first = len(self._done[engine])
        self._done[engine] += done.tolist()
        bounds = np.searchsorted(writes["ordinal"], np.arange(first, first + len(done) + 1))
        found: list[Finding | None] = []
        for i in range(len(done)):
            mine = writes[bounds[i] : bounds[i + 1]]
            task = self._task(engine, first + i)
            if task is None:
                break
            found.append(self._compare_writes(task, mine, int(done[i])))
            task.effect = None
            if found[-1] is not None:
                break
        self._pending[engine] = writes[bounds[-1] :].copy()
        return found

    def _compare_writes(self, task: _Task, events: np.ndarray, done: int | None) -> Finding | None:
        """An instruction against what it wrote; `done` is the cycle of its end, or None if it still runs."""
        effect = task.effect
        if effect is None:
            return None
        ordered = effect.space in ("acc", "chain")
        return (self._compare_rows if ordered else self._compare_bytes)(task, effect, events, done)

    def _compare_bytes(
        self, task: _Task, effect: Effect, events: np.ndarray, done: int | None
    ) -> Finding | None:
        """As a map from address to the byte written last: the order does not matter."""
        spaces, addresses, lanes, values, rows = self._bytes(events)
        want, right = _expected_bytes(effect, self._machine)
        place = np.where(spaces == effect.space, addresses, -1 - addresses)
        if len(place) == len(want) and (place == want).all() and (values == right).all():
            return None
        want, right = _last(want, right)
        _, order = _last(place, np.arange(len(place)))
        where = np.minimum(np.searchsorted(want, place[order]), len(want) - 1)
        known = want[where] == place[order]
        bad = order[~known | (values[order] != right[where])]
        missing = np.setdiff1d(want, place, assume_unique=False)
        if len(bad):
            at = bad.min()
            here = bool(np.isin(place[at], want))
            return self._finding(
                task,
                "wrong" if here else "extra",
                int(events["cycle"][rows[at]]),
                events,
                space=str(spaces[at]),
                address=int(addresses[at]),
                lane=int(lanes[at]),
                got=int(values[at]),
                expected=int(right[np.searchsorted(want, place[at])]) if here else None,
                instead=int(missing[0]) if len(missing) and done is not None else None,
            )
        if len(missing) and done is not None:
            at = int(np.searchsorted(want, missing[0]))
            return self._finding(
                task,
                "missing",
                done,
                events,
                space=effect.space,
                address=int(missing[0]),
                expected=int(right[at]),
            )
        return None

    def _bytes(self, events: np.ndarray) -> tuple[np.ndarray, ...]:
        """Memory, address, lane, value and event of each byte that was written."""
        width = self._machine.arch.bus_bytes
        names = np.array([_SPACES.get(name, name) for name in sorted(self._code, key=self._code.__getitem__)])
        spaces = names[events["source"]]
        act = spaces == "act"
        lane = np.arange(max(width, self._machine.arch.act_width))
        kept = (events["mask"][:, None] >> lane.astype(np.uint64) & np.uint64(1)).astype(bool)
        kept[~act] = lane < width
        row, lane = np.nonzero(kept)
        base = events["addr"].astype(np.int64) * np.where(act, 1, width)
        address = base[row] + lane
        address[act[row]] %= self._machine.arch.act_bytes
        return spaces[row], address, lane, events["data"][row, lane].view(np.int8), row

    def _compare_rows(
        self, task: _Task, effect: Effect, events: np.ndarray, done: int | None
    ) -> Finding | None:
        """Row by row, in order: accumulators, and chunks of the chain."""
        count = min(len(events), len(effect.rows))
        # A chunk has room for gates; activations are sent with their sign extended.
        dtype = _CHAIN if effect.space == "chain" else effect.rows.dtype
        got = np.ascontiguousarray(events["data"][:, : dtype.itemsize * effect.rows.shape[1]]).view(dtype)
        addresses = events["addr"] if effect.space == "acc" else np.arange(len(events))
        lane = np.arange(effect.rows.shape[1])
        wrong = (got[:count] != effect.rows[:count]) & (lane < effect.kept[:count, None])
        astray = addresses[:count].astype(np.int64) != effect.addresses[:count]
        bad = np.flatnonzero(wrong.any(1) | astray)
        if len(bad):
            at = int(bad[0])
            column = int(np.argmax(wrong[at]))
            kind, instead = ("extra", int(effect.addresses[at])) if astray[at] else ("wrong", None)
            return self._finding(
                task,
                kind,
                int(events["cycle"][at]),
                events,
                space=effect.space,
                address=int(addresses[at]),
                lane=column,
                expected=None if astray[at] else int(effect.rows[at, column]),
                got=int(got[at, column]),
                instead=instead,
            )
        if len(events) > count:
            return self._finding(
                task,
                "extra",
                int(events["cycle"][count]),
                events,
                space=effect.space,
                address=int(addresses[count]),
                got=int(got[count, 0]),
            )
        if len(effect.rows) > count and done is not None:
            return self._finding(
                task,
                "missing",
                done,
                events,
                space=effect.space,
                address=int(effect.addresses[count]),
                expected=int(effect.rows[count, 0]),
            )
        return None

    # -- what runs ahead of `done`: in order, and counted
    # --------------------------------------------------------
    def _compare_reads(self, events: np.ndarray) -> Finding | None:
        """The accumulators that OUTPUT read."""
        while len(events):
            while not self._reads:
                if not self._step():
                    return None
            task, entries, rows = self._reads[0]
            left = slice(self._read, self._read + len(events))
            effect = Effect("acc", entries[left], rows[left], np.full(len(rows[left]), rows.shape[1]))
            mine = events[: len(effect.rows)]
            finding = self._compare_rows(task, effect, mine, None)
            if finding is not None:
                return replace(finding, space="read")
            self._read += len(mine)
            events = events[len(mine) :]
            if self._read == len(rows):
                self._reads.popleft()
                self._read = 0
        return None

    def _compare_stores(self, events: np.ndarray) -> Finding | None:
        """Bytes that reached external memory."""
        beats = self._of(events, "store")
        done = self._of(events, "done.store")["cycle"]
        before = len(self._done[Engine.STORE])
        self._done[Engine.STORE] += done.tolist()
        lane = np.arange(self._machine.arch.bus_bytes)
        row, lane = np.nonzero((beats["mask"][:, None] >> lane.astype(np.uint64) & np.uint64(1)).astype(bool))
        address = beats["addr"].astype(np.int64)[row] + lane - self._data_base
        value = beats["data"][row, lane].view(np.int8)
        at = 0
        while at < len(row):
            task = self._task(Engine.STORE, self._stored_task)
            if task is None or task.effect is None:
                return None
            want, right = _expected_bytes(task.effect, self._machine)
            left = slice(self._stored, self._stored + len(row) - at)
            want_all, want, right = want, want[left], right[left]
            mine = slice(at, at + len(want))
            bad = np.flatnonzero((address[mine] != want) | (value[mine] != right))
            if len(bad):
                i = int(bad[0])
                here, cycle = at + i, int(beats["cycle"][row[at + i]])
                common = {"space": "data", "lane": int(lane[here])}
                if address[here] == want[i]:
                    return self._finding(
                        task,
                        "wrong",
                        cycle,
                        beats,
                        address=int(want[i]),
                        expected=int(right[i]),
                        got=int(value[here]),
                        **common,
                    )
                if np.isin(address[here], want_all):
                    return self._finding(
                        task, "missing", cycle, beats, address=int(want[i]), expected=int(right[i]), **common
                    )
                return self._finding(
                    task,
                    "extra",
                    cycle,
                    beats,
                    address=int(address[here]),
                    got=int(value[here]),
                    instead=int(want[i]),
                    **common,
                )
            at += len(want)
            self._stored += len(want)
            if self._stored == len(want_all):
                task.effect, self._stored, self._stored_task = None, 0, self._stored_task + 1
        if len(done) and before + len(done) > self._stored_task:
            task = self._task(Engine.STORE, self._stored_task)
            if task is not None and task.effect is not None:
                want, right = _expected_bytes(task.effect, self._machine)
                return self._finding(
                    task,
                    "missing",
                    int(done[self._stored_task - before]),
                    beats,
                    space="data",
                    address=int(want[self._stored]),
                    expected=int(right[self._stored]),
                )
        return None

    # -- what is said of it
    # ------------------------------------------------------------------------------------------
    def _finding(self, task: _Task, kind: str, cycle: int, events: np.ndarray | None, **rest: Any) -> Finding:
        done = [c for c in self._done[task.engine][: task.ordinal]][-1:]
        if events is not None and len(events):
            begin = int(events["cycle"][0])
        else:
            begin = done[0] if done else cycle
        return Finding(
            kind=kind,
            offset=task.offset,
            instr=task.instr,
            engine=task.engine,
            ordinal=task.ordinal,
            begin=min(begin, cycle),
            cycle=cycle,
            **rest,
        )

    def _tokens(self, task: _Task) -> tuple[tuple[Engine, int, int], ...]:
        """The instructions that gave the tokens which a task takes."""
        found = []
        for giver in Engine:
            if not task.instr.wait >> giver & 1:
                continue
            taken = sum(
                other.instr.wait >> giver & 1 for other in self._by_engine[task.engine][: task.ordinal]
            )
            givers = [other for other in self._by_engine[giver] if other.instr.signal >> task.engine & 1]
            if taken < len(givers) and givers[taken].ordinal < len(self._done[giver]):
                found.append((giver, givers[taken].offset, self._done[giver][givers[taken].ordinal]))
        return tuple(found)


def _expected_bytes(effect: Effect, machine: Machine) -> tuple[np.ndarray, np.ndarray]:
    """Address and value of each byte, in order."""
    lane = np.arange(effect.rows.shape[1])
    kept = lane < effect.kept[:, None]
    address = effect.addresses[:, None].astype(np.int64) + lane
    if effect.space == "act":
        address %= machine.arch.act_bytes
    return address[kept], effect.rows.view(np.int8)[kept]


def _last(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted keys without repeats, and the last value of each."""
    unique, index = np.unique(keys[::-1], return_index=True)
    return unique, values[::-1][index]
