"""Let the window behind a padding hold the padding itself, where nothing else reads what lies between."""

from __future__ import annotations

from dataclasses import replace

from systolith.reference.graph import QGraph, QNode

__all__ = ["fuse_pads"]


def fuse_pads(graph: QGraph) -> QGraph:
    """The same graph with fewer paddings: exact, where the window's own padding has the same code."""
    readers: dict[str, list[QNode]] = {}
    for node in graph.nodes:
        for name in dict.fromkeys(node.inputs):
            readers.setdefault(name, []).append(node)
    tensors, gone, changed = dict(graph.tensors), set(), {}
    for node in graph.nodes:
        pads = _spatial_pads(graph, node)
        behind = readers.get(node.output, [])
        if pads is None or node.output in graph.outputs or not behind:
            continue
        ops = [op for other in behind if (op := other.op.padded(pads, node.op.fill)) is not None]
        if len(ops) < len(behind):
            continue
        for other, op in zip(behind, ops, strict=True):
            sources = tuple(dict.fromkeys((*node.sources, *other.sources)))
            changed[other.name] = replace(other, op=op, inputs=node.inputs, sources=sources)
        gone.add(node.name)
        del tensors[node.output]
    nodes = tuple(changed.get(node.name, node) for node in graph.nodes if node.name not in gone)
    return replace(graph, nodes=nodes, tensors=tensors)


def _spatial_pads(graph: QGraph, node: QNode) -> tuple[int, int, int, int] | None:
    """(top, left, bottom, right) of a node that pads the spatial axes alone."""
    shape = graph.tensors[node.inputs[0]].shape
    pads = node.op.only_pads(shape) if len(shape) in (3, 4) else None
    if pads is None or pads[0] != (0, 0) or pads[1] != (0, 0):
        return None
    (top, bottom), (left, right) = pads[2:] if len(shape) == 4 else ((0, 0), pads[2])
    return top, left, bottom, right
