"""Max and Min of any number of tensors: they commute with quantisation, so each operand gets the format of
the result first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from systolith.compiler.ops.lookup import as_table
from systolith.compiler.ops.operands import broadcast_shape, shapes_broadcast, spread
from systolith.compiler.ops.reduce import REVERSED
from systolith.compiler.ops.registry import NodeView, register
from systolith.compiler.ops.values import Builder, Const, Pending, Value
from systolith.reference.graph import Op
from systolith.reference.lookup import Lookup
from systolith.reference.maximum import Maximum

__all__ = ["convert_extremes"]


@register("Max", "Min", constraints=(shapes_broadcast,))
def convert_extremes(builder: Builder, node: NodeView) -> Value:
    """A table, limits of the sum before, or one instruction per two tensors."""
    table = as_table(node)
    if table is not None:
        return table
    shape, least = broadcast_shape(node), node.op_type == "Min"
    numbers = [value for value in node.values if isinstance(value, Const) and value.array.size == 1]
    others = [value for value in node.values if not any(value is number for number in numbers)]
    if len(others) == 1 and isinstance(others[0], Pending) and others[0].shape == shape:
        limits = [float(value.real.item()) for value in numbers]
        clamp = (-np.inf, min(limits)) if least else (max(limits), np.inf)
        value = others[0]
        return replace(value, clamps=(*value.clamps, clamp), sources=(*value.sources, node.name), linear=None)
    if len(node.values) == 1:
        return node.values[0]
    settled = node.settled()
    table = as_table(settled) if settled.values != node.values else None
    if table is not None:
        return table
    result = node.outputs[0]
    parts = [
        spread(builder, node, value, shape, f"{result}_operand{at}") for at, value in enumerate(node.values)
    ]

    def compose(builder: Builder, name: str, scale: float, zero: int, low: int, high: int) -> str:
        tensors = []
        for at, part in enumerate(parts):
            tensor = builder.quantise(part, node.name, f"{name}_part{at}", scale, zero)
            data = builder.tensors[tensor].data
            if least and data is not None:
                opposite = REVERSED[data.astype(np.uint8)]
                tensor = builder.constant(f"{name}_reversed{at}", opposite, scale, zero)
            elif least:
                tensor = append(Lookup(table=REVERSED), (tensor,), f"{name}_reversed{at}", "Lookup")
            tensors.append(tensor)
        limits = np.clip(np.arange(256).astype(np.uint8).view(np.int8), low, high).astype(np.int8)
        # Back from the opposite order, where it is that, and within the limits that follow.
        last = limits[REVERSED.astype(np.uint8)] if least else limits
        last = None if np.array_equal(last.astype(np.uint8), np.arange(256)) else last
        made = tensors[0]
        for at, tensor in enumerate(tensors[1:], 1):
            end = at == len(tensors) - 1
            op = Maximum(table=last if end else None)
            made = append(op, (made, tensor), name if end else f"{name}_{at}", node.op_type)
        return made

    def append(op: Op, inputs: tuple[str, ...], name: str, kind: str) -> str:
        first = builder.tensors[inputs[0]]
        return builder.append(
            node.name, op, inputs, name, shape, first.scale, first.zero_point, kind, (node.name,)
        )

    return Pending(
        node=node.name,
        op_type=node.op_type,
        shape=shape,
        build=None,
        inputs=(),
        sources=(node.name,),
        compose=compose,
    )
