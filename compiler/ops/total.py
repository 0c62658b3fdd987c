"""Sum and Mean of any number of tensors: one addition after another, what lies between in the format that
holds every partial sum."""

from __future__ import annotations

from systolith.compiler.ops.add import sum_of
from systolith.compiler.ops.lookup import as_table
from systolith.compiler.ops.operands import bounds, broadcast_shape, fitting, shapes_broadcast, tensor_of
from systolith.compiler.ops.registry import NodeView, register
from systolith.compiler.ops.values import Builder, Value

__all__ = ["convert_total"]


@register("Sum", "Mean", constraints=(shapes_broadcast,))
def convert_total(builder: Builder, node: NodeView) -> Value:
    """A sum that waits for the scale of its result."""
    if len(node.values) == 1:
        return node.values[0]
    node = node.settled()
    table = as_table(node)
    if table is not None:
        return table
    factor = 1.0 / len(node.values) if node.op_type == "Mean" else 1.0
    names = [tensor_of(builder, node, index) for index in range(len(node.values))]
    low, high = bounds(builder, names[0])
    made = names[0]
    for at, name in enumerate(names[1:-1], 1):
        more = bounds(builder, name)
        low, high = low + more[0], high + more[1]
        pending = sum_of(builder, node, (made, name), 1.0, 1.0)
        made = builder.quantise(pending, node.name, f"{node.outputs[0]}_{at}", *fitting(low, high))
    pending = sum_of(builder, node, (made, names[-1]), factor, factor)
    assert pending.shape == broadcast_shape(node)
    return pending
