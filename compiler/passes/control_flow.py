"""If on a constant and Loop with a constant count, as the nodes that they run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import numpy_helper

from systolith.compiler.base.model import Model, Node, make_node
from systolith.compiler.base.proto import subgraphs

__all__ = ["unroll"]

#: Nodes that one Loop may become.
_MOST = 10_000


def unroll(model: Model) -> Model:
    """Replace each If whose condition is constant by its branch, and each Loop whose count is constant and
    whose condition stays true by its iterations; innermost ones follow in the next call."""
    nodes: list[Node] = []
    constants: dict[str, np.ndarray] = {}
    taken = set(model.by_name)
    changed = False
    for node in model.nodes:
        made = None
        if not node.domain and node.op_type == "If":
            made = _branch(model, node, constants, taken)
        elif not node.domain and node.op_type == "Loop":
            made = _iterations(model, node, constants, taken)
        if made is None:
            nodes.append(node)
        else:
            nodes += made
            changed = True
    return model.with_nodes(nodes, constants) if changed else model


def _branch(model: Model, node: Node, constants: dict[str, np.ndarray], taken: set[str]) -> list[Node] | None:
    condition = model.constants.get(node.inputs[0])
    if condition is None:
        return None
    graph = node.attrs["then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"]
    results = dict(zip((value.name for value in graph.output), node.outputs, strict=False))
    return list(_inlined(model, graph, f"{node.name}/branch", {}, results, constants, taken))


def _iterations(
    model: Model, node: Node, constants: dict[str, np.ndarray], taken: set[str]
) -> list[Node] | None:
    count = model.constants.get(node.inputs[0]) if node.inputs[0] else None
    first = model.constants.get(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else np.array(True)
    body: onnx.GraphProto = node.attrs["body"]
    if count is None or first is None or not _stays_true(model, body):
        return None
    trips = int(count.reshape(-1)[0]) if bool(first.reshape(-1)[0]) else 0
    carried = len(body.input) - 2
    scans = len(body.output) - 1 - carried
    if trips < 1 or trips * max(len(body.node), 1) > _MOST:
        return None
    state = list(node.inputs[2:])
    slices: list[list[str]] = [[] for _ in range(scans)]
    made: list[Node] = []
    for trip in range(trips):
        label = f"{node.name}/{trip}"
        constants[f"{label}/iteration"] = np.array(trip, np.int64)
        constants[f"{label}/condition"] = np.array(True)
        given = dict(
            zip(
                (value.name for value in body.input),
                (f"{label}/iteration", f"{label}/condition", *state),
                strict=True,
            )
        )
        names = [f"{label}/{value.name}/{at}" for at, value in enumerate(body.output)]
        made += _inlined(model, body, label, given, {}, constants, taken, list(names))
        state = names[1 : 1 + carried]
        for at in range(scans):
            slices[at].append(names[1 + carried + at])
    for at, name in enumerate(node.outputs[:carried]):
        if name:
            made.append(make_node("Identity", (state[at],), (name,), f"{node.name}/result{at}"))
    axes = f"{node.name}/axes"
    constants[axes] = np.array([0], np.int64)
    for at, name in enumerate(node.outputs[carried:]):
        if not name:
            continue
        stacked = []
        for trip, part in enumerate(slices[at]):
            stacked.append(f"{part}/row")
            made.append(_unsqueeze(model, part, f"{part}/row", axes, f"{node.name}/{trip}/row{at}"))
        made.append(make_node("Concat", stacked, (name,), f"{node.name}/stack{at}", axis=0))
    return made


def _unsqueeze(model: Model, source: str, result: str, axes: str, name: str) -> Node:
    if model.opset >= 13:
        return make_node("Unsqueeze", (source, axes), (result,), name)
    return make_node("Unsqueeze", (source,), (result,), name, axes=[0])


def _stays_true(model: Model, body: onnx.GraphProto) -> bool:
    """Whether a body hands its condition on, or gives a constant that is true."""
    name, given = body.output[0].name, body.input[1].name
    made = {output: node for node in body.node for output in node.output}
    while name in made and made[name].op_type == "Identity":
        name = made[name].input[0]
    if name == given:
        return True
    for tensor in body.initializer:
        if tensor.name == name:
            return bool(numpy_helper.to_array(tensor).reshape(-1)[0])
    if name in made and made[name].op_type == "Constant":
        value = next((a.t for a in made[name].attribute if a.name == "value"), None)
        return value is not None and bool(numpy_helper.to_array(value).reshape(-1)[0])
    return name in model.constants and bool(model.constants[name].reshape(-1)[0])


def _inlined(
    model: Model,
    graph: onnx.GraphProto,
    label: str,
    given: Mapping[str, str],
    results: Mapping[str, str],
    constants: dict[str, np.ndarray],
    taken: set[str],
    ordered: list[str] | None = None,
) -> Iterator[Node]:
    """The nodes of a subgraph with names of their own.

    `given` are names of its inputs outside; `results` what its outputs are called outside, or `ordered`, one
    for each output.
    """
    names = dict(given)
    for tensor in graph.initializer:
        names[tensor.name] = f"{label}/{tensor.name}"
        constants[names[tensor.name]] = numpy_helper.to_array(tensor)
    for node in graph.node:
        names.update((output, f"{label}/{output}") for output in node.output if output)
        inner = Node(
            _unique(f"{label}/{node.name or node.op_type}", taken),
            node.op_type,
            tuple(names.get(name, name) for name in node.input),
            tuple(names[name] if name else "" for name in node.output),
            "" if node.domain == "ai.onnx" else node.domain,
            {attribute.name: attribute for attribute in node.attribute},
        )
        yield _renamed_inside(inner, names) if any(True for _ in subgraphs(node)) else inner
    for at, value in enumerate(graph.output):
        outside = ordered[at] if ordered is not None else results.get(value.name, "")
        if outside:
            source = names.get(value.name, value.name)
            yield make_node("Identity", (source,), (outside,), _unique(f"{label}/output{at}", taken))


def _unique(name: str, taken: set[str]) -> str:
    unique, number = name, 1
    while unique in taken:
        unique, number = f"{name}_{number}", number + 1
    taken.add(unique)
    return unique


def _renamed_inside(node: Node, names: Mapping[str, str]) -> Node:
    """A node whose subgraphs read renamed tensors by their new names."""
    attributes = {}
    for key, attribute in node.attributes.items():
        copy = onnx.AttributeProto()
        copy.CopyFrom(attribute)
        for graph in ([copy.g] if copy.HasField("g") else []) + list(copy.graphs):
            _rename(graph, dict(names))
        attributes[key] = copy
    return replace(node, attributes=attributes)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for value in (*graph.input, *graph.initializer):
        names.pop(value.name, None)
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = names.get(name, name)
        for inner in subgraphs(node):
            _rename(inner, dict(names))
        for name in node.output:
            names.pop(name, None)
    for value in graph.output:
        value.name = names.get(value.name, value.name)
