"""Walk the graph: place tensors, bring operands into the order each rule needs, and apply the rule."""

from __future__ import annotations

import numpy as np

from systolith.compiler.constants import Constants
from systolith.compiler.errors import UnsupportedError
from systolith.compiler.layout import (
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
from systolith.compiler.lower.pool import lower_max_pool
from systolith.compiler.lower.shape import flatten_order, lower_concat, reorder, strides_of
from systolith.reference.average_pool import AveragePool
from systolith.reference.conv import Conv
from systolith.reference.elementwise import Add, Lookup, Mul
from systolith.reference.graph import QGraph, QNode
from systolith.reference.matmul import MatMul
from systolith.reference.max_pool import MaxPool
from systolith.reference.shape import Concat, Reshape, Transpose
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Region, Space

__all__ = ["lower_graph"]

#: Rules whose input and output lie channels last.
_SPATIAL = {Conv: lower_conv, MaxPool: lower_max_pool, AveragePool: lower_average_pool}


def lower_graph(graph: QGraph, arch: ArchConfig, constants: Constants, io_offsets: dict[str, int], scratch: int) -> tuple[Lowering, dict[str, Layout]]:
    """Instructions (without tokens) of the run stream, HALT included, and the layouts of inputs and outputs.

    Parameters
    ----------
    io_offsets : dict of name -> int   where each input and output stands in the DATA region
    scratch : int                      where scratch begins in the DATA region
    """
    low = Lowering(graph=graph, arch=arch, constants=constants)
    low._scratch = scratch
    layouts: dict[str, Layout] = {}
    readers = {name: sum(node.inputs.count(name) for node in graph.nodes) for name in graph.tensors}
    for name, order in input_orders(graph).items():
        layouts[name] = Layout(order=order)
        if readers[name]:
            place = low.place(name, layouts[name])
            low.emit("LOAD", space=Space.ACT, region=Region.DATA, offset=io_offsets[name], bytes=place.bytes, base=place.address)
    for index, node in enumerate(graph.nodes):
        if node.output in low.places:
            # Its producer has computed it already, by way of a chain.
            _retire(low, graph, node, readers, io_offsets, layouts, index)
            continue
        low.node, low.owner = node, index
        following = _chained(low, graph, index)
        if following is not None:
            low.chained_output = following.output
        temporary = _lower_node(low, graph)
        for address, size in temporary:
            low.release(address, size)
        chained, low.chain, low.chained_output = low.chained_output, None, None
        if chained is None:
            _retire(low, graph, node, readers, io_offsets, layouts, index)
        else:
            _forget(low, node.inputs, readers)
    low.node, low.owner = None, -1
    low.emit("HALT")
    return low, layouts


def _forget(low: Lowering, names: tuple[str, ...], readers: dict[str, int]) -> None:
    """These tensors have been read once more; drop those that nobody reads again."""
    for name in names:
        readers[name] -= 1
        if not readers[name] and name in low.places:
            low.drop(name)


def _retire(low: Lowering, graph: QGraph, node: QNode, readers: dict[str, int], io_offsets: dict[str, int], layouts: dict[str, Layout], index: int) -> None:
    """The node's result stands: store it if it is an output, and drop what has had its last reader."""
    if node.output in graph.outputs:
        low.owner = -1
        layouts[node.output] = _store(low, graph, node.output, io_offsets[node.output])
        low.owner = index
    _forget(low, node.inputs, readers)
    if not readers[node.output]:
        low.drop(node.output)


def _chained(low: Lowering, graph: QGraph, index: int) -> QNode | None:
    """The Add or Mul that may take this node's result straight from OUTPUT: its only reader, with the other operand at hand and alike."""
    node = graph.nodes[index]
    if not isinstance(node.op, Conv | MatMul) or node.output in graph.outputs:
        return None
    readers = [other for other in graph.nodes if node.output in other.inputs]
    if len(readers) != 1 or not isinstance(readers[0].op, Add | Mul) or readers[0].inputs.count(node.output) != 1:
        return None
    following = readers[0]
    swapped = following.inputs[1] == node.output
    other = following.inputs[0 if swapped else 1]
    shape = graph.tensors[node.output].shape
    order = channels_last(shape) if isinstance(node.op, Conv) else row_major(shape)
    place = low.places.get(other)
    if place is None or graph.tensors[other].shape != shape or place.layout.flatten is not None or not same_bytes(place.layout.order, order, shape):
        return None
    low.chain = Chain(mnemonic="ADD" if isinstance(following.op, Add) else "MUL", address=place.address,
                      operands=binary_operands(low, following.op, swapped))
    return following


def _store(low: Lowering, graph: QGraph, name: str, offset: int) -> Layout:
    place = low.places[name]
    if place.layout.flatten is not None:
        raise AssertionError(f"output {name} lies in a flattened order")
    low.emit("STORE", region=Region.DATA, offset=offset, bytes=place.bytes, base=place.address)
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
        copy = reorder(low, name, order)
        low.drop(name)
        low.places[name] = copy

    if type(op) in _SPATIAL:
        bring(node.inputs[0], channels_last(graph.tensors[node.inputs[0]].shape))
        low.place(low.result, Layout(order=channels_last(shape)))
        _SPATIAL[type(op)](low, op)
    elif isinstance(op, MatMul):
        if low.places[node.inputs[0]].layout.flatten is None:
            bring(node.inputs[0], row_major(graph.tensors[node.inputs[0]].shape))
        low.place(low.result, Layout(order=row_major(shape)))
        lower_matmul(low, op)
    elif isinstance(op, Lookup):
        low.place(node.output, low.places[node.inputs[0]].layout)
        lower_lookup(low, op)
    elif isinstance(op, Add | Mul):
        temporary = _binary(low, graph, bring)
    elif isinstance(op, Concat):
        order = next(low.places[name].layout.order for name in node.inputs if graph.tensors[name].data is None)
        for name in node.inputs:
            _materialise(low, graph, name, order, temporary)
            bring(name, order)
        low.place(node.output, Layout(order=order))
        lower_concat(low, op)
        for name in set(node.inputs):
            if graph.tensors[name].data is not None:
                low.places.pop(name)
    elif isinstance(op, Transpose):
        place = low.places[node.inputs[0]]
        order = tuple(op.perm.index(axis) for axis in place.layout.order)
        low.places[node.output] = Place(address=place.address, bytes=place.bytes, layout=Layout(order=order))
    elif isinstance(op, Reshape):
        _reshape(low, graph, bring)
    else:
        raise UnsupportedError("lower", node.name, f"{node.op_type} has no rule for this core", "report this: the front end should have refused it")
    return temporary


def _materialise(low: Lowering, graph: QGraph, name: str, order: tuple[int, ...], temporary: list[tuple[int, int]]) -> None:
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
            low.places[node.output] = Place(address=place.address, bytes=place.bytes,
                                                  layout=Layout(order=row_major(shape), flatten=flatten_order(extents, order)))
            return
        bring(name, row_major(extents))
        place = low.places[name]
    low.places[node.output] = Place(address=place.address, bytes=place.bytes, layout=Layout(order=row_major(shape)))


def _binary(low: Lowering, graph: QGraph, bring) -> list[tuple[int, int]]:
    node, op = low.node, low.node.op
    shape = graph.tensors[node.output].shape
    # The result lies as the largest computed operand does.
    computed = [name for name in node.inputs if graph.tensors[name].data is None]
    lead = max(computed, key=lambda name: low.places[name].bytes)
    lead_shape = graph.tensors[lead].shape
    order = low.places[lead].layout.order if len(lead_shape) == len(shape) and low.places[lead].layout.flatten is None else row_major(shape)
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
            extents = tuple(spread)
        else:
            bring(name, own)
            address = low.places[name].address
        steps = strides_of(extents, order)
        operands.append((address, [0 if extents[axis] == 1 else steps[axis] for axis in order]))
    low.place(node.output, Layout(order=order))
    lower_binary(low, op, operands)
    return temporary
