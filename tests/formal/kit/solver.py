"""Bounded model check, k-induction and covers over a `Model`, by the SMT solver Bitwuzla."""

import time

from bitwuzla import Bitwuzla, Option, Options, Parser, Result, Term, TermManager

from tests.formal.kit.claims import CLAIMED, COVERED, INVARIANT
from tests.formal.kit.model import Model
from tests.formal.kit.trace import Trace

__all__ = ["Undecided", "find", "induct", "reach", "refute"]

#: Processor time for one question to the solver: a busy machine does not make a proof fail.
_SECONDS = 60


class Undecided(AssertionError):
    """The solver gave up within its time."""


class _Unrolled:
    """States of a run, one after another, and questions about them.

    Parameters
    ----------
    initial : bool   the first state is one after power-up, else any state that keeps the assumptions
    """

    def __init__(self, model: Model, *, initial: bool) -> None:
        options = Options()
        options.set(Option.PRODUCE_MODELS, True)
        self._model = model
        # Kept, since the parser does not own it.
        self._terms = TermManager()
        self._parser = Parser(self._terms, options)
        self._read("(set-logic QF_BV)\n" + model.text)
        self._solver: Bitwuzla = self._parser.bitwuzla()
        # Not of `self`, which the solver would keep alive.
        self._end = end = [0.0]
        self._solver.configure_terminator(lambda: time.process_time() > end[0])
        self._count = 0
        self._initial = initial

    def _read(self, text: str) -> None:
        self._parser.parse(text, True, False)

    def _function(self, name: str, *states: int) -> Term:
        return self._parser.parse_term(f"(|{name}| {' '.join(f's{state}' for state in states)})")

    def extend(self) -> None:
        """One state more, which keeps the assumptions and follows from the one before."""
        at = self._count
        self._count += 1
        self._read(f"(declare-const s{at} |top_s|)")
        # `top_is` is yosys's mark of an initial state.
        first = self._initial and at == 0
        self._read(f"(assert (= (|top_is| s{at}) {'true' if first else 'false'}))")
        for name in ["top_u", "top_h", *(["top_i"] if first else [])]:
            self._read(f"(assert (|{name}| s{at}))")
        if at:
            self._read(f"(assert (|top_t| s{at - 1} s{at}))")

    def require(self, *wires: str) -> None:
        """These are 1 in the last state."""
        for wire in wires:
            self._read(f"(assert (|top_n {wire}| s{self._count - 1}))")

    def broken(self, *wires: str) -> Trace | None:
        """A run in whose last state one of these is 0."""
        last = self._count - 1
        values = " ".join(f"(|top_n {wire}| s{last})" for wire in wires)
        return self._trace(wires) if self._possible(f"(not (and true {values}))") else None

    def happens(self, wire: str) -> bool:
        """The wire can be 1 in the last state."""
        return self._possible(f"(|top_n {wire}| s{self._count - 1})")

    def _possible(self, condition: str) -> bool:
        self._end[0] = time.process_time() + _SECONDS
        result = self._solver.check_sat(self._parser.parse_term(condition))
        if result is Result.UNKNOWN:
            raise Undecided(f"no answer to {condition} within {_SECONDS} s of processor time")
        return result is Result.SAT

    def _trace(self, wires: tuple[str, ...]) -> Trace:
        """What the solver found: the value of every wire in every state."""
        values = {
            wire: tuple(self._value(wire, state) for state in range(self._count))
            for wire in self._model.wires
        }
        broken = tuple(wire.partition("__")[2] for wire in wires if not values[wire][-1])
        return Trace(broken, self._count, values)

    def _value(self, wire: str, state: int) -> int:
        value = self._solver.get_value(self._function(f"top_n {wire}", state)).value()
        return int(value) if isinstance(value, bool) else int(value, 2)


def refute(model: Model, cycles: int) -> Trace | None:
    """A run of so many cycles from power-up in which a claim or an invariant fails; None if there is none."""
    run = _Unrolled(model, initial=True)
    wanted = _conditions(model)
    for _ in range(cycles):
        run.extend()
        if (trace := run.broken(*wanted)) is not None:
            return trace
        run.require(*wanted)
    return None


def find(model: Model, claim: str, cycles: int, settled: int = 0) -> Trace | None:
    """A run of at most so many cycles whose last breaks a claim, whatever becomes of the others; None if
    there is none.

    It begins at power-up, or, if `settled`, with so many cycles in which all claims and invariants hold.
    """
    run = _started(model, settled)
    for _ in range(cycles):
        run.extend()
        if (trace := run.broken(CLAIMED + claim)) is not None:
            return trace
    return None


def _started(model: Model, settled: int) -> _Unrolled:
    run = _Unrolled(model, initial=not settled)
    for _ in range(settled):
        run.extend()
        run.require(*_conditions(model))
    return run


def induct(model: Model, depth: int) -> Trace | None:
    """`depth` cycles in which all claims and invariants hold, and one in which one does not; None if there
    are none.

    With `refute(model, depth)` None too, they hold in every cycle of every run. In the last cycle one is
    shown after another, each by those before it: first the invariants, then the claims, in the order of the
    proof."""
    run = _Unrolled(model, initial=False)
    wanted = _conditions(model)
    for _ in range(depth):
        run.extend()
        run.require(*wanted)
    run.extend()
    for wire in wanted:
        if (trace := run.broken(wire)) is not None:
            return trace
        run.require(wire)
    return None


def _conditions(model: Model) -> tuple[str, ...]:
    """All invariants, then all claims."""
    return tuple(kind + name for kind in (INVARIANT, CLAIMED) for name in model.named(kind))


def reach(model: Model, cycles: int, settled: int = 0) -> list[str]:
    """Covers that no run of so many cycles reaches, which begins as in `find`."""
    run = _started(model, settled)
    missing = model.named(COVERED)
    for _ in range(cycles):
        run.extend()
        missing = [name for name in missing if not run.happens(COVERED + name)]
        if not missing:
            break
    return missing
