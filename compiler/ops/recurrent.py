"""LSTM, GRU and RNN in float, with their input quantised: weights, bias and scales to integers, one layer per
direction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from systolith.compiler.base.errors import QuantiseError
from systolith.compiler.ops.recurrent_state import (
    HIDDEN_SCALE,
    batch_axis,
    first_state,
    joined,
    results_of,
    state_bytes,
)
from systolith.compiler.ops.registry import NodeView, constant, operand, register
from systolith.compiler.ops.select import select
from systolith.compiler.ops.values import Builder, Const, Func, Value
from systolith.reference.recurrent import Recurrent
from systolith.spec import cells, numerics
from systolith.spec.isa import Cell

__all__ = [
    "CELL_CONSTRAINTS",
    "CELL_RANGE",
    "HIDDEN_BITS",
    "HIDDEN_SCALE",
    "OPERATORS",
    "convert_recurrent",
    "gate_weights",
    "hidden_is_wide",
    "quantised_layer",
]

OPERATORS = ("GRU", "LSTM", "RNN")
#: Key of a model's metadata under which calibration leaves the largest cell state of a node, per direction.
CELL_RANGE = "systolith.cell_range."
#: Key of a model's metadata with the bits of hidden states, 8 where it is missing.
HIDDEN_BITS = "systolith.hidden_bits"

#: How many times the range of int8 the input's weights may have; each costs one more product of the input.
_PLANES = 4
#: How much coarser than int8 allows the state's weights may become before the input's get another product: a
#: third of a bit.
_COARSER = 1.25
#: How often the steps of weights may grow, by half each time; a quarter of int8's resolution is the least.
_TRIES = 5
_KINDS = {"LSTM": Cell.LSTM, "GRU": Cell.GRU, "RNN": Cell.RNN}
_ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


def activations_are_standard(node: NodeView) -> bool:
    """the activations must be the operator's own (Sigmoid and Tanh)."""
    given = [name.decode().lower() for name in node.attrs.get("activations", ())]
    own = [name.lower() for name in _ACTIVATIONS[node.op_type]]
    return not given or given == own * (len(given) // len(own))


def clip_is_wide(node: NodeView) -> bool:
    """clip must be left out or at least 8, where the pre-activations of the core saturate anyway."""
    return node.attrs.get("clip", np.inf) * 2.0**cells.GATE.frac > cells.GATE.max


def reset_after_product(node: NodeView) -> bool:
    """linear_before_reset of GRU must be 1: with 0 the state's product waits for the reset gate within the
    step."""
    return node.op_type != "GRU" or bool(node.attrs.get("linear_before_reset", 0))


def lengths_are_constant(node: NodeView) -> bool:
    """sequence_lens must be left out, or constant, and each at least 1 and no longer than the sequence."""
    lengths, x = node.value(4), node.value(0)
    return lengths is None or (
        isinstance(lengths, Const)
        and lengths.shape == x.shape[1:2]
        and bool(((lengths.array >= 1) & (lengths.array <= x.shape[0])).all())
    )


def no_peepholes(node: NodeView) -> bool:
    """peepholes must be left out or zero."""
    peepholes = node.value(7)
    return peepholes is None or (isinstance(peepholes, Const) and not peepholes.array.any())


def constants_are_finite(node: NodeView) -> bool:
    """weights, bias and initial states must be finite."""
    values = (node.value(index) for index in (1, 2, 3, 5, 6))
    return all(np.isfinite(value.array).all() for value in values if isinstance(value, Const))


def no_cell_without_one(node: NodeView) -> bool:
    """initial_c is an operand of LSTM alone."""
    return node.op_type == "LSTM" or node.value(6) is None


def hidden_is_wide(node: NodeView) -> bool:
    """Whether calibration chose a hidden state of 16 bits."""
    return node.metadata.get(HIDDEN_BITS) == "16"


def gate_weights(
    op_type: str, w: np.ndarray, r: np.ndarray, b: np.ndarray | None, coupled: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One direction's W, R and B in the order of `Cell`'s gates: float64 [G, H, I], [G, H, H], [G, H].

    `coupled` is `input_forget`: the forget gate of an LSTM is 1 - sigmoid(i) = sigmoid(-i).
    """
    units = r.shape[1]
    w, r = (part.reshape(-1, units, part.shape[1]).astype(np.float64) for part in (w, r))
    wb, rb = np.zeros((2, len(w), units)) if b is None else b.astype(np.float64).reshape(2, -1, units)
    if op_type == "LSTM":
        order = [0, 2, 3, 1]  # ONNX: input, output, forget, cell
        parts = w[order], r[order], (wb + rb)[order]
        if coupled:
            for part in parts:
                part[1] = -part[0]
        return parts
    if op_type == "GRU":
        none = np.zeros_like  # ONNX: update, reset, hidden
        return (
            np.stack([w[1], w[0], w[2], none(w[2])]),
            np.stack([r[1], r[0], none(r[2]), r[2]]),
            np.stack([wb[1] + rb[1], wb[0] + rb[0], wb[2], rb[2]]),
        )
    return w, r, wb + rb


#: What the core's cells ask of a node's cell; a node that breaks one can still run as single operators.
CELL_CONSTRAINTS = (activations_are_standard, clip_is_wide, reset_after_product, no_peepholes)


@register(
    *OPERATORS,
    attributes=(
        "activations",
        "activation_alpha",
        "activation_beta",
        "clip",
        "direction",
        "hidden_size",
        "input_forget",
        "layout",
        "linear_before_reset",
    ),
    constraints=(
        *CELL_CONSTRAINTS,
        lengths_are_constant,
        constants_are_finite,
        no_cell_without_one,
    ),
)
def convert_recurrent(builder: Builder, node: NodeView) -> tuple[Value, ...]:
    """Y, Y_h and Y_c; each direction, and each length of sequence, is a layer of its own, and their results
    are joined."""
    x = operand(node, 0)
    source = builder.tensors[x.tensor]
    w, r, b = (constant(node, index) for index in (1, 2, 3))
    steps, batch = x.shape[:2]
    largest = [float(value) for value in node.metadata.get(f"{CELL_RANGE}{node.name}", "").split()]
    if node.op_type != "LSTM":
        largest = [0.0] * len(w)
    elif not largest:
        raise QuantiseError(
            "quantise",
            node.name,
            "the range of the cell state is not known",
            "compile the float model with calibration data",
        )
    lengths = constant(node, 4)
    lengths = np.full(batch, steps) if lengths is None else lengths
    wanted = [index < len(node.outputs) and bool(node.outputs[index]) for index in range(3)]
    wanted[2] = wanted[2] and (not node.used or node.outputs[2] in node.used)
    directions: list[list[Func | None]] = []
    for d in range(len(w)):
        reverse = node.attrs.get("direction", b"forward") == b"reverse" or d == 1
        parts = gate_weights(
            node.op_type, w[d], r[d], None if b is None else b[d], bool(node.attrs.get("input_forget", 0))
        )
        runs: list[list[Func | None]] = []
        for length in np.unique(lengths):
            chosen = np.flatnonzero(lengths == length)
            first = [first_state(node, index, d, chosen) for index in (5, 6)]
            given = any(isinstance(value, Func) for value in first)
            op = quantised_layer(
                node.name,
                _KINDS[node.op_type],
                parts,
                source.scale,
                source.zero_point,
                reverse=reverse,
                batch=len(chosen),
                hidden=None if given else first[0],
                state=None if given else first[1],
                largest=largest[d],
                wide=hidden_is_wide(node),
            )
            suffix = ("_forward", "_reverse")[d] if len(w) == 2 else ""
            suffix += f"_{length}" if len(np.unique(lengths)) > 1 else ""
            name = (node.outputs[0] or f"{node.name}_Y") + suffix
            states: tuple[str, ...] = ()
            if given:
                op = replace(op, given=True)
                states = state_bytes(builder, node, op, first, d, chosen, name)
            op = replace(op, cell=wanted[2])
            some = len(chosen) < batch or length < steps
            sequence = (
                select(builder, node, x, [np.arange(length), chosen, None], f"{name}_sequence") if some else x
            )
            rows = int(length) + 2 * op.cell
            alone = rows == steps
            layer = builder.append(
                node.name + suffix,
                op,
                (sequence.tensor, *states),
                name if alone else f"{name}_rows",
                (rows, 1, len(chosen), op.units),
                HIDDEN_SCALE,
                0,
                node.op_type,
                (*x.sources, node.name),
            )
            runs.append(results_of(builder, node, layer, op, int(length), steps, suffix, wanted, largest[d]))
        order = np.argsort(np.concatenate([np.flatnonzero(lengths == n) for n in np.unique(lengths)]))
        directions.append(
            [joined(builder, node, [run[at] for run in runs], batch_axis(at), order, at) for at in range(3)]
        )
    return tuple(
        joined(builder, node, [values[at] for values in directions], (1, 0, 0)[at], None, at)
        for at in range(3)
        if at < len(node.outputs)
    )


def quantised_layer(
    name: str,
    kind: Cell,
    parts: tuple[np.ndarray, np.ndarray, np.ndarray],
    x_scale: float,
    x_zero: int,
    *,
    reverse: bool,
    batch: int,
    hidden: np.ndarray | None = None,
    state: np.ndarray | None = None,
    largest: float = 0.0,
    alpha: int = 1 << cells.UNIT_FRAC,
    wide: bool = False,
) -> Recurrent:
    """One direction in integers.

    The sums of input and state share an accumulator, so that both halves of a row of weights have one scale.
    Where the input weighs more, its weights exceed int8, up to `_PLANES` times, so that the state's keep
    their resolution, or nearly (`_COARSER`).

    Parameters
    ----------
    parts : float64 arrays       as `gate_weights` gives them
    hidden, state : float [N, H] before the first step; None: zero
    largest : float              what the cell state of an LSTM reaches
    wide : bool                  hidden state of 16 bits

    Raises
    ------
    QuantiseError   If a scale has no multiplier, or an accumulator could overflow.
    """
    weights, recurrent, bias = parts
    units, unit = recurrent.shape[2], 256 if wide else 1
    weights, recurrent = weights * x_scale, recurrent * HIDDEN_SCALE
    of_input, of_state = np.abs(weights).max(axis=2), np.abs(recurrent).max(axis=2)
    both = (of_input > 0) & (of_state > 0)
    planes = int(
        np.clip(
            np.ceil(np.median(of_input[both] / of_state[both]) / _COARSER) if both.any() else 1, 1, _PLANES
        )
    )
    coarser = np.ones(of_state.shape)
    # Where an accumulator could exceed 32 bits, the weights of that gate take coarser steps.
    for _ in range(_TRIES):
        scale = np.maximum(of_input / planes, of_state) / 127 * coarser
        scale[scale == 0] = 1.0 / (1 << 20)
        integers = np.rint(bias / scale * unit)
        of_x, of_h = np.rint(weights / scale[..., None]), np.rint(recurrent / scale[..., None])
        # Whatever the operands are, in any order of the sums, and with the input's zero point still in them.
        most = np.abs(integers) + unit * (256 * np.abs(of_x).sum(axis=2) + 128 * np.abs(of_h).sum(axis=2))
        if most.max() < 1 << 31:
            break
        coarser = np.where(most < 1 << 31, coarser, coarser * 1.5)
    else:
        raise QuantiseError(
            "quantise",
            name,
            "an accumulator could exceed 32 bits",
            "choose a hidden state of 8 bits" if wide else "split the layer",
        )
    weights, recurrent = of_x, of_h
    try:
        pairs = [numerics.approximate_scale(float(s) * 2.0**cells.GATE.frac / unit) for s in scale.ravel()]
    except numerics.ScaleError as error:
        raise QuantiseError(
            "quantise", name, str(error), "train the model with weights of ordinary size"
        ) from error
    hidden = np.zeros((batch, units)) if hidden is None else hidden
    shift = 0
    if kind is Cell.LSTM:
        shift = _cell_shift(largest)
        state = np.zeros((batch, units)) if state is None else state
        start = np.rint(state.astype(np.float64) * 2.0 ** (cells.GATE.frac - shift))
    else:
        start = np.rint(hidden.astype(np.float64) * 2.0**cells.UNIT_FRAC)
    if wide:
        exact = np.rint(hidden.astype(np.float64) * 2.0**cells.UNIT_FRAC)
        before = np.clip(exact, cells.STATE.min, cells.WIDE_MAX).astype(np.int16)
    else:
        before = np.clip(np.rint(hidden.astype(np.float64) / HIDDEN_SCALE), -128, 127).astype(np.int8)
    return Recurrent(
        kind=kind,
        weights=weights.astype(np.int16),
        recurrent=recurrent.astype(np.int8),
        wide=wide,
        bias=integers.astype(np.int32),
        mult=np.array([m for m, _ in pairs]).reshape(scale.shape),
        shift=np.array([s for _, s in pairs]).reshape(scale.shape),
        x_zero=x_zero,
        cell_shift=shift,
        alpha=alpha,
        reverse=reverse,
        hidden=before,
        state=np.clip(start, cells.STATE.min, cells.STATE.max).astype(np.int16),
    )


def _cell_shift(largest: float) -> int:
    """12 minus the fractional bits with which a cell state of this size does not saturate."""
    shift = 0
    while shift < 7 and largest * 2.0 ** (cells.GATE.frac - shift) > cells.STATE.max:
        shift += 1
    return shift
