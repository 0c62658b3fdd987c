"""What Add, Sub and Mul share: folding a constant into a weighted sum, and tables for scalars."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from systolith.compiler.ops.affine import channel_affine, fold_affine
from systolith.compiler.ops.lookup import as_table
from systolith.compiler.ops.registry import NodeView
from systolith.compiler.ops.values import Builder, Const, Func, Pending, Value
from systolith.compiler.ops.weighted import per_channel

__all__ = ["special_case"]

_OfConstant = Callable[[np.ndarray, int], np.ndarray]


def special_case(
    builder: Builder,
    node: NodeView,
    factor_of: _OfConstant,
    offset_of: _OfConstant,
    positions: tuple[int, ...] = (0, 1),
) -> Value | None:
    """The result where one operand is constant or both are functions of one tensor; None where a vector
    instruction is needed.

    `factor_of` and `offset_of` turn the constant into what multiplies and what is added; each takes (array,
    position of the constant). `positions` are those at which it may stand.
    """
    table = as_table(node)
    if table is not None:
        return table
    for position in positions:
        value, const = node.values[1 - position], node.values[position]
        if not isinstance(const, Const) or const.array.ndim > len(value.shape):
            continue
        if isinstance(value, Pending) and value.linear is not None and not value.clamps:
            linear = value.linear
            vector = per_channel(const.real, len(value.shape), linear.out_axis, linear.channels)
            if vector is not None:
                return fold_affine(node, value, factor_of(vector, position), offset_of(vector, position))
        elif isinstance(value, Func) and value.pure and const.ints is None and len(value.shape) in (3, 4):
            vector = per_channel(const.real, len(value.shape), 1, value.shape[1])
            if vector is not None:
                return channel_affine(
                    builder, node, value, factor_of(vector, position), offset_of(vector, position)
                )
    settled = node.settled()
    if settled.values != node.values:
        return special_case(builder, settled, factor_of, offset_of, positions)
    return None
