"""What a core gains from a region, and what does not fit it.

A region costs the transfers of what it reads and gives; what it saves is the host's time for its nodes. One
that costs more than it saves stays where its neighbours are. A single node that does not fit a core, even cut
into the smallest pieces, runs on the host like any other that the core cannot run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from systolith.compiler.base.constants import Constants
from systolith.compiler.base.errors import CompileError, UnsupportedError
from systolith.compiler.lower import lower_graph
from systolith.compiler.regions import CoreRegion, Region
from systolith.compiler.walked import Walk
from systolith.reference.graph import QGraph, QNode
from systolith.spec.arch import ArchConfig
from systolith.spec.costs import HOST_MACS_PER_CYCLE, HOST_NODE_CYCLES, HOST_STEP_CYCLES

__all__ = ["unfitting", "unworthy"]


def unworthy(walked: Walk, regions: Sequence[Region], arch: ArchConfig) -> dict[str, CompileError]:
    """Nodes of the model that had better run on the host -> why.

    The core keeps its products, however small, where nothing else would be left on it.
    """
    found = [
        (component, _gain(walked, component, arch))
        for region in regions
        if isinstance(region, CoreRegion)
        for component in _components(region.nodes)
    ]
    if not any(isinstance(region, CoreRegion) for region in regions) or len(regions) == 1:
        # A whole model, or none of it: there is no neighbour to stay with.
        return {} if any(not node.op.moves_only for node in walked.nodes) else _moved(walked, found)
    total = sum(_macs(walked, component) for component, _ in found)
    losers = [(component, gain) for component, gain in found if gain < 0]
    kept = total - sum(_macs(walked, component) for component, _ in losers)
    if not kept:
        # Something must stay: what has products does, or where there are none, what computes.
        losers = [
            (component, gain)
            for component, gain in losers
            if not (_macs(walked, component) if total else any(not node.op.moves_only for node in component))
        ]
    return _moved(walked, losers)


def _moved(walked: Walk, losers: Iterable[tuple[list[QNode], float]]) -> dict[str, CompileError]:
    moved: dict[str, CompileError] = {}
    staying = {name for node in walked.nodes for name in node.sources}
    going: set[str] = set()
    reasons: dict[str, str] = {}
    for component, _ in losers:
        size = sum(_bytes(walked, name) for name in _crossing(walked, component))
        for node in component:
            for name in node.sources:
                going.add(name)
                reasons[name] = (
                    f"it stays with its neighbours on the host: {size:,} bytes to and from the core would "
                    "cost more than they save"
                )
    outside = {
        name
        for node in walked.nodes
        if not any(node in component for component, _ in losers)
        for name in node.sources
    }
    for name in going & staying - outside:
        if name in walked.model.by_name:
            moved[name] = UnsupportedError("import", name, reasons[name])
    return moved


def unfitting(
    walked: Walk, arch: ArchConfig, known: dict[str, CompileError | None]
) -> dict[str, CompileError]:
    """Nodes of the model that do not fit a core even alone -> why; `known` keeps what was found before, by
    the node's result."""
    found: dict[str, CompileError] = {}
    for node in walked.nodes:
        size = sum(_bytes(walked, name) for name in {*node.inputs, node.output})
        if size * 2 <= arch.act_bytes and not node.op.stateful:
            continue
        if node.output not in known:
            known[node.output] = _misfit(walked, node, arch)
        error = known[node.output]
        if error is not None:
            for name in node.sources:
                if name in walked.model.by_name:
                    found[name] = error
    return found


def _misfit(walked: Walk, node: QNode, arch: ArchConfig) -> CompileError | None:
    given = tuple(dict.fromkeys(name for name in node.inputs if walked.tensors[name].data is None))
    alone = QGraph(
        name="alone",
        tensors={name: walked.tensors[name] for name in (*node.inputs, node.output)},
        nodes=(node,),
        inputs=given,
        outputs=(node.output,),
    )
    offsets, end = {}, 0
    for name in (*given, node.output):
        offsets[name] = end
        end += -(-_bytes(walked, name) // 16) * 16
    try:
        lower_graph(alone, arch, Constants(arch), offsets, end)
    except CompileError as error:
        return error
    return None


def _components(nodes: Sequence[QNode]) -> list[list[QNode]]:
    """Nodes that hang together through tensors that they compute."""
    group: dict[str, int] = {}
    members: dict[int, list[QNode]] = {}
    for node in nodes:
        joined = sorted({group[name] for name in node.inputs if name in group})
        target = joined[0] if joined else len(members) and max(members) + 1
        members.setdefault(target, [])
        for other in joined[1:]:
            for member in members.pop(other):
                members[target].append(member)
                group[member.output] = target
        members[target].append(node)
        group[node.output] = target
    return list(members.values())


def _gain(walked: Walk, component: Sequence[QNode], arch: ArchConfig) -> float:
    """Cycles that the core saves by a component; less than nothing where it costs some."""
    macs, size = _macs(walked, component), sum(_bytes(walked, name) for name in _crossing(walked, component))
    work = sum(_bytes(walked, node.output) for node in component)
    # What only moves elements changes the layout, byte by byte; anything else gives some in a cycle.
    busy = sum(_bytes(walked, node.output) / (1 if node.op.moves_only else arch.lanes) for node in component)
    sources = {name for node in component for name in node.sources}
    on_host = HOST_NODE_CYCLES * len(sources) + macs / HOST_MACS_PER_CYCLE + work / HOST_MACS_PER_CYCLE
    on_core = macs / arch.macs_per_cycle + busy + size / arch.bus_bytes
    # Products are what a core is for; without any, what it saves must pay for a step of its own, and for
    # the accuracy that integers cost.
    return on_host - on_core - (0 if macs else HOST_STEP_CYCLES)


def _crossing(walked: Walk, component: Sequence[QNode]) -> set[str]:
    """Tensors that the host gives to a component or takes from it."""
    made = {node.output for node in component}
    read = {name for node in component for name in node.inputs}
    return (read & set(walked.entering)) | (made & set(walked.leaving))


def _macs(walked: Walk, component: Sequence[QNode]) -> int:
    return sum(node.op.macs(*(walked.tensors[name].shape for name in node.inputs)) for node in component)


def _bytes(walked: Walk, name: str) -> int:
    return math.prod(walked.tensors[name].shape)
