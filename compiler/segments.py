"""What depends on what in an ONNX model, parts of it as models of their own, and what their nodes cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator

import onnx

from systolith.compiler.base.proto import subgraphs
from systolith.compiler.checks.shapes import known_shape
from systolith.spec.plan import HostNode

__all__ = ["Topology", "extract", "host_nodes", "node_macs"]

#: Operators with multiply-accumulates, and which operand holds the weights.
_WEIGHTS = {
    "Conv": 1,
    "ConvTranspose": 1,
    "GRU": 1,
    "Gemm": 1,
    "LSTM": 1,
    "MatMul": 1,
    "QGemm": 3,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
    "RNN": 1,
}


class Topology:
    """What depends on what.

    Parameters
    ----------
    model : ModelProto   its nodes have unique names

    Members
    -------
    inputs   : ValueInfoProto of each input
    nodes    : name -> NodeProto
    reads    : node -> names of the tensors that it reads, those of its subgraphs too
    producer : tensor -> node
    readers  : tensor -> nodes
    above    : node -> every node whose result it depends on; without the nodes that depend on constants
               alone, which are no part of the division: each part has those that it needs
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.initializers = {tensor.name for tensor in model.graph.initializer}
        self.inputs = [value for value in model.graph.input if value.name not in self.initializers]
        self.nodes = {node.name: node for node in model.graph.node}
        self.reads = {node.name: list(dict.fromkeys(_reads(node))) for node in model.graph.node}
        self.producer = {output: node.name for node in model.graph.node for output in node.output if output}
        self.readers: dict[str, list[str]] = {}
        self.above: dict[str, frozenset[str]] = {}
        self.constant = set(self.initializers)
        for node in model.graph.node:
            reads = self.reads[node.name]
            for name in reads:
                self.readers.setdefault(name, []).append(node.name)
            # Shapes are static: Shape gives a constant.
            if node.op_type == "Shape" or all(name in self.constant for name in reads):
                self.constant.update(node.output)
                continue
            direct = {self.producer[name] for name in reads if name in self.producer} & self.above.keys()
            self.above[node.name] = frozenset(direct.union(*(self.above[name] for name in direct)))

    def has_weights(self, name: str) -> bool:
        """Whether a node multiplies by constant weights: a layer that the core is for."""
        node = self.nodes[name]
        if node.op_type == "Scan":
            return True
        at = _WEIGHTS.get(node.op_type, len(node.input))
        return at < len(node.input) and node.input[at] in self.constant


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from (name for name in node.input if name)
    for graph in subgraphs(node):
        own = {value.name for value in (*graph.input, *graph.initializer)}
        for inner in graph.node:
            yield from (name for name in _reads(inner) if name not in own)
            own.update(inner.output)


def extract(
    topology: Topology, outputs: Iterable[str], stop: Callable[[str], bool]
) -> tuple[set[str], list[str]]:
    """The nodes that `outputs` need, up to the model's inputs and the tensors where `stop` holds; and the
    latter two."""
    nodes: set[str] = set()
    inputs: dict[str, None] = {}
    waiting, seen = list(outputs), set()
    for tensor in waiting:
        if tensor in seen or tensor in topology.initializers:
            continue
        seen.add(tensor)
        producer = topology.producer.get(tensor)
        if producer is None or stop(tensor):
            inputs[tensor] = None
        elif producer not in nodes:
            nodes.add(producer)
            waiting += topology.reads[producer]
    order = [value.name for value in topology.inputs] + list(topology.producer)
    return nodes, sorted(inputs, key=order.index)


def host_nodes(
    topology: Topology,
    values: dict[str, onnx.ValueInfoProto],
    reasons: dict[str, str],
    names: Collection[str],
    crossing: Collection[str],
    *,
    first: bool,
) -> tuple[HostNode, ...]:
    """What the reports say of the nodes `names` of a host step; `crossing` are the tensors that it gives to
    the core, where it is the `first` step, or takes from it.
    """
    found = []
    for name in topology.above:
        if name not in names:
            continue
        node = topology.nodes[name]
        touched = node.output if first else topology.reads[name]
        sizes = [_size(values.get(output)) for output in node.output if output]
        found.append(
            HostNode(
                name=name,
                op=node.op_type,
                reason=reasons[name] if name in reasons else _companion(topology, name, first, names),
                macs=node_macs(node, values),
                elements=None if None in sizes else sum(sizes),
                bytes=sum(_size(values.get(tensor)) or 0 for tensor in touched if tensor in crossing),
            )
        )
    return tuple(found)


def _companion(topology: Topology, name: str, first: bool, names: Collection[str]) -> str:
    """Why a node that the core could run is on the host all the same."""
    if first:
        readers = (
            reader for output in topology.nodes[name].output for reader in topology.readers.get(output, ())
        )
        other = next((reader for reader in readers if reader in names), None)
        if other is None:
            return "it lies between the host and the core's first layer, and costs no accuracy in float"
        return f"its result is read by {other!r}, which is on the host"
    made = (topology.producer.get(tensor) for tensor in topology.reads[name])
    other = next(producer for producer in made if producer in names)
    return f"it reads the result of {other!r}, which is on the host"


def _size(value: onnx.ValueInfoProto | None) -> int | None:
    shape = known_shape(value)
    return None if shape is None else math.prod(shape)


def node_macs(node: onnx.NodeProto, values: dict[str, onnx.ValueInfoProto]) -> int:
    """Multiply-accumulates of a node with weights; 0 for anything else, and where shapes are not known."""
    at = _WEIGHTS.get(node.op_type)
    if at is None or at >= len(node.input):
        return 0
    weights, result = known_shape(values.get(node.input[at])), _size(values.get(node.output[0]))
    given = known_shape(values.get(node.input[0]))
    if not weights or not given:
        return 0
    if node.op_type in ("GRU", "LSTM", "RNN"):
        # All weights, once per step and sample: the input's first two axes.
        return (math.prod(weights) + (_size(values.get(node.input[2])) or 0)) * math.prod(given[:2])
    if node.op_type == "ConvTranspose":
        return math.prod(given) * math.prod(weights[1:])
    if "Conv" in node.op_type:
        return (result or 0) * math.prod(weights[1:])
    # A product of matrices: every result is a sum over the last axis of the first operand.
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return (result or 0) * given[-2 if transposed else -1]
