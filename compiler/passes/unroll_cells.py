"""Recurrent nodes whose cell the core does not have become single operators, step after step."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from systolith.compiler.base.model import Model, Node
from systolith.compiler.ops.recurrent import CELL_CONSTRAINTS, OPERATORS
from systolith.compiler.ops.registry import NodeView
from systolith.compiler.ops.values import Const, FloatInput
from systolith.compiler.passes.cell_steps import Direction, Steps, node_count, unroll_direction
from systolith.compiler.passes.emitter import Emitter
from systolith.compiler.passes.gate_functions import gate_functions

__all__ = ["MOST_NODES", "alike", "unroll_cells"]

#: A recurrent node that would become more nodes stays as it is; 64 steps and more of every cell fit.
MOST_NODES = 1536

#: The functions that each operator has where it states none, for one direction.
_STANDARD = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_DIRECTIONS = {b"forward": (False,), b"reverse": (True,), b"bidirectional": (False, True)}
#: Version of ONNX's operators from which on sums broadcast as NumPy's do.
_BROADCAST = 7
#: The part of a new name that says which step it belongs to.
_STEP = re.compile(r"/step\d+/")


def unroll_cells(model: Model, kept: Collection[str] = ()) -> tuple[Model, dict[str, str]]:
    """The model with single operators in the place of every LSTM, GRU and RNN whose cell the core does not
    have: other functions, peepholes, a bound of the gates, or a reset before the product.

    A node stays where weights or bias are computed, lengths of sequences are computed or shorter than the
    sequence, the shape of the sequence is not known, the batch stands first (`layout`), it would become more
    than `MOST_NODES` nodes, or it is among those that are to be `kept`.

    Requires
    --------
    Nodes have unique names. The types of the nodes' first operands are known, as far as they can be.

    Returns
    -------
    the model, and per new node the name of the node that it replaces
    """
    emitter = Emitter(model)
    for node in model.nodes:
        write = _unrolling(emitter, node) if node.name not in kept and _has_other_cell(model, node) else None
        if write is None:
            emitter.keep(node)
        else:
            write()
    return (emitter.result(), emitter.origins) if emitter.origins else (model, {})


def alike(model: Model, origins: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    """Tensors of unrolled cells that are the same thing at each step, per thing in the order of the steps; a
    cell has one format for each.

    A few samples say little about the range of a tensor at one step, and formats that differ from step to
    step cost a requantisation of the state at each.

    Parameters
    ----------
    model, origins : as `unroll_cells` gives them, or with fewer nodes
    """
    groups: dict[tuple[str, str, str], list[tuple[int, str]]] = {}
    for node in model.nodes:
        origin = origins.get(node.name)
        for name in node.outputs if origin is not None else ():
            found = _STEP.search(name, len(origin or ""))
            if found is not None:
                thing = (origin or "", node.op_type, _STEP.sub("/", name))
                groups.setdefault(thing, []).append((int(found[0][5:-1]), name))
    return tuple(tuple(name for _, name in sorted(group)) for group in groups.values() if len(group) > 1)


def _has_other_cell(model: Model, node: Node) -> bool:
    """Whether the rule of the core refuses the node for its cell alone."""
    if node.op_type not in OPERATORS or node.domain:
        return False
    values = tuple(
        None
        if not name
        else Const(model.constants[name])
        if name in model.constants
        else FloatInput(name, model.shape_of(name) or ())
        for name in node.inputs
    )
    view = NodeView.of(node, values, model.opset)
    return not all(constraint(view) for constraint in CELL_CONSTRAINTS)


def _unrolling(emitter: Emitter, node: Node) -> Callable[[], None] | None:
    """What writes the node's operators; None where it has to stay."""
    model, attrs = emitter.model, node.attrs
    shape = model.shape_of(node.inputs[0])
    reverses = _DIRECTIONS.get(attrs.get("direction", b"forward"))
    arrays = [_array(model, node, index) for index in (1, 2, 3, 4, 7)]
    w, r, b, lengths, peepholes = arrays
    computed = any(
        array is None and _operand(node, index) for index, array in zip((1, 2, 3, 4, 7), arrays, strict=True)
    )
    if (
        model.opset < _BROADCAST
        or shape is None
        or len(shape) != 3
        or 0 in shape
        or reverses is None
        or computed
        or w is None
        or r is None
        or (lengths is not None and not (lengths == shape[0]).all())
        or attrs.get("layout", 0)
        or (_operand(node, 6) and node.op_type != "LSTM")
    ):
        return None
    functions = gate_functions(attrs, _STANDARD[node.op_type], len(reverses), model.opset)
    if functions is None or len(w) != len(reverses):
        return None
    steps, batch, _ = shape
    gates, units = w.shape[1], r.shape[2]
    b = np.zeros((len(w), 2 * gates), w.dtype) if b is None else b
    clip = float(attrs.get("clip", 0.0))

    def direction(d: int, hidden: str | None, cell: str | None) -> Direction:
        return Direction(
            op_type=node.op_type,
            w=w[d],
            r=r[d],
            wb=b[d, :gates],
            rb=b[d, gates:],
            peepholes=None if peepholes is None or not peepholes.any() else peepholes[d].reshape(3, units),
            functions=functions[d],
            clip=clip if clip > 0 else None,
            coupled=bool(attrs.get("input_forget", 0)),
            before=bool(attrs.get("linear_before_reset", 0)),
            reverse=reverses[d],
            hidden=hidden,
            cell=cell,
        )

    if sum(node_count(direction(d, None, None), steps) for d in range(len(w))) + 16 > MOST_NODES:
        return None

    def write() -> None:
        emitter.replace(node, model.type_of(node.inputs[0]).element)
        x = emitter.reshape(node.inputs[0], (steps * batch, shape[2]), "sequence")
        hidden, cell = (_states(emitter, node, index, batch, units, len(w)) for index in (5, 6))
        labels = ("",) if len(w) == 1 else ("forward/", "reverse/")
        found = [
            unroll_direction(emitter, direction(d, hidden[d], cell[d]), x, shape, label)
            for d, label in enumerate(labels)
        ]
        _results(emitter, node, found, labels, (steps, batch, units))

    return write


