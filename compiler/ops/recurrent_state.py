"""What a recurrent layer begins with and what it leaves, as tensors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from systolith.compiler.ops.add import sum_of
from systolith.compiler.ops.operands import func_of
from systolith.compiler.ops.registry import NodeView, operand
from systolith.compiler.ops.select import select
from systolith.compiler.ops.values import Builder, Const, Func
from systolith.reference.concat import Concat
from systolith.reference.lookup import Lookup
from systolith.reference.recurrent import Recurrent
from systolith.reference.select import Select
from systolith.reference.take import Take
from systolith.spec import cells
from systolith.spec.isa import Cell

__all__ = ["HIDDEN_SCALE", "batch_axis", "first_state", "joined", "results_of", "state_bytes"]

#: Scale of every int8 hidden state.
HIDDEN_SCALE = 2.0**-cells.HIDDEN_FRAC


def first_state(node: NodeView, index: int, direction: int, chosen: np.ndarray) -> np.ndarray | Func | None:
    """Operand `index` [D, N, H], initial_h or initial_c: the numbers [n, H] of one direction and some of the
    batch, or the computed operand, whole."""
    value = node.value(index)
    if value is None:
        return None
    if isinstance(value, Const):
        return value.array[direction][chosen]
    return operand(node, index)


def state_bytes(
    builder: Builder,
    node: NodeView,
    op: Recurrent,
    first: list[np.ndarray | Func | None],
    direction: int,
    chosen: np.ndarray,
    label: str,
) -> tuple[str, ...]:
    """Tensors [n, H] with the bytes of the state before the first step, as `Recurrent` takes them."""
    hidden, state = first
    lstm = op.kind is Cell.LSTM
    fraction = cells.GATE.frac - op.cell_shift if lstm else cells.UNIT_FRAC

    def whole(values: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(values * 2.0**fraction), cells.STATE.min, cells.STATE.max).astype(np.int64)

    def narrow(values: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(values / HIDDEN_SCALE), -128, 127).astype(np.int64)

    def broad(values: np.ndarray) -> np.ndarray:
        codes = np.rint(values * 2.0**cells.UNIT_FRAC)
        return np.clip(codes, cells.STATE.min, cells.WIDE_MAX).astype(np.int64)

    parts = [
        (hidden, (lambda v: cells.split(broad(v))[0]) if op.wide else narrow, "hidden"),
        (state if lstm else hidden, lambda v: whole(v) & 255, "state_low"),
        (state if lstm else hidden, lambda v: whole(v) >> 8, "state_high"),
    ]
    if op.wide:
        parts.append((hidden, lambda v: cells.split(broad(v))[1], "hidden_low"))
    made = []
    for value, codes_of, kind in parts:
        name = f"{label}_{kind}"
        if not isinstance(value, Func):
            numbers = np.zeros((len(chosen), op.units)) if value is None else value.astype(np.float64)
            codes = codes_of(numbers).astype(np.uint8).view(np.int8)
            made.append(builder.constant(name, codes, HIDDEN_SCALE, 0))
            continue
        taken = builder.move(
            value,
            node.name,
            "Gather",
            Take(axis=0, index=direction),
            value.shape[1:],
            f"{name}_direction",
        )
        taken = select(builder, node, taken, [chosen, None], f"{name}_chosen")
        table = codes_of(value.values.astype(np.float64)).astype(np.uint8).view(np.int8)
        shape = (len(chosen), op.units)
        made.append(
            builder.append(
                node.name,
                Lookup(table=table),
                (taken.tensor,),
                name,
                shape,
                HIDDEN_SCALE,
                0,
                "Lookup",
                (node.name,),
            )
        )
    return tuple(made)


def batch_axis(at: int) -> int:
    """Axis of the batch in Y, and in Y_h and Y_c."""
    return 2 if at == 0 else 1


def results_of(
    builder: Builder,
    node: NodeView,
    layer: str,
    op: Recurrent,
    length: int,
    steps: int,
    suffix: str,
    wanted: list[bool],
    largest: float,
) -> list[Func | None]:
    """Y [T, 1, n, H], Y_h and Y_c [1, n, H] of a layer over `length` of the steps; None where nobody wants
    them. `largest` is what calibration saw of the cell state."""
    shape = builder.tensors[layer].shape
    whole, last = func_of(builder, layer), (*shape[1:],)

    def row(index: int, name: str) -> str:
        return builder.append(
            f"{node.name}_last{suffix}",
            Take(axis=0, index=index),
            (layer,),
            name,
            last,
            HIDDEN_SCALE,
            0,
            "Gather",
            (node.name,),
        )

    found: list[Func | None] = [whole, None, None]
    if wanted[0] and (op.cell or length != steps):
        indices = np.concatenate([np.arange(length), np.full(steps - length, -1)])
        found[0] = _rows(builder, node, whole, indices, node.outputs[0] + suffix)
    if wanted[1]:
        found[1] = func_of(builder, row(0 if op.reverse else length - 1, node.outputs[1] + suffix))
    if wanted[2]:
        low = row(length, f"{node.outputs[2]}{suffix}_low_byte")
        high = row(length + 1, f"{node.outputs[2]}{suffix}_high")
        found[2] = _cell(builder, node, op, low, high, suffix, largest)
    return found


def _rows(builder: Builder, node: NodeView, x: Func, indices: np.ndarray, name: str) -> Func:
    """Steps of a layer's result; zero where the index is -1."""
    op = Select(indices=(tuple(map(int, indices)), None, None, None))
    return builder.move(x, node.name, "Slice", op, (len(indices), *x.shape[1:]), name)


