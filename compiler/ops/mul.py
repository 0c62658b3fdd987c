"""Mul."""

from __future__ import annotations

import numpy as np

from systolith.compiler.ops.arithmetic import special_case
from systolith.compiler.ops.operands import shapes_broadcast, tensor_of, unchanged
from systolith.compiler.ops.registry import NodeView, register
from systolith.compiler.ops.values import Builder, Pending, Value
from systolith.compiler.ops.weighted import scalar_requant
from systolith.reference.mul import Mul

__all__ = ["convert_mul", "product_of"]


@register("Mul", constraints=(shapes_broadcast,))
def convert_mul(builder: Builder, node: NodeView) -> Value:
    """A product; a constant is folded into the weighted sum before it where there is one."""
    same = unchanged(node, 1.0, (0, 1))
    if same is not None:
        return same
    special = special_case(builder, node, lambda c, at: c, lambda c, at: np.zeros(c.shape))
    if special is not None:
        return special
    return product_of(builder, node, (tensor_of(builder, node, 0), tensor_of(builder, node, 1)))


def product_of(builder: Builder, node: NodeView, names: tuple[str, str]) -> Pending:
    """The product of two tensors, broadcast, that waits for the scale of its result."""
    a, b = (builder.tensors[name] for name in names)

    def build(scale: float, zero: int, low: int, high: int) -> Mul:
        requant = scalar_requant(node, a.scale * b.scale / scale, zero, low, high)
        return Mul(
            a_zero=a.zero_point,
            b_zero=b.zero_point,
            a_mult=int(requant.mult[0]),
            shift=int(requant.shift[0]),
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
