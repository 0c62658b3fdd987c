"""Streams: a recurrent layer continues where the run before ended."""

from __future__ import annotations

from dataclasses import replace

from systolith.compiler.base.errors import UnsupportedError
from systolith.reference.graph import QGraph
from systolith.reference.recurrent import Recurrent

__all__ = ["carry_states"]


def carry_states(graph: QGraph, names: frozenset[str] | None = None) -> QGraph:
    """The graph with every recurrent layer, or those of the model's nodes `names`, carrying its state from
    run to run.

    Raises
    ------
    UnsupportedError   If there is no recurrent layer, or one runs from the end of the sequence.
    """
    nodes = []
    for node in graph.nodes:
        if isinstance(node.op, Recurrent) and (names is None or names.intersection(node.sources)):
            if node.op.reverse:
                raise UnsupportedError(
                    "import",
                    node.name,
                    "it runs from the end of the sequence, which a stream does not have",
                    "compile the model without streaming",
                )
            node = replace(node, op=replace(node.op, carried=True))
        nodes.append(node)
    if not any(node.op.carried for node in nodes):
        raise UnsupportedError(
            "import",
            "",
            "the model has no recurrent layer whose state a stream could carry",
            "compile it without streaming",
        )
    return replace(graph, nodes=tuple(nodes))