def _cell(
    builder: Builder, node: NodeView, op: Recurrent, low: str, high: str, suffix: str, largest: float
) -> Func:
    """The last cell state from its two bytes, in the format that holds what calibration saw of it."""
    step = 2.0 ** (op.cell_shift - cells.GATE.frac)
    unsigned = np.arange(256) - 128
    tensor = builder.tensors[high]
    builder.tensors[high] = replace(tensor, scale=256 * step)
    shifted = builder.append(
        node.name,
        Lookup(table=unsigned.astype(np.int8)),
        (low,),
        f"{node.outputs[2]}{suffix}_low",
        tensor.shape,
        step,
        -128,
        "Lookup",
        (node.name,),
    )
    total = sum_of(builder, node, (high, shifted), 1.0, 1.0)
    scale = float(np.float32(max(largest, step) / 127))
    return func_of(builder, builder.quantise(total, node.name, f"{node.outputs[2]}{suffix}", scale, 0))


def joined(
    builder: Builder,
    node: NodeView,
    values: list[Func | None],
    axis: int,
    order: np.ndarray | None,
    at: int,
) -> Func | None:
    """Values side by side along an axis, its indices in another order where one is given."""
    if values[0] is None:
        return None
    name, value = node.outputs[at] or f"{node.name}_Y", values[0]
    if len(values) > 1:
        shape = list(value.shape)
        shape[axis] = sum(other.shape[axis] for other in values)
        op = Concat(axis=axis)
        first = builder.tensors[value.tensor]
        # The formats of cell states differ; the others have one.
        scale = max(builder.tensors[other.tensor].scale for other in values)
        parts = [
            builder.quantise(other, node.name, f"{name}_part{number}", scale, first.zero_point)
            for number, other in enumerate(values)
        ]
        tensor = builder.append(
            f"{node.name}_join{axis}",
            op,
            tuple(parts),
            name,
            tuple(shape),
            scale,
            first.zero_point,
            "Concat",
            (node.name,),
        )
        value = func_of(builder, tensor)
    if order is None:
        return value
    chosen: list[np.ndarray | None] = [None] * len(value.shape)
    chosen[axis] = order
    return select(builder, node, value, chosen, f"{name}_ordered")
