"""Steps: nodes of the core and of the host in an order in which both run as much as they can at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from systolith.compiler.base.model import Node
from systolith.compiler.walked import Walk
from systolith.reference.graph import QNode

__all__ = ["CoreRegion", "HostRegion", "Region", "needs", "schedule"]


@dataclass(frozen=True, kw_only=True)
class CoreRegion:
    """Quantised nodes that run in one step, in topological order."""

    nodes: tuple[QNode, ...]


@dataclass(frozen=True, kw_only=True)
class HostRegion:
    """Nodes of the model that run in one step, in topological order; and the nodes of constants alone that
    they need."""

    nodes: tuple[Node, ...]
    constant: tuple[Node, ...]


Region = CoreRegion | HostRegion


def needs(walked: Walk) -> tuple[list[Node], dict[str, list[Node]]]:
    """The nodes of the host, and for each the nodes that depend on constants alone and that it reads."""
    model = walked.model
    # Nodes whose results are all constants are no work: each step that reads them has its own.
    free = {
        node.name
        for node in model.nodes
        if node.name not in walked.refused and all(name in walked.held for name in node.outputs if name)
    }
    hosted = [
        node
        for node in model.nodes
        if (node.name in walked.refused or node.name in walked.both) and node.name not in free
    ]
    return hosted, {node.name: _constant_nodes(walked, node.reads, free) for node in hosted}


def _constant_nodes(walked: Walk, names: Iterable[str], free: set[str]) -> list[Node]:
    found: dict[str, Node] = {}
    waiting = list(names)
    for name in waiting:
        node = walked.model.producer.get(name)
        if node is not None and node.name in free and node.name not in found:
            found[node.name] = node
            waiting += node.reads
    return list(found.values())


def schedule(walked: Walk) -> tuple[Region, ...]:
    """Regions in an order in which each finds what it reads; as few as possible.

    Whoever has something to do does all that it can before the other's turn, so the number of turns is the
    largest number of changes on any path; both ways to begin are tried.
    """
    hosted, constant = needs(walked)
    before = _dependencies(walked, hosted)
    turns = [_turns(walked, hosted, before, host_first) for host_first in (True, False)]
    chosen = min(turns, key=len)
    order = {node.name: index for index, node in enumerate(walked.model.nodes)}
    regions: list[Region] = []
    for turn in chosen:
        if isinstance(turn[0], QNode):
            regions.append(CoreRegion(nodes=tuple(turn)))
            continue
        needed = {node.name: node for one in turn for node in constant[one.name]}
        regions.append(
            HostRegion(
                nodes=tuple(turn), constant=tuple(sorted(needed.values(), key=lambda node: order[node.name]))
            )
        )
    return tuple(regions)


def _dependencies(walked: Walk, hosted: Sequence[Node]) -> dict[tuple[str, str], set[tuple[str, str]]]:
    """For each node, ("core" or "host", name), those that must run before it."""
    by_host = {name: node.name for node in hosted for name in node.outputs if name}
    by_core = {node.output: node.name for node in walked.nodes}
    before: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for node in walked.nodes:
        before["core", node.name] = {
            ("core", by_core[name]) if name in by_core else ("host", by_host[name])
            for name in node.inputs
            if name in by_core or name in by_host
        }
    for node in hosted:
        before["host", node.name] = {
            ("host", by_host[name]) if name in by_host else ("core", by_core[name])
            for name in node.reads
            if name in by_host or name in walked.leaving
        }
    return before


def _turns(
    walked: Walk,
    hosted: Sequence[Node],
    before: Mapping[tuple[str, str], set[tuple[str, str]]],
    host_first: bool,
) -> list[list[QNode] | list[Node]]:
    waiting = {"core": list(walked.nodes), "host": list(hosted)}
    done: set[tuple[str, str]] = set()
    turns: list[list[QNode] | list[Node]] = []
    where = "host" if host_first else "core"
    idle = 0
    while waiting["core"] or waiting["host"]:
        ready, rest = [], []
        for node in waiting[where]:
            if before[where, node.name] <= done:
                ready.append(node)
                done.add((where, node.name))
            else:
                rest.append(node)
        waiting[where] = rest
        if ready:
            turns.append(ready)
            idle = 0
        else:
            idle += 1
            assert idle < 2, "a cycle between core and host"
        where = "core" if where == "host" else "host"
    return turns
