"""PRelu with a slope of any shape: what is not negative, plus the slope times what is."""

from __future__ import annotations

import numpy as np

from systolith.compiler.ops.add import sum_of
from systolith.compiler.ops.lookup import as_table
from systolith.compiler.ops.mul import product_of
from systolith.compiler.ops.operands import bounds, fitting, shapes_broadcast, tensor_of
from systolith.compiler.ops.registry import NodeView, operand, register
from systolith.compiler.ops.values import Builder, Value
from systolith.reference.lookup import Lookup

__all__ = ["convert_prelu"]


@register("PRelu", constraints=(shapes_broadcast,))
def convert_prelu(builder: Builder, node: NodeView) -> Value:
    """A table where the slope is one number."""
    node = node.settled()
    table = as_table(node)
    if table is not None:
        return table
    x = operand(node, 0)
    tensor, result = builder.tensors[x.tensor], node.outputs[0]
    codes = np.arange(256).astype(np.uint8).view(np.int8)
    halves = []
    for limit, label in ((np.maximum, "positive"), (np.minimum, "negative")):
        half = Lookup(table=limit(codes, np.int8(tensor.zero_point)))
        halves.append(
            builder.append(
                node.name,
                half,
                (x.tensor,),
                f"{result}_{label}",
                x.shape,
                tensor.scale,
                tensor.zero_point,
                "Lookup",
                (node.name,),
            )
        )
    slope = tensor_of(builder, node, 1)
    least = min(bounds(builder, x.tensor)[0], 0.0)
    ends = [least * edge for edge in bounds(builder, slope)]
    product = product_of(builder, node, (halves[1], slope))
    scaled = builder.quantise(product, node.name, f"{result}_scaled", *fitting(min(ends), max(ends)))
    return sum_of(builder, node, (halves[0], scaled), 1.0, 1.0)
