"""Walk the graph: place tensors, bring operands into the order each rule needs, and apply the rule."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from systolith.compiler.base.arena import Arena
from systolith.compiler.base.constants import Constants
from systolith.compiler.base.errors import AllocationError
from systolith.compiler.base.layout import Layout, same_bytes
from systolith.compiler.lower.context import Lowering, Place
from systolith.compiler.lower.operands import bring
from systolith.compiler.lower.orders import input_orders
from systolith.compiler.lower.pieces import relay
from systolith.compiler.lower.registry import Temporary, rule_of
from systolith.reference.graph import QGraph, QNode
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Region, Space
from systolith.spec.memory import FULL_RATE, MemoryTiming

__all__ = ["lower_graph"]

#: Beats of a transfer that is worth cutting into pieces.
_LONG = 256


def lower_graph(
    graph: QGraph,
    arch: ArchConfig,
    constants: Constants,
    io_offsets: dict[str, int],
    scratch: int,
    external: frozenset[str] = frozenset(),
    memory: MemoryTiming = FULL_RATE,
    states: dict[str, int] | None = None,
    part: int = 0,
    given: Mapping[str, Layout] | None = None,
) -> tuple[Lowering, dict[str, Layout]]:
    """Instructions (without tokens) of the run stream, HALT included, and the layouts of inputs and outputs.

    Tensors stay on chip as long as they fit. Where one does not, the largest of those alive moves to external
    memory, and the walk begins again.

    Parameters
    ----------
    io_offsets : dict of name -> int   where each input and output stands in the DATA region
    scratch : int                      where scratch begins in the DATA region
    external : set of names            tensors that are known not to fit
    memory : MemoryTiming              for which the program is made
    states : dict of name -> int       where what a node leaves for the next run stands in the DATA region
    part : int                         which core step of the plan the graph is
    given : dict of name -> Layout     how tensors lie that an earlier core step reads or gives

    Raises
    ------
    AllocationError   If something does not fit although every tensor of its node is external.
    """
    external |= _streamed(graph, arch)
    while True:
        constants.begin()
        low = Lowering(
            graph=graph,
            arch=arch,
            constants=constants,
            io_offsets=io_offsets,
            external=external,
            memory=memory,
            states=states or {},
            part=part,
            act=Arena(0, arch.act_bytes, arch.act_width, arch.act_block_bytes),
            scratch=Arena(scratch, 1 << 32, 16),
        )
        try:
            return low, _walk(low, graph, given or {})
        except AllocationError:
            victim = _largest(low, graph)
            if victim is None:
                raise
            external |= {victim}


def _streamed(graph: QGraph, arch: ArchConfig) -> frozenset[str]:
    """Long inputs and outputs that a single convolution or pooling touches: their transfer overlaps its
    work."""
    streamed = set()
    for name in (*graph.inputs, *graph.outputs):
        touching = [node for node in graph.nodes if name in (*node.inputs, node.output)]
        while len(touching) == 1 and rule_of(touching[0]).relabels and name in graph.inputs:
            # The same bytes under another name.
            touching = [node for node in graph.nodes if touching[0].output in node.inputs]
        if (
            len(touching) == 1
            and rule_of(touching[0]).streams
            and np.prod(graph.tensors[name].shape) >= _LONG * arch.bus_bytes
        ):
            streamed.add(name)
    return frozenset(streamed)


def _largest(low: Lowering, graph: QGraph) -> str | None:
    """The largest tensor on chip that the current node reads, writes, or leaves alive, by the name under
    which it was placed."""
    on_chip = [name for name, place in low.places.items() if not place.external]
    on_chip += [low.result] if low.node is not None else graph.inputs
    aliases = {node.output: node.inputs[0] for node in graph.nodes if rule_of(node).relabels}
    best, size = None, 0
    for name in on_chip:
        while name in aliases:
            name = aliases[name]
        tensor = graph.tensors[name]
        if tensor.data is None and name not in low.external and np.prod(tensor.shape) > size:
            best, size = name, int(np.prod(tensor.shape))
    return best


def _walk(low: Lowering, graph: QGraph, given: Mapping[str, Layout]) -> dict[str, Layout]:
    io_offsets = low.io_offsets
    layouts: dict[str, Layout] = {}
    readers = {name: sum(node.inputs.count(name) for node in graph.nodes) for name in graph.tensors}
    for name, order in input_orders(graph).items():
        layouts[name] = given.get(name) or Layout(order=order)
        if not readers[name]:
            continue
        if name in low.external:
            size = int(np.prod(graph.tensors[name].shape, dtype=np.int64))
            low.places[name] = Place(
                address=io_offsets[name], bytes=size, layout=layouts[name], external=True
            )
            low.outside.append((name, low.places[name]))
        else:
            place = low.place(name, layouts[name])
            low.emit(
                "LOAD",
                space=Space.ACT,
                region=Region.DATA,
                offset=io_offsets[name],
                bytes=place.bytes,
                base=place.address,
            )
    for index, node in enumerate(graph.nodes):
        if node.output in low.places:
            # Its producer has computed it already, by way of a chain.
            _retire(low, graph, node, readers, layouts, index)
            continue
        low.node, low.owner = node, index
        following = _chained(low, graph, index)
        if following is not None:
            low.chained_output = following.output
        temporary = _lower_node(low)
        for address, size in temporary:
            low.act.release(address, size)
        chained, low.chain, low.chained_output = low.chained_output, None, None
        if chained is None:
            _retire(low, graph, node, readers, layouts, index)
        else:
            _forget(low, node.inputs, readers)
    low.node, low.owner = None, -1
    low.emit("HALT")
    return layouts


def _forget(low: Lowering, names: tuple[str, ...], readers: dict[str, int]) -> None:
    """These tensors have been read once more; drop those that nobody reads again."""
    for name in names:
        readers[name] -= 1
        if not readers[name] and name in low.places:
            low.drop(name)


def _retire(
    low: Lowering, graph: QGraph, node: QNode, readers: dict[str, int], layouts: dict[str, Layout], index: int
) -> None:
    """The node's result stands: store it if it is an output, and drop what has had its last reader."""
    if node.output in graph.outputs:
        low.owner = -1
        layouts[node.output] = _store(low, graph, node.output)
        low.owner = index
    _forget(low, node.inputs, readers)
    if not readers[node.output]:
        low.drop(node.output)


