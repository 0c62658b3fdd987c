"""Add and Sub."""

from __future__ import annotations

import numpy as np

from systolith.compiler.base.errors import QuantiseError
from systolith.compiler.ops.arithmetic import special_case
from systolith.compiler.ops.operands import shapes_broadcast, tensor_of, unchanged
from systolith.compiler.ops.registry import NodeView, register
from systolith.compiler.ops.values import Builder, Pending, Value
from systolith.reference.add import Add
from systolith.spec import numerics

__all__ = ["convert_add", "sum_of"]


@register("Add", "Sub", constraints=(shapes_broadcast,))
def convert_add(builder: Builder, node: NodeView) -> Value:
    """A sum or difference; a constant is folded into the weighted sum before it where there is one."""
    sign = -1.0 if node.op_type == "Sub" else 1.0
    same = unchanged(node, 0.0, (1,) if sign < 0 else (0, 1))
    if same is not None:
        return same
    special = special_case(
        builder,
        node,
        lambda c, at: np.full(c.shape, sign if at == 0 else 1.0),
        lambda c, at: c * (sign if at == 1 else 1.0),
    )
    if special is not None:
        return special
    return sum_of(builder, node, (tensor_of(builder, node, 0), tensor_of(builder, node, 1)), 1.0, sign)


def sum_of(builder: Builder, node: NodeView, names: tuple[str, str], first: float, second: float) -> Pending:
    """``first * a + second * b`` of two tensors, broadcast, that waits for the scale of its result."""
    a, b = (builder.tensors[name] for name in names)

    def build(scale: float, zero: int, low: int, high: int) -> Add:
        try:
            a_mult, b_mult, shift = numerics.approximate_pair(
                first * a.scale / scale, second * b.scale / scale
            )
        except numerics.ScaleError as error:
            raise QuantiseError(
                "quantise", node.name, str(error), "quantise with scales closer to each other"
            ) from error
        return Add(
            a_zero=a.zero_point,
            b_zero=b.zero_point,
            a_mult=a_mult,
            b_mult=b_mult,
            shift=shift,
            zero=zero,
            low=low,
            high=high,
        )

    return Pending(
        node=node.name,
        op_type=node.op_type,
        shape=tuple(np.broadcast_shapes(a.shape, b.shape)),
        build=build,
        inputs=names,
        sources=(node.name,),
    )
