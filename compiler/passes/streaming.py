"""Streams: a recurrent layer continues where the run before ended."""

from __future__ import annotations

from dataclasses import replace

from systolith.compiler.base.errors import UnsupportedError
from systolith.reference.graph import QGraph
from systolith.reference.plan import CorePart, Plan

__all__ = ["carry_states", "stream_plan"]


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
        raise _nothing_carried()
    return replace(graph, nodes=tuple(nodes))


def _nothing_carried() -> UnsupportedError:
    return UnsupportedError(
        "import",
        "",
        "the model has no recurrent layer whose state a stream could carry",
        "compile it without streaming",
    )


def stream_plan(plan: Plan) -> Plan:
    """The plan with every recurrent layer on the core carrying its state from run to run.

    Raises
    ------
    UnsupportedError   As `carry_states`.
    """
    steps = tuple(
        replace(step, graph=carry_states(step.graph))
        if isinstance(step, CorePart) and any(node.op.stateful for node in step.graph.nodes)
        else step
        for step in plan.steps
    )
    if all(after is before for after, before in zip(steps, plan.steps, strict=True)):
        raise _nothing_carried()
    return replace(plan, steps=steps)
