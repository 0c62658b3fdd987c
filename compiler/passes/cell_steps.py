"""One direction of an LSTM, GRU or RNN as nodes: the products of the input over the whole sequence first,
then the steps one after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from systolith.compiler.passes.emitter import Emitter
from systolith.compiler.passes.gate_functions import GateFunction, apply_function

__all__ = ["Direction", "Steps", "node_count", "unroll_direction"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Direction:
    """One direction of a recurrent node; arrays in the model's own type.

    Parameters
    ----------
    op_type   : LSTM, GRU or RNN
    w, r      : [G * H, I] and [G * H, H], gates in ONNX's order
    wb, rb    : [G * H] each, zero where the node has no bias
    peepholes : [3, H] of the input, output and forget gate, or None
    functions : f, g, h as far as the operator has them
    clip      : bound of what the functions of the gates are given, or None
    coupled   : input_forget of LSTM
    before    : linear_before_reset of GRU
    reverse   : the sequence is read from its end
    hidden    : tensor [N, H] before the first step, or None for zero
    cell      : the same of an LSTM's cell state
    """

    op_type: str
    w: np.ndarray
    r: np.ndarray
    wb: np.ndarray
    rb: np.ndarray
    peepholes: np.ndarray | None
    functions: tuple[GateFunction, ...]
    clip: float | None
    coupled: bool
    before: bool
    reverse: bool
    hidden: str | None
    cell: str | None

    @property
    def units(self) -> int:
        """H."""
        return int(self.r.shape[1])


@dataclass(frozen=True, eq=False, kw_only=True)
class Steps:
    """Tensors [N, H]: `hidden` after each step, in the order of the sequence, then the last of `hidden` and
    of the cell state, where there is one."""

    hidden: tuple[str, ...]
    last: str
    cell: str | None


def node_count(direction: Direction, steps: int) -> int:
    """At most so many nodes `unroll_direction` makes of one direction."""
    cell = _CELLS[direction.op_type]
    functions = sum(function.nodes for function in direction.functions)
    per_step = cell.nodes + functions * cell.gates
    if direction.clip is not None:
        per_step += cell.gates
    if direction.peepholes is not None:
        per_step += 6
    return steps * per_step + 3 * cell.gates


def unroll_direction(
    emitter: Emitter, direction: Direction, x: str, shape: tuple[int, int, int], label: str
) -> Steps:
    """Nodes of one direction over the sequence `x` [T * N, I], where `shape` is (T, N, I)."""
    return _CELLS[direction.op_type].unroll(_Unrolled(emitter, direction, x, shape, label))


class _Unrolled:
    """What the steps of every cell are made of."""

    def __init__(
        self, emitter: Emitter, direction: Direction, x: str, shape: tuple[int, int, int], label: str
    ) -> None:
        self.emitter, self.direction, self.x, self.label = emitter, direction, x, label
        self.steps, self.batch, self.inputs = shape
        self.shape = (self.batch, direction.units)
        order = range(self.steps)
        self.order = list(reversed(order)) if direction.reverse else list(order)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.direction.w.dtype

    def rows(self, *gates: int) -> np.ndarray:
        """Indices of the rows of those gates."""
        units = self.direction.units
        return np.concatenate([np.arange(gate * units, (gate + 1) * units) for gate in gates])

    def of_input(self, label: str, rows: np.ndarray, bias: np.ndarray) -> tuple[str, ...]:
        """W x + bias of some rows for the whole sequence, one tensor [N, rows] per step."""
        emitter, label = self.emitter, f"{self.label}{label}"
        whole = (self.steps * self.batch, len(rows))
        weights = emitter.constant(f"{label}_W", np.ascontiguousarray(self.direction.w[rows].T))
        product = emitter.add("MatMul", (self.x, weights), f"{label}_product", whole)
        offsets = emitter.constant(f"{label}_B", bias[rows])
        total = emitter.add("Add", (product, offsets), f"{label}_input", whole)
        return emitter.split(total, [self.batch] * self.steps, 0, f"{label}_inputs", whole)

    def of_state(self, label: str, rows: np.ndarray) -> str:
        """R of some rows, transposed, as a constant."""
        matrix = np.ascontiguousarray(self.direction.r[rows].T)
        return self.emitter.constant(f"{self.label}{label}_R", matrix)

    def step(self, at: int) -> _Step:
        return _Step(self, at)


class _Step:
    """One step: operators on tensors [N, H], or [N, G * H]; None stands for zero."""

    def __init__(self, unrolled: _Unrolled, at: int) -> None:
        self._of, self._at = unrolled, at
        self._label = f"{unrolled.label}step{at}/"

    def _shape(self, gates: int) -> tuple[int, int]:
        return (self._of.batch, gates * self._of.direction.units)

    def _add(self, op_type: str, inputs: tuple[str, ...], label: str, gates: int = 1) -> str:
        return self._of.emitter.add(op_type, inputs, f"{self._label}{label}", self._shape(gates))

    def product(self, h: str | None, matrix: str, label: str, gates: int = 1) -> str | None:
        return None if h is None else self._add("MatMul", (h, matrix), label, gates)

    def total(self, a: str | None, b: str | None, label: str, gates: int = 1) -> str:
        if a is None or b is None:
            known = a if b is None else b
            assert known is not None
            return known
        return self._add("Add", (a, b), label, gates)

    def times(self, a: str, b: str, label: str) -> str:
        return self._add("Mul", (a, b), label)

    def scaled(self, a: str, b: str | None, label: str) -> str | None:
        return None if b is None else self.times(a, b, label)

    def less(self, a: str, b: str, label: str) -> str:
        return self._add("Sub", (a, b), label)

    def function(self, index: int, x: str, label: str, gates: int = 1) -> str:
        """Function `index` of the cell, of what was clipped before."""
        of, shape = self._of, self._shape(gates)
        clip = of.direction.clip
        if clip is not None:
            x = of.emitter.clip(x, -clip, clip, f"{self._label}{label}_clipped", shape)
        return self.applied(index, x, label, gates)

    def applied(self, index: int, x: str, label: str, gates: int = 1) -> str:
        """The same without clipping."""
        of = self._of
        return apply_function(
            of.emitter,
            of.direction.functions[index],
            x,
            f"{self._label}{label}",
            self._shape(gates),
            of.dtype,
        )

    def parts(self, x: str, gates: int, label: str) -> tuple[str, ...]:
        units = self._of.direction.units
        return self._of.emitter.split(x, [units] * gates, 1, f"{self._label}{label}", self._shape(gates))


def _in_order(hidden: dict[int, str], last: str, cell: str | None = None) -> Steps:
    return Steps(hidden=tuple(hidden[at] for at in sorted(hidden)), last=last, cell=cell)


def _rnn(of: _Unrolled) -> Steps:
    d = of.direction
    rows = of.rows(0)
    inputs, matrix = of.of_input("hidden", rows, d.wb + d.rb), of.of_state("hidden", rows)
    h, hidden = d.hidden, {}
    for at in of.order:
        step = of.step(at)
        h = step.function(0, step.total(step.product(h, matrix, "state"), inputs[at], "sum"), "hidden")
        hidden[at] = h
    return _in_order(hidden, hidden[of.order[-1]])


def _gru(of: _Unrolled) -> Steps:
    """Gates z and r share a product and a function; the new state waits for r."""
    d = of.direction
    gates, new = of.rows(0, 1), of.rows(2)
    gate_inputs, gate_matrix = of.of_input("gates", gates, d.wb + d.rb), of.of_state("gates", gates)
    new_inputs = of.of_input("new", new, d.wb if d.before else d.wb + d.rb)
    new_matrix = of.of_state("new", new)
    offset = of.emitter.constant(f"{of.label}new_Rb", d.rb[new]) if d.before and d.rb[new].any() else None
    h, hidden = d.hidden, {}
    for at in of.order:
        step = of.step(at)
        total = step.total(step.product(h, gate_matrix, "gates_state", 2), gate_inputs[at], "gates_sum", 2)
        z, r = step.parts(step.function(0, total, "gates", 2), 2, "gate")
        if d.before:
            state = step.product(h, new_matrix, "new_state")
            state = offset if state is None else step.total(state, offset, "new_biased")
            waited = step.scaled(r, state, "reset")
        else:
            waited = step.product(step.scaled(r, h, "reset"), new_matrix, "new_state")
        new_state = step.function(1, step.total(waited, new_inputs[at], "new_sum"), "new")
        if h is None:
            h = step.less(new_state, step.times(z, new_state, "kept"), "hidden")
        else:
            change = step.times(z, step.less(h, new_state, "difference"), "kept")
            h = step.total(new_state, change, "hidden")
        hidden[at] = h
    return _in_order(hidden, hidden[of.order[-1]])


def _lstm(of: _Unrolled) -> Steps:
    """Gates that see the same go together: i, o and f, or each for itself where peepholes differ."""
    d = of.direction
    i_o_f, new = of.rows(0, 1, 2), of.rows(3)
    bias = d.wb + d.rb
    gate_inputs, gate_matrix = of.of_input("gates", i_o_f, bias), of.of_state("gates", i_o_f)
    new_inputs, new_matrix = of.of_input("new", new, bias), of.of_state("new", new)
    peepholes: list[str | None] = [None, None, None]
    if d.peepholes is not None:
        peepholes = [
            of.emitter.constant(f"{of.label}peephole_{name}", values) if values.any() else None
            for name, values in zip("iof", d.peepholes, strict=True)
        ]
    one = of.emitter.constant(f"{of.label}one", np.ones((), of.dtype)) if d.coupled else ""
    h, c, hidden = d.hidden, d.cell, {}
    for at in of.order:
        step = of.step(at)
        total = step.total(step.product(h, gate_matrix, "gates_state", 3), gate_inputs[at], "gates_sum", 3)
        new_total = step.total(step.product(h, new_matrix, "new_state"), new_inputs[at], "new_sum")
        if any(peepholes):
            sums = step.parts(total, 3, "gate_sum")
            i, f = (
                step.function(0, _seen(step, sums[gate], peepholes[gate], c, name), name)
                for gate, name in ((0, "i"), (2, "f"))
            )
            o = ""
        else:
            sums = ()
            i, o, f = step.parts(step.function(0, total, "gates", 3), 3, "gate")
        if d.coupled:
            f = step.less(one, i, "forgotten")
        new_state = step.function(1, new_total, "new")
        c = step.total(step.scaled(f, c, "kept"), step.times(i, new_state, "taken"), "cell")
        if sums:
            o = step.function(0, _seen(step, sums[1], peepholes[1], c, "o"), "o")
        h = hidden[at] = step.times(o, step.applied(2, c, "shown"), "hidden")
    return _in_order(hidden, hidden[of.order[-1]], c)


def _seen(step: _Step, total: str, peephole: str | None, cell: str | None, name: str) -> str:
    """What a gate is given, with what its peephole shows of the cell state."""
    shown = None if peephole is None else step.scaled(peephole, cell, f"{name}_peephole")
    return step.total(total, shown, f"{name}_sum")


@dataclass(frozen=True, slots=True)
class _Cell:
    """How a cell is unrolled; `gates` of its own, and `nodes` of a step without its functions, at most."""

    unroll: Callable[[_Unrolled], Steps]
    gates: int
    nodes: int


_CELLS = {"RNN": _Cell(_rnn, 1, 2), "GRU": _Cell(_gru, 3, 10), "LSTM": _Cell(_lstm, 4, 9)}
