"""Div by a constant, or of two functions of one tensor."""

from __future__ import annotations

import numpy as np

from systolith.compiler.base.errors import UnsupportedError
from systolith.compiler.ops.arithmetic import special_case
from systolith.compiler.ops.mul import product_of
from systolith.compiler.ops.operands import held, shapes_broadcast, tensor_of
from systolith.compiler.ops.registry import NodeView, register
from systolith.compiler.ops.values import Builder, Const, Value

__all__ = ["convert_div"]


def divisor_is_not_zero(node: NodeView) -> bool:
    """a constant divisor must not hold zeros."""
    divisor = node.values[1]
    return not isinstance(divisor, Const) or bool(np.all(divisor.array))


@register("Div", constraints=(shapes_broadcast, divisor_is_not_zero))
def convert_div(builder: Builder, node: NodeView) -> Value:
    """A product with the reciprocals of the constant, folded into the weighted sum before it where there is
    one."""
    special = special_case(
        builder, node, lambda c, at: 1.0 / c, lambda c, at: np.zeros(c.shape), positions=(1,)
    )
    if special is not None:
        return special
    divisor = node.values[1]
    if not isinstance(divisor, Const):
        raise UnsupportedError(
            "import",
            node.name,
            "Div of two computed tensors is not supported",
            "divide by a constant, or multiply",
        )
    reciprocal = held(builder, node, 1, Const((1.0 / divisor.real).astype(np.float32)))
    return product_of(builder, node, (tensor_of(builder, node, 0), reciprocal))