def _operand(node: Node, index: int) -> str:
    return node.inputs[index] if index < len(node.inputs) else ""


def _array(model: Model, node: Node, index: int) -> np.ndarray | None:
    return model.constants.get(_operand(node, index))


def _states(
    emitter: Emitter, node: Node, index: int, batch: int, units: int, directions: int
) -> list[str | None]:
    """Operand `index`, an initial state [D, N, H], as one tensor [N, H] per direction, None for zero."""
    name, label = _operand(node, index), ("hidden", "cell")[index - 5] + "_before"
    if not name:
        return [None] * directions
    array = emitter.model.constants.get(name)
    if array is not None:
        return [emitter.constant(f"{label}{d}", part) if part.any() else None for d, part in enumerate(array)]
    parts = emitter.split(name, [1] * directions, 0, f"{label}_part", (directions, batch, units))
    return [emitter.reshape(part, (batch, units), f"{label}{d}") for d, part in enumerate(parts)]


def _results(
    emitter: Emitter, node: Node, found: list[Steps], labels: tuple[str, ...], shape: tuple[int, int, int]
) -> None:
    """Y [T, D, N, H], Y_h and Y_c [D, N, H], as far as the node gives them, under their own names."""
    steps, batch, units = shape

    def joined(index: int, parts: list[str], part: tuple[int, ...], axis: int, label: str) -> None:
        output = node.outputs[index]
        if len(parts) == 1:
            emitter.reshape(parts[0], part, label, output)
            return
        parts = [emitter.reshape(x, part, f"{at}{label}") for x, at in zip(parts, labels, strict=True)]
        whole = (*part[:axis], len(parts), *part[axis + 1 :])
        emitter.add("Concat", parts, label, whole, output, axis=axis)

    wanted = [index < len(node.outputs) and bool(node.outputs[index]) for index in range(3)]
    if wanted[0]:
        rows = [
            emitter.add("Concat", run.hidden, f"{at}all_hidden", (steps * batch, units), axis=0)
            if steps > 1
            else run.hidden[0]
            for run, at in zip(found, labels, strict=True)
        ]
        joined(0, rows, (steps, 1, batch, units), 1, "Y")
    if wanted[1]:
        joined(1, [run.last for run in found], (1, batch, units), 0, "Y_h")
    cells: list[Any] = [run.cell for run in found]
    if wanted[2] and all(cells):
        joined(2, cells, (1, batch, units), 0, "Y_c")
