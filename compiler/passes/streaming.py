"""Streams: a recurrent layer continues where the run before ended."""

from __future__ import annotations

from dataclasses import replace

from systolith.compiler.base.errors import UnsupportedError
from systolith.reference.graph import QGraph

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
        if node.op.stateful and (names is None or names.intersection(node.sources)):
            try:
                node = replace(node, op=node.op.carrying())
            except ValueError as error:
                raise UnsupportedError(
                    "import", node.name, str(error), "compile the model without streaming"
                ) from error
        nodes.append(node)
    if not any(node.op.carried for node in nodes):
        raise UnsupportedError(
            "import",
            "",
            "the model has no recurrent layer whose state a stream could carry",
            "compile it without streaming",
        )
    return replace(graph, nodes=tuple(nodes))
