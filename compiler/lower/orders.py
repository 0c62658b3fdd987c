"""What the readers of a tensor want of its order in memory."""

from __future__ import annotations

from systolith.compiler.base.layout import row_major
from systolith.compiler.lower.registry import Axes, rule_of
from systolith.reference.graph import QGraph, QNode

__all__ = ["input_orders", "read_flattened"]


def input_orders(graph: QGraph) -> dict[str, Axes]:
    """The order in which each graph input serves its first reader without a copy."""
    readers: dict[str, list[QNode]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)

    def wanted(name: str) -> Axes:
        shape = graph.tensors[name].shape
        for node in readers.get(name, ()):
            rule = rule_of(node)
            order = rule.order.axes(shape)
            if order is not None:
                return order
            after = wanted(node.output)
            if rule.wants is not None:
                return rule.wants(node.op, shape, after)
            if graph.tensors[node.output].shape == shape:
                return after
        return row_major(shape)

    return {name: wanted(name) for name in graph.inputs}


def read_flattened(graph: QGraph, name: str) -> bool:
    """Every path from the tensor leads, through operators whose result lies alike, to one that reads it in a
    flattened order, and it is no output."""
    readers = [node for node in graph.nodes if name in node.inputs]
    return (
        bool(readers)
        and name not in graph.outputs
        and all(
            rule_of(node).flattened or (rule_of(node).alike and read_flattened(graph, node.output))
            for node in readers
        )
    )
