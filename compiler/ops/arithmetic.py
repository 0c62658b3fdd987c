"""What Add, Sub and Mul share: folding a constant into a weighted sum, tables for scalars, and quantised
operands."""

from __future__ import annotations

import numpy as np

from systolith.compiler.base.errors import QuantiseError, UnsupportedError
from systolith.compiler.ops.affine import channel_affine, fold_affine
from systolith.compiler.ops.lookup import as_table
from systolith.compiler.ops.registry import NodeView, operand
from systolith.compiler.ops.values import Builder, Const, Func, Pending, Value
from systolith.compiler.ops.weighted import per_channel

__all__ = ["binary_operands", "special_case"]


def special_case(builder: Builder, node: NodeView, factor_of, offset_of) -> Value | None:
    """The result where one operand is constant or both are functions of one tensor; None where a vector
    instruction is needed.

    `factor_of` and `offset_of` turn the constant into what multiplies and what is added; each takes (array,
    position of the constant).
    """
    table = as_table(node)
    if table is not None:
        return table
    for position, other in ((0, 1), (1, 0)):
        value, const = node.values[other], node.values[position]
        if not isinstance(const, Const):
            continue
        if isinstance(value, Pending):
            vector = None
            if value.linear is not None and not value.clamps:
                vector = per_channel(
                    const.real, len(value.shape), value.linear.out_axis, value.linear.channels
                )
            if vector is None:
                raise QuantiseError(
                    "quantise",
                    node.name,
                    f"operand {node.proto.input[other]!r} of {node.op_type} is not quantised",
                    "put QuantizeLinear and DequantizeLinear before it",
                )
            return fold_affine(node, value, factor_of(vector, position), offset_of(vector, position))
        if isinstance(value, Func) and value.pure and const.ints is None:
            vector = (
                per_channel(const.real, len(value.shape), 1, value.shape[1])
                if len(value.shape) in (3, 4)
                else None
            )
            if vector is None:
                raise QuantiseError(
                    "quantise",
                    node.name,
                    f"constant {node.proto.input[position]!r} of {node.op_type} is not quantised",
                    "put QuantizeLinear and DequantizeLinear before it",
                )
            return channel_affine(
                builder, node, value, factor_of(vector, position), offset_of(vector, position)
            )
    return None


def binary_operands(builder: Builder, node: NodeView) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names of the two quantised operands, and the broadcast shape."""
    names = []
    for index, value in enumerate(node.values):
        if isinstance(value, Const):
            if value.ints is None or value.ints.dtype != np.int8 or value.scale.size != 1:
                raise QuantiseError(
                    "quantise",
                    node.name,
                    f"constant {node.proto.input[index]!r} must be int8 or uint8 with one scale",
                    "quantise it per tensor",
                )
            names.append(
                builder.constant(
                    node.proto.input[index], value.ints, value.scale.item(), int(value.zero.item())
                )
            )
        else:
            names.append(operand(node, index).tensor)
    try:
        shape = np.broadcast_shapes(*(value.shape for value in node.values))
    except ValueError as error:
        raise UnsupportedError(
            "import",
            node.name,
            f"shapes {[v.shape for v in node.values]} do not broadcast",
            "correct the model",
        ) from error
    return tuple(names), tuple(shape)
