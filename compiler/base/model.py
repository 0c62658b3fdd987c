"""A model as the compiler holds it: nodes, constants as arrays, and the type of every tensor. Immutable.

ONNX's protobuf exists at the two ends alone: `Model.from_proto` where a file comes in, `Model.to_proto` where
a part goes to ONNX Runtime. Between them passes are functions from a `Model` to a `Model`, made with
`Model.with_nodes`; what reads and makes a tensor is indexed once per model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from systolith.compiler.base.proto import subgraphs

__all__ = ["Model", "Node", "TensorType", "array_type", "make_node", "type_of"]

#: Oldest IR version in which a constant need not be an input too.
_IR = 4


@dataclass(frozen=True, slots=True)
class TensorType:
    """What is known of a tensor.

    Parameters
    ----------
    element : int             ONNX's number of the element type; 0 where it is not known, or where the value
              is no tensor (a sequence, a map, an optional)
    shape   : tuple or None   extents, None for one that is not known; None where not even their number is
    """

    element: int = 0
    shape: tuple[int | None, ...] | None = None

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """NumPy's type; None where it is not known."""
        return helper.tensor_dtype_to_np_dtype(self.element) if self.element else None

    @property
    def extents(self) -> tuple[int, ...] | None:
        """The shape, where all of it is known."""
        if self.shape is None:
            return None
        known = tuple(extent for extent in self.shape if extent is not None)
        return known if len(known) == len(self.shape) else None


@dataclass(frozen=True, eq=False)
class Node:
    """One application of an operator.

    Parameters
    ----------
    name              : unique in its model
    op_type, domain   : the operator; domain '' is ONNX's own
    inputs, outputs   : names of tensors, '' for one that is left out
    attributes        : as ONNX has them, by name
    """

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: str = ""
    attributes: Mapping[str, onnx.AttributeProto] = field(default_factory=dict)

    @cached_property
    def attrs(self) -> dict[str, Any]:
        """Values of the attributes: numbers, lists, bytes, tensors and graphs of ONNX."""
        return {name: helper.get_attribute_value(value) for name, value in self.attributes.items()}

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """Every tensor that the node reads, once each: its operands, and what its subgraphs take from
        outside."""
        return tuple(dict.fromkeys(_reads(self.inputs, subgraphs(self.proto))))

    @cached_property
    def captured(self) -> frozenset[str]:
        """Tensors that subgraphs of the node read by name; nobody may rename them."""
        return frozenset(_reads((), subgraphs(self.proto)))

    @cached_property
    def proto(self) -> onnx.NodeProto:
        """The node as ONNX has it; not to be changed."""
        node = onnx.NodeProto(name=self.name, op_type=self.op_type, domain=self.domain)
        node.input.extend(self.inputs)
        node.output.extend(self.outputs)
        node.attribute.extend(self.attributes.values())
        return node

    def __repr__(self) -> str:
        return f"<Node {self.name}: {self.op_type}({', '.join(self.inputs)}) -> {', '.join(self.outputs)}>"


def make_node(
    op_type: str,
    inputs: Iterable[str],
    outputs: Iterable[str],
    name: str,
    domain: str = "",
    **attributes: object,
) -> Node:
    """A node, its attributes from values."""
    made = {key: helper.make_attribute(key, value) for key, value in attributes.items() if value is not None}
    return Node(name, op_type, tuple(inputs), tuple(outputs), domain, made)


def _reads(inputs: Iterable[str], graphs: Iterable[onnx.GraphProto]) -> Iterator[str]:
    yield from (name for name in inputs if name)
    for graph in graphs:
        own = {value.name for value in (*graph.input, *graph.initializer)}
        for node in graph.node:
            yield from (name for name in _reads(node.input, subgraphs(node)) if name not in own)
            own.update(node.output)
        yield from (value.name for value in graph.output if value.name not in own)


