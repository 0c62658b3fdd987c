"""Let the operator before a table apply it, where nothing else reads what lies between."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

from systolith.reference.graph import QGraph

__all__ = ["fuse_tables"]


def fuse_tables(graph: QGraph) -> QGraph:
    """The same graph with fewer nodes that are tables alone: exact, since the operator's int8 result
    indexes the table either way."""
    nodes = list(graph.nodes)
    tensors = dict(graph.tensors)
    for lookup in [node for node in graph.nodes if node.op.as_table is not None]:
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
        table = lookup.op.as_table
        op = None if table is None else nodes[before].op.with_table(table)
        if op is None:
            continue
        sources = tuple(dict.fromkeys((*nodes[before].sources, *lookup.sources)))
        nodes[before] = replace(nodes[before], op=op, output=lookup.output, sources=sources)
        del nodes[at]
        del tensors[between]
    return dataclasses.replace(graph, nodes=tuple(nodes), tensors=tensors)
