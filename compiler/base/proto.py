"""Walks over an ONNX model: every graph, node and constant, those of subgraphs too."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from google.protobuf.message import EncodeError

from systolith.compiler.base.errors import ModelError

__all__ = ["LARGEST", "constants_of", "graphs_of", "opset_of", "serialised", "subgraphs"]

#: Bytes that a serialised model may have.
LARGEST = (1 << 31) - 1


def opset_of(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operators that the model asks for; 0 where it asks for none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs among a node's attributes, without those inside of them."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and every graph inside it."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from graphs_of(inner)


def constants_of(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Every constant tensor inside a graph, with a name for messages: its own, or that of its node."""
    for inner in graphs_of(graph):
        yield from ((tensor.name, tensor) for tensor in inner.initializer)
        for node in inner.node:
            label = node.name or next(iter(node.output), "")
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t.name or label, attribute.t
                yield from ((tensor.name or label, tensor) for tensor in attribute.tensors)


def serialised(model: onnx.ModelProto) -> bytes:
    """A model's bytes, equal ones for equal models.

    Raises
    ------
    ModelError   If they are more than `LARGEST`.
    """
    data: bytes | None
    try:
        data = model.SerializeToString(deterministic=True)
    except EncodeError:
        data = None
    if data is None or len(data) > LARGEST:
        nodes = model.graph.node
        raise ModelError(
            "import",
            nodes[0].name if nodes else "",
            "this node and those behind it on the host have constants of more than "
            f"{LARGEST:,} bytes together, which a step of the host cannot hold",
            "divide the model there, or store the constants in fewer bits",
        )
    return data
