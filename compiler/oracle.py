"""The core's part of a plan as a quantised ONNX model that means the same: for ONNX Runtime, as a judge that
nobody here wrote, and for whoever wants to look at it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np

from systolith.compiler.base.formats import Format
from systolith.compiler.base.model import Model, Node, TensorType, array_type, make_node
from systolith.compiler.ops.recurrent import HIDDEN_SCALE, OPERATORS
from systolith.compiler.ops.values import Const
from systolith.compiler.walked import Walk
from systolith.reference.graph import QGraph

__all__ = ["quantised_part"]

#: Hidden states have one format.
_HIDDEN = Format(HIDDEN_SCALE, 0)


def quantised_part(walked: Walk, graph: QGraph) -> Model | None:
    """A step of the core in QDQ form; its inputs and outputs are those of the step.

    None where the step reads or gives a tensor that the model has not, such as one between two steps of the
    core.
    """
    model = walked.model
    if not {*graph.inputs, *graph.outputs} <= model.names:
        return None
    nodes = _between(model, graph.inputs, graph.outputs)
    if nodes is None:
        return None
    made: list[Node] = []
    constants: dict[str, np.ndarray] = {}
    formats = dict(walked.marks.formats)
    for node in nodes:
        if node.op_type in OPERATORS or node.op_type == "Scan":
            formats.update((name, _HIDDEN) for name in node.outputs[:2] if name)
    taken = {name: f"{name}/dequantised" for name in graph.inputs if name in formats}
    for name, renamed in taken.items():
        made += _quantised(name, name, renamed, formats[name], constants)
    for node in nodes:
        inputs = [taken.get(name, name) for name in node.inputs]
        for at, name in enumerate(node.inputs):
            weights = walked.marks.weights.get((node.name, at))
            if weights is not None:
                inputs[at] = f"{node.name}/{name}/dequantised"
                made.append(_held(node, name, inputs[at], weights, constants))
        marked = [name for name in node.outputs if name in formats]
        outputs = tuple(f"{name}/float" if name in marked else name for name in node.outputs)
        made.append(replace(node, inputs=tuple(inputs), outputs=outputs))
        for name in marked:
            made += _quantised(name, f"{name}/float", name, formats[name], constants)
    types = {name: array_type(array) for name, array in constants.items()}
    for name in (*graph.inputs, *graph.outputs):
        tensor = graph.tensors[name]
        element = model.type_of(name).element or array_type(np.zeros(0, tensor.dtype)).element
        types[name] = TensorType(element, tensor.shape)
    part = replace(model, inputs=graph.inputs, outputs=graph.outputs)
    # A scale for each reader is of opset 13, and so is one for each channel of the weights.
    opsets = {**model.opsets, "": max(model.opset, 13)}
    return replace(part.with_nodes(made, constants, types), opsets=opsets)


def _between(model: Model, inputs: Collection[str], outputs: Iterable[str]) -> list[Node] | None:
    """The nodes that lie between tensors; None where they read an input of the model that is not among
    them."""
    found: set[str] = set()
    waiting = list(outputs)
    for name in waiting:
        if name in inputs or name in model.constants:
            continue
        node = model.producer.get(name)
        if node is None:
            return None
        if node.name not in found:
            found.add(node.name)
            waiting += node.reads
    return [node for node in model.nodes if node.name in found]


def _quantised(
    label: str, source: str, result: str, chosen: Format, constants: dict[str, np.ndarray]
) -> tuple[Node, Node]:
    scale, zero, codes = (f"{label}/{what}" for what in ("scale", "zero", "codes"))
    constants[scale], constants[zero] = np.float32(chosen.scale).reshape(()), np.int8(chosen.zero).reshape(())
    return (
        make_node("QuantizeLinear", (source, scale, zero), (codes,), f"{label}/quantise"),
        make_node("DequantizeLinear", (codes, scale, zero), (result,), f"{label}/dequantise"),
    )


def _held(node: Node, name: str, result: str, weights: Const, constants: dict[str, np.ndarray]) -> Node:
    """A constant operand from the integers that it became."""
    codes, scale, zero = (f"{node.name}/{name}/{what}" for what in ("codes", "scale", "zero"))
    single = weights.scale.size == 1
    constants[codes] = weights.ints
    constants[scale] = weights.scale.astype(np.float32).reshape(() if single else -1)
    constants[zero] = weights.zero.astype(weights.ints.dtype).reshape(() if single else -1)
    axis = None if single else int(weights.axis)
    return make_node("DequantizeLinear", (codes, scale, zero), (result,), f"{result}/dequantise", axis=axis)
