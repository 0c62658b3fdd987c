"""Sums of squares, and functions of a sum that is wider than int8."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from systolith.compiler.ops.add import sum_of
from systolith.compiler.ops.operands import fitting
from systolith.compiler.ops.registry import NodeView
from systolith.compiler.ops.values import Builder, dequantised, quantised
from systolith.reference.concat import Concat
from systolith.reference.graph import Op
from systolith.reference.lookup import Lookup

__all__ = ["DIGITS", "absolute", "function_of_sum", "square_digits"]

#: What the parts that `square_digits` joins count: a square is 255 times its first digit plus its second.
DIGITS = (127, 127, 1, 1)
_BASE = 255
_CODES = np.arange(256).astype(np.uint8).view(np.int8).astype(np.int64)


def _looked_up(
    builder: Builder, node: NodeView, name: str, values: np.ndarray, label: str, scale: float
) -> str:
    """A table of numbers from 0 to 255, held with the zero point -128."""
    tensor = builder.tensors[name]
    table = (values - 128).astype(np.int8)
    return builder.append(
        node.name, Lookup(table=table), (name,), label, tensor.shape, scale, -128, "Lookup", (node.name,)
    )


def absolute(builder: Builder, node: NodeView, name: str, label: str) -> str:
    """|x|, exactly, in the scale of x."""
    tensor = builder.tensors[name]
    return _looked_up(builder, node, name, np.abs(_CODES - tensor.zero_point), label, tensor.scale)


def square_digits(builder: Builder, node: NodeView, name: str, axis: int, label: str) -> str:
    """x * x, exactly, as four parts joined along an axis, which count `DIGITS` squares of the scale of x
    each; zero point -128."""
    tensor = builder.tensors[name]
    squares = np.square(_CODES - tensor.zero_point)
    unit = tensor.scale * tensor.scale
    high, low = (
        _looked_up(builder, node, name, digit, f"{label}_{kind}", unit)
        for digit, kind in ((squares // _BASE, "high"), (squares % _BASE, "low"))
    )
    shape = list(tensor.shape)
    shape[axis] *= len(DIGITS)
    parts = (high, high, high, low)
    return builder.append(
        node.name, Concat(axis=axis), parts, label, tuple(shape), unit, -128, "Concat", (node.name,)
    )


def function_of_sum(
    builder: Builder,
    node: NodeView,
    name: str,
    sums: Callable[[float, int, int, int], Op],
    inputs: tuple[str, ...],
    shape: tuple[int, ...],
    function: Callable[[np.ndarray], np.ndarray],
    ends: list[float],
    scale: float,
    zero: int,
    low: int,
    high: int,
) -> str:
    """The tensor `name` with ``function(sum)``, a monotonous function of a sum that is not negative.

    Each of `ends`, in ascending order, bounds a range in which the sum gets a format of its own, the first
    one the finest, in which it saturates; tables give what the function adds in each range, and their results
    are added.

    Parameters
    ----------
    sums : function    (scale, zero, low, high) -> Op that gives the sum in this format
    """

    def graded(end: float, values: Callable[[np.ndarray], np.ndarray]) -> tuple[Op, np.ndarray]:
        step = float(np.float32(end / 255)) or 1.0
        return sums(step, -128, -128, 127), values(dequantised(step, -128).astype(np.float64))

    def append(op: Op, inputs: tuple[str, ...], label: str, scale: float, zero: int) -> str:
        return builder.append(node.name, op, inputs, label, shape, scale, zero, node.op_type, (node.name,))

    if len(ends) == 1:
        op, values = graded(ends[0], function)
        table = np.clip(quantised(values, scale, zero), low, high).astype(np.int8)
        return append(_tabled(op, table), inputs, name, scale, zero)
    made, bounds = "", (0.0, 0.0)
    for at, (start, end) in enumerate(pairwise([0.0, *ends])):
        base = float(function(np.array([start]))[0]) if at else 0.0
        op, values = graded(end, lambda v, s=start, e=end, b=base: function(np.clip(v, s, e)) - b)
        fit = fitting(float(values.min()), float(values.max()))
        part = append(_tabled(op, quantised(values, *fit)), inputs, f"{name}_range{at}", *fit)
        more = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
        bounds = bounds[0] + more[0], bounds[1] + more[1]
        if not made:
            made = part
            continue
        total = sum_of(builder, node, (made, part), 1.0, 1.0)
        if at == len(ends) - 1:
            return append(total.build(scale, zero, low, high), (made, part), name, scale, zero)
        fit = fitting(*bounds)
        made = append(total.build(*fit, -128, 127), (made, part), f"{name}_until{at}", *fit)
    raise AssertionError("there is no range")


def _tabled(op: Op, table: np.ndarray) -> Op:
    """The operator with its result looked up."""
    made = op.with_table(table)
    assert made is not None
    return made
