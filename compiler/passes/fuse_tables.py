"""Let the operator before a table apply it, where nothing else reads what lies between."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np

from systolith.reference.average_pool import AveragePool
from systolith.reference.conv import Conv
from systolith.reference.elementwise import Add, Lookup, Mul
from systolith.reference.graph import Op, QGraph
from systolith.reference.matmul import MatMul
from systolith.reference.max_pool import MaxPool

__all__ = ["fuse_tables"]


def _joined(first: np.ndarray | None, second: np.ndarray) -> np.ndarray:
    return second if first is None else second[first.astype(np.uint8)]


def _with_table(op: Op, table: np.ndarray) -> Op | None:
    if isinstance(op, (Conv, MatMul)):
        return replace(op, requant=replace(op.requant, table=_joined(op.requant.table, table)))
    if isinstance(op, AveragePool):
        return replace(
            op,
            requants={
                count: replace(requant, table=_joined(requant.table, table))
                for count, requant in op.requants.items()
            },
        )
    if isinstance(op, (Add, Mul, MaxPool, Lookup)):
        return replace(op, table=_joined(op.table, table))
    return None


def fuse_tables(graph: QGraph) -> QGraph:
    """The same graph with fewer Lookup nodes: exact, since the operator's int8 result indexes the table
    either way."""
    nodes = list(graph.nodes)
    tensors = dict(graph.tensors)
    for lookup in [node for node in graph.nodes if isinstance(node.op, Lookup)]:
        at = next(index for index, node in enumerate(nodes) if node.output == lookup.output)
        lookup = nodes[at]
        between = lookup.inputs[0]
        before = next((index for index, node in enumerate(nodes) if node.output == between), None)
        if (
            before is None
            or between in graph.outputs
            or sum(name == between for node in nodes for name in node.inputs) != 1
        ):
            continue
        op = _with_table(nodes[before].op, lookup.op.table)
        if op is None:
            continue
        sources = tuple(dict.fromkeys((*nodes[before].sources, *lookup.sources)))
        nodes[before] = replace(nodes[before], op=op, output=lookup.output, sources=sources)
        del nodes[at]
        del tensors[between]
    return dataclasses.replace(graph, nodes=tuple(nodes), tensors=tensors)