def _chained(low: Lowering, graph: QGraph, index: int) -> QNode | None:
    """The node that may take this node's result straight from OUTPUT: its only reader, with the other operand
    at hand and alike."""
    node = graph.nodes[index]
    rule = rule_of(node)
    if not rule.chains or node.output in graph.outputs:
        return None
    readers = [other for other in graph.nodes if node.output in other.inputs]
    if len(readers) != 1 or readers[0].inputs.count(node.output) != 1:
        return None
    following = readers[0]
    joins = rule_of(following).joins
    if joins is None:
        return None
    swapped = following.inputs[1] == node.output
    other = following.inputs[0 if swapped else 1]
    shape = graph.tensors[node.output].shape
    order = rule.order.axes(shape)
    place = low.places.get(other)
    if (
        place is None
        or graph.tensors[other].shape != shape
        or place.layout.flatten is not None
        or not same_bytes(place.layout.order, order, shape)
    ):
        return None
    low.chain = joins(low, following.op, other, swapped)
    return following


def _store(low: Lowering, graph: QGraph, name: str) -> Layout:
    """Bring an output to its place in the DATA region."""
    place, offset = low.places[name], low.io_offsets[name]
    if place.layout.flatten is not None:
        raise AssertionError(f"output {name} lies in a flattened order")
    if not place.external:
        low.emit("STORE", region=Region.DATA, offset=offset, bytes=place.bytes, base=place.address)
    elif place.address != offset:
        relay(low, [place.bytes], (place.address, [1]), (offset, [1]))
    return place.layout


def _lower_node(low: Lowering) -> Temporary:
    """Emit one node; returns the temporary ranges to release."""
    node, tensors = low.node, low.graph.tensors
    rule = rule_of(node)
    first = node.inputs[0]
    order = rule.order.axes(tensors[first].shape)
    if order is not None:
        if low.places[first].layout.flatten is None or not rule.flattened:
            bring(low, first, order)
        low.place(low.result, Layout(order=rule.order.axes(tensors[node.output].shape)))
    return rule.emit(low, node.op) or []