@dataclass(frozen=True, eq=False, kw_only=True)
class Model:
    """A graph of nodes in topological order.

    Parameters
    ----------
    name            : of the graph
    nodes           : each with a name of its own
    inputs, outputs : names, in the model's order; constants are no inputs
    constants       : arrays by name
    types           : of tensors, by name, as far as they are known; of constants too
    opsets          : domain -> version; '' is ONNX's own
    metadata        : the model's, key -> value
    odd             : inputs and outputs that are no tensors, by name, as ONNX describes them
    """

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, np.ndarray]
    types: Mapping[str, TensorType]
    opsets: Mapping[str, int]
    metadata: Mapping[str, str] = field(default_factory=dict)
    odd: Mapping[str, onnx.TypeProto] = field(default_factory=dict)

    # Indexes.

    @cached_property
    def by_name(self) -> dict[str, Node]:
        """Nodes by their names."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def producer(self) -> dict[str, Node]:
        """The node that makes a tensor."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    @cached_property
    def readers(self) -> dict[str, tuple[Node, ...]]:
        """The nodes that read a tensor, in their order, each once; none where the name is missing."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.reads:
                found.setdefault(name, []).append(node)
        return {name: tuple(nodes) for name, nodes in found.items()}

    @cached_property
    def captured(self) -> frozenset[str]:
        """Tensors that subgraphs read by name."""
        return frozenset().union(*(node.captured for node in self.nodes if node.captured))

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name of a tensor."""
        made = (name for node in self.nodes for name in node.outputs)
        return frozenset((*self.inputs, *self.constants, *made))

    @property
    def opset(self) -> int:
        """Version of ONNX's own operators; 0 where the model states none."""
        return self.opsets.get("", 0)

    def type_of(self, name: str) -> TensorType:
        """What is known of a tensor; nothing where the name is not."""
        return self.types.get(name, TensorType())

    def shape_of(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor, where all of it is known."""
        return self.type_of(name).extents

    def reader_count(self, name: str) -> int:
        """How many nodes read a tensor; an output of the model counts as one more."""
        return len(self.readers.get(name, ())) + (name in self.outputs)

    # Edits.

    def fresh(self, name: str, taken: Collection[str] = ()) -> str:
        """`name`, with a number behind it where it is taken."""
        unique, number = name, 1
        while unique in self.names or unique in taken:
            unique, number = f"{name}_{number}", number + 1
        return unique

    def with_nodes(
        self,
        nodes: Iterable[Node],
        constants: Mapping[str, np.ndarray] | None = None,
        types: Mapping[str, TensorType] | None = None,
    ) -> Model:
        """The same model with other nodes, and with these constants and types added to its own; constants
        that nobody reads are dropped."""
        nodes = tuple(nodes)
        added = dict(constants or {})
        read = {name for node in nodes for name in node.reads} | set(self.outputs)
        kept = {name: array for name, array in {**self.constants, **added}.items() if name in read}
        known = (
            dict(self.types)
            | dict(types or {})
            | {name: array_type(kept[name]) for name in added if name in kept}
        )
        return replace(self, nodes=nodes, constants=kept, types=known)

    def without_dead_nodes(self) -> Model:
        """The model without nodes that no output needs."""
        live = set(self.outputs)
        kept = []
        for node in reversed(self.nodes):
            if live.intersection(node.outputs):
                live.update(node.reads)
                kept.append(node)
        return self if len(kept) == len(self.nodes) else self.with_nodes(reversed(kept))

    def part(self, nodes: Iterable[Node], inputs: Iterable[str], outputs: Iterable[str]) -> Model:
        """Some of the nodes, in the order of the model, as a model of their own, with the constants that they
        read."""
        chosen = {node.name for node in nodes}
        kept = tuple(node for node in self.nodes if node.name in chosen)
        outputs = tuple(outputs)
        read = {name for node in kept for name in node.reads} | set(outputs)
        return replace(
            self,
            nodes=kept,
            inputs=tuple(inputs),
            outputs=outputs,
            constants={name: array for name, array in self.constants.items() if name in read},
        )

    # The two ends.

    @classmethod
    def from_proto(cls, model: onnx.ModelProto, types: Mapping[str, TensorType] | None = None) -> Model:
        """A checked model whose nodes have unique names; `types` are those that the model does not state."""
        graph = model.graph
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        stated = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}
        known = {name: type_of(value.type) for name, value in stated.items()} | dict(types or {})
        known |= {name: array_type(array) for name, array in constants.items()}
        return cls(
            name=graph.name,
            nodes=tuple(
                Node(
                    node.name,
                    node.op_type,
                    tuple(node.input),
                    tuple(node.output),
                    "" if node.domain == "ai.onnx" else node.domain,
                    {attribute.name: attribute for attribute in node.attribute},
                )
                for node in graph.node
            ),
            inputs=tuple(value.name for value in graph.input if value.name not in constants),
            outputs=tuple(value.name for value in graph.output),
            constants=constants,
            types=known,
            opsets={
                "" if entry.domain == "ai.onnx" else entry.domain: entry.version
                for entry in model.opset_import
            },
            metadata={entry.key: entry.value for entry in model.metadata_props},
            odd={
                name: value.type
                for name, value in stated.items()
                if value.type.WhichOneof("value") not in (None, "tensor_type")
            },
        )

    def to_proto(self) -> onnx.ModelProto:
        """The model as ONNX has it; serialised deterministically, equal models give equal bytes."""
        read = {name for node in self.nodes for name in node.reads} | set(self.outputs)
        graph = helper.make_graph(
            [node.proto for node in self.nodes],
            self.name or "model",
            [self._value_info(name) for name in self.inputs],
            [self._value_info(name) for name in self.outputs],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items() if name in read],
        )
        result = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(domain, version) for domain, version in self.opsets.items()],
            ir_version=max(
                _IR, helper.find_min_ir_version_for(_known_opsets(self.opsets), ignore_unknown=True)
            ),
        )
        for key, value in self.metadata.items():
            result.metadata_props.add(key=key, value=value)
        return result

    def _value_info(self, name: str) -> onnx.ValueInfoProto:
        if name in self.odd:
            return helper.make_value_info(name, self.odd[name])
        known = self.type_of(name)
        if not known.element:
            return onnx.ValueInfoProto(name=name)
        return helper.make_tensor_value_info(name, known.element, known.shape)


def array_type(array: np.ndarray) -> TensorType:
    """The type of a constant."""
    return TensorType(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def type_of(kind: onnx.TypeProto) -> TensorType:
    """The type that ONNX states; nothing of what is no tensor."""
    if not kind.HasField("tensor_type"):
        return TensorType()
    tensor = kind.tensor_type
    if not tensor.HasField("shape"):
        return TensorType(tensor.elem_type)
    return TensorType(
        tensor.elem_type,
        tuple(
            dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else None
            for dim in tensor.shape.dim
        ),
    )


def _known_opsets(opsets: Mapping[str, int]) -> list[onnx.OperatorSetIdProto]:
    return [
        helper.make_opsetid(domain, version)
        for domain, version in opsets.items()
        if domain in ("", "ai.onnx.ml")
    ]
