"""Concat: each operand is brought to the scale and zero point of the result by a table, where they differ."""

from __future__ import annotations

from dataclasses import replace

from systolith.compiler.base.errors import QuantiseError, UnsupportedError
from systolith.compiler.ops.registry import NodeView, register
from systolith.compiler.ops.values import Builder, FloatInput, Pending, Quant, Value
from systolith.reference.concat import Concat

__all__ = ["convert_concat"]


def shapes_agree(node: NodeView) -> bool:
    """all operands must have the same extents outside the joined axis."""
    ranks = {len(value.shape) for value in node.values}
    if len(ranks) != 1 or not -ranks.copy().pop() <= node.attrs["axis"] < ranks.copy().pop():
        return False
    axis = node.attrs["axis"] % ranks.pop()
    return len({value.shape[:axis] + value.shape[axis + 1 :] for value in node.values}) == 1


@register("Concat", attributes=("axis",), constraints=(shapes_agree,), moves=True)
def convert_concat(builder: Builder, node: NodeView) -> Value:
    """Operands that wait for the scale of the result."""
    axis = node.attrs["axis"] % len(node.values[0].shape)
    shape = list(node.values[0].shape)
    shape[axis] = sum(value.shape[axis] for value in node.values)
    op = Concat(axis=axis)
    if node.in_float and node.demand is not None:
        # An input of the model has its format before it is joined; results may take the joined one's.
        demand = node.demand
        values = (
            (demand(index) or value) if isinstance(value, FloatInput) else value
            for index, value in enumerate(node.values)
        )
        node = replace(node, values=tuple(values))
    if any(isinstance(value, FloatInput) for value in node.values):
        raise UnsupportedError(
            "import", node.name, "an operand of Concat is a float input", "quantise the input first"
        )
    if all(isinstance(value, Quant) for value in node.values):
        tensors = [builder.tensors[value.tensor] for value in node.values]
        if len({(tensor.scale, tensor.zero_point) for tensor in tensors}) != 1:
            raise QuantiseError(
                "quantise",
                node.name,
                "Concat joins integers of different scales or zero points",
                "dequantise before Concat",
            )
        name = builder.append(
            node.name,
            op,
            tuple(value.tensor for value in node.values),
            node.outputs[0],
            tuple(shape),
            tensors[0].scale,
            tensors[0].zero_point,
            "Concat",
            (node.name,),
        )
        return Quant(name, tuple(shape), node.values[0].unsigned)
    return Pending(
        node=node.name,
        op_type="Concat",
        shape=tuple(shape),
        build=lambda scale, zero, low, high: op,
        inputs=(),
        sources=(node.name,),
        parts=node.values,
    )
