"""Walk the graph: place tensors, bring operands into the order each rule needs, and apply the rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from systolith.compiler.base.arena import Arena
from systolith.compiler.base.constants import Constants
from systolith.compiler.base.errors import AllocationError, UnsupportedError
from systolith.compiler.base.layout import (
    Layout,
    channels_last,
    input_orders,
    is_linear,
    only_matmuls_read,
    row_major,
    same_bytes,
)
from systolith.compiler.lower.context import Chain, Lowering, Place
from systolith.compiler.lower.conv import lower_average_pool, lower_conv, lower_matmul
from systolith.compiler.lower.elementwise import binary_operands, lower_binary, lower_lookup
from systolith.compiler.lower.pieces import Operand, relay
from systolith.compiler.lower.pool import lower_max_pool
from systolith.compiler.lower.recurrent import lower_recurrent
from systolith.compiler.lower.shape import flatten_order, lower_concat, lower_take, reorder
from systolith.reference.average_pool import AveragePool
from systolith.reference.conv import Conv
from systolith.reference.elementwise import Add, Lookup, Mul
from systolith.reference.graph import QGraph, QNode
from systolith.reference.matmul import MatMul
from systolith.reference.max_pool import MaxPool
from systolith.reference.recurrent import Recurrent
from systolith.reference.shape import Concat, Reshape, Take, Transpose
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Region, Space
from systolith.spec.memory import FULL_RATE, MemoryTiming

__all__ = ["lower_graph"]

#: Beats of a transfer that is worth cutting into pieces.
_LONG = 256
#: Rules whose input and output lie channels last.
_SPATIAL = {Conv: lower_conv, MaxPool: lower_max_pool, AveragePool: lower_average_pool}


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
        while len(touching) == 1 and isinstance(touching[0].op, Reshape | Transpose) and name in graph.inputs:
            # The same bytes under another name.
            touching = [node for node in graph.nodes if touching[0].output in node.inputs]
        if (
            len(touching) == 1
            and type(touching[0].op) in _SPATIAL
            and np.prod(graph.tensors[name].shape) >= _LONG * arch.bus_bytes
        ):
            streamed.add(name)
    return frozenset(streamed)


def _largest(low: Lowering, graph: QGraph) -> str | None:
    """The largest tensor on chip that the current node reads, writes, or leaves alive, by the name under
    which it was placed."""
    on_chip = [name for name, place in low.places.items() if not place.external]
    on_chip += [low.result] if low.node is not None else graph.inputs
    aliases = {
        node.output: node.inputs[0] for node in graph.nodes if isinstance(node.op, Reshape | Transpose)
    }
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
        temporary = _lower_node(low, graph)
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
    """The Add or Mul that may take this node's result straight from OUTPUT: its only reader, with the other
    operand at hand and alike."""
    node = graph.nodes[index]
    if not isinstance(node.op, Conv | MatMul) or node.output in graph.outputs:
        return None
    readers = [other for other in graph.nodes if node.output in other.inputs]
    if (
        len(readers) != 1
        or not isinstance(readers[0].op, Add | Mul)
        or readers[0].inputs.count(node.output) != 1
    ):
        return None
    following = readers[0]
    swapped = following.inputs[1] == node.output
    other = following.inputs[0 if swapped else 1]
    shape = graph.tensors[node.output].shape
    order = channels_last(shape) if isinstance(node.op, Conv) else row_major(shape)
    place = low.places.get(other)
    if (
        place is None
        or graph.tensors[other].shape != shape
        or place.layout.flatten is not None
        or not same_bytes(place.layout.order, order, shape)
    ):
        return None
    low.chain = Chain(
        mnemonic="ADD" if isinstance(following.op, Add) else "MUL",
        other=other,
        operands=binary_operands(low, following.op, swapped),
    )
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


def _lower_node(low: Lowering, graph: QGraph) -> list[tuple[int, int]]:
    """Emit one node; returns the temporary ranges to release."""
    node, op = low.node, low.node.op
    shape = graph.tensors[node.output].shape
    temporary: list[tuple[int, int]] = []

    def bring(name: str, order: tuple[int, ...]) -> None:
        """Make the tensor lie in this order, for this node and those after it."""
        place, extents = low.places[name], graph.tensors[name].shape
        if place.layout.flatten is None and same_bytes(place.layout.order, order, extents):
            return
        first = len(low.instrs)
        copy = reorder(low, name, order)
        low.drop(name)
        low.places[name] = copy
        if copy.external:
            low.outside.append((name, copy))
        else:
            low.reside(name, copy.address, order, first=first)

    if type(op) in _SPATIAL:
        bring(node.inputs[0], channels_last(graph.tensors[node.inputs[0]].shape))
        low.place(low.result, Layout(order=channels_last(shape)))
        _SPATIAL[type(op)](low, op)
    elif isinstance(op, MatMul):
        if low.places[node.inputs[0]].layout.flatten is None:
            bring(node.inputs[0], row_major(graph.tensors[node.inputs[0]].shape))
        low.place(low.result, Layout(order=row_major(shape)))
        lower_matmul(low, op)
    elif isinstance(op, Recurrent):
        bring(node.inputs[0], row_major(graph.tensors[node.inputs[0]].shape))
        low.place(low.result, Layout(order=row_major(shape)))
        temporary = lower_recurrent(low, op)
    elif isinstance(op, Lookup):
        low.place(node.output, low.places[node.inputs[0]].layout)
        lower_lookup(low, op)
    elif isinstance(op, Add | Mul):
        temporary = _binary(low, graph, bring)
    elif isinstance(op, Concat):
        order = next(
            low.places[name].layout.order for name in node.inputs if graph.tensors[name].data is None
        )
        for name in node.inputs:
            _materialise(low, graph, name, order, temporary)
            bring(name, order)
        low.place(node.output, Layout(order=order))
        lower_concat(low, op)
        for name in set(node.inputs):
            if graph.tensors[name].data is not None:
                low.places.pop(name)
    elif isinstance(op, Take):
        bring(node.inputs[0], row_major(graph.tensors[node.inputs[0]].shape))
        low.place(low.result, Layout(order=row_major(shape)))
        lower_take(low, op)
    elif isinstance(op, Transpose):
        place = low.places[node.inputs[0]]
        order = tuple(op.perm.index(axis) for axis in place.layout.order)
        low.places[node.output] = replace(place, layout=Layout(order=order))
    elif isinstance(op, Reshape):
        _reshape(low, graph, bring)
    else:
        raise UnsupportedError(
            "lower",
            node.name,
            f"{node.op_type} has no rule for this core",
            "report this: the front end should have refused it",
        )
    return temporary


def _materialise(
    low: Lowering, graph: QGraph, name: str, order: tuple[int, ...], temporary: list[tuple[int, int]]
) -> None:
    """Bring a constant operand on chip, for the current node only."""
    tensor = graph.tensors[name]
    if tensor.data is None or name in low.places:
        return
    address, size = low.constant(tensor.data.transpose(order))
    temporary.append((address, size))
    low.places[name] = Place(address=address, bytes=size, layout=Layout(order=order))


def _reshape(low: Lowering, graph: QGraph, bring) -> None:
    node = low.node
    name, shape = node.inputs[0], graph.tensors[node.output].shape
    extents, place = graph.tensors[name].shape, low.places[name]
    order = place.layout.order
    if not is_linear(order, extents) and place.layout.flatten is None:
        keeps_batch = order[0] == 0 and len(shape) == 2 and shape[0] == extents[0]
        if keeps_batch and only_matmuls_read(graph, node.output):
            low.places[node.output] = replace(
                place, layout=Layout(order=row_major(shape), flatten=flatten_order(extents, order))
            )
            return
        bring(name, row_major(extents))
        place = low.places[name]
    low.places[node.output] = replace(place, layout=Layout(order=row_major(shape)))


def _binary(low: Lowering, graph: QGraph, bring) -> list[tuple[int, int]]:
    node, op = low.node, low.node.op
    shape = graph.tensors[node.output].shape
    # The result lies as the largest computed operand does.
    computed = [name for name in node.inputs if graph.tensors[name].data is None]
    lead = max(computed, key=lambda name: low.places[name].bytes)
    lead_shape = graph.tensors[lead].shape
    order = (
        low.places[lead].layout.order
        if len(lead_shape) == len(shape) and low.places[lead].layout.flatten is None
        else row_major(shape)
    )
    temporary: list[tuple[int, int]] = []
    operands = []
    for name in node.inputs:
        extents = (1,) * (len(shape) - len(graph.tensors[name].shape)) + graph.tensors[name].shape
        own = tuple(axis - (len(shape) - len(graph.tensors[name].shape)) for axis in order)
        own = tuple(axis for axis in own if axis >= 0)
        if graph.tensors[name].data is not None:
            # A constant is spread over the innermost axis, where the vector unit cannot broadcast.
            inner = next((axis for axis in reversed(order) if shape[axis] > 1), order[-1])
            spread = [extent if axis != inner else shape[axis] for axis, extent in enumerate(extents)]
            data = np.broadcast_to(graph.tensors[name].data.reshape(extents), spread)
            address, size = low.constant(data.transpose(order))
            temporary.append((address, size))
            place = Place(address=address, bytes=size, layout=Layout(order=order))
            extents = tuple(spread)
        else:
            bring(name, own)
            place = low.places[name]
        own_extents = tuple(extents[axis] for axis in order)
        operands.append(Operand(name=name, place=place, extents=own_extents, window=_broadcast(own_extents)))
    low.place(node.output, Layout(order=order))
    lower_binary(low, op, operands)
    return temporary


def _broadcast(extents: tuple[int, ...]):
    """The part of an operand that a box of the result needs, where an extent of 1 serves every index."""
    return lambda box: tuple(r if extent > 1 else range(1) for r, extent in zip(box, extents, strict=True))
