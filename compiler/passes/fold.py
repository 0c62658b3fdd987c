"""What is known before the model runs becomes a constant, and what does nothing vanishes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from systolith.compiler.base.errors import CompileError
from systolith.compiler.base.limits import MAX_CONSTANT
from systolith.compiler.base.model import Model, Node, TensorType
from systolith.compiler.base.randoms import RANDOM
from systolith.compiler.ops.lookup import evaluate

__all__ = ["fold", "known_types", "vanish"]

#: They state the format of a constant, which the walk keeps.
_QUANTISING = ("QuantizeLinear", "DequantizeLinear")


def fold(model: Model) -> Model:
    """Compute nodes of constants alone, and Shape and Size of tensors whose shape is known.

    What an output of the model names stays a node. A node that cannot be computed stays, for the host.
    """
    constants = dict(model.constants)
    kept: list[Node] = []
    found: dict[str, np.ndarray] = {}
    for node in model.nodes:
        results = None if set(node.outputs) & set(model.outputs) else _results(model, node, constants)
        if results is None:
            kept.append(node)
            continue
        for name, array in zip(node.outputs, results, strict=False):
            if name:
                constants[name] = found[name] = array
    return model.with_nodes(kept, found).without_dead_nodes() if found else model


def _results(model: Model, node: Node, constants: Mapping[str, np.ndarray]) -> list[np.ndarray] | None:
    if node.domain or node.op_type in RANDOM or node.op_type in _QUANTISING:
        return None
    if node.op_type in ("Shape", "Size") and node.inputs[0] not in constants:
        shape = model.shape_of(node.inputs[0])
        if shape is None:
            return None
        if node.op_type == "Size":
            return [np.array(math.prod(shape), np.int64)]
        first, last = node.attrs.get("start", 0), node.attrs.get("end")
        return [np.array(shape[first:last], np.int64)]
    if any(name not in constants for name in node.reads):
        return None
    if node.captured or any(_of_graphs(node)):
        return None
    arrays = [constants[name] if name else None for name in node.inputs]
    if any(array is not None and array.dtype.kind not in "fiubU" for array in arrays):
        return None
    try:
        return evaluate(node.proto, model.opset, arrays, MAX_CONSTANT)
    except CompileError:
        return None


def _of_graphs(node: Node) -> list[str]:
    return [
        name for name, attribute in node.attributes.items() if attribute.HasField("g") or attribute.graphs
    ]


def vanish(model: Model) -> Model:
    """Drop nodes whose result is their operand: Identity, Dropout in inference, Cast to the same type, and
    Slice, Expand, Reshape, Transpose, Pad and Tile that change nothing. Results that the model gives stay."""
    renamed: dict[str, str] = {}
    kept: list[Node] = []
    captured = model.captured
    for node in model.nodes:
        read = node.inputs[0] if node.inputs else ""
        gone = (
            bool(read)
            and not node.domain
            and node.outputs[0] not in model.outputs
            and node.outputs[0] not in captured
            and not any(
                name and (name in model.readers or name in model.outputs) for name in node.outputs[1:]
            )
            and _changes_nothing(model, node)
        )
        if gone:
            renamed[node.outputs[0]] = renamed.get(read, read)
        else:
            kept.append(node)
    if not renamed:
        return model
    nodes = [
        Node(
            node.name,
            node.op_type,
            tuple(renamed.get(name, name) for name in node.inputs),
            node.outputs,
            node.domain,
            node.attributes,
        )
        if any(name in renamed for name in node.inputs)
        else node
        for node in kept
    ]
    return model.with_nodes(nodes).without_dead_nodes()


def _changes_nothing(model: Model, node: Node) -> bool:
    before, after = model.type_of(node.inputs[0]), model.type_of(node.outputs[0])
    same = before.extents is not None and before.extents == after.extents
    match node.op_type:
        case "Identity":
            return node.inputs[0] not in model.odd
        case "Dropout":
            return len(node.inputs) < 3 or not _may_train(model, node.inputs[2])
        case "Cast":
            return before.element != 0 and before.element == node.attrs["to"]
        case "Slice" | "Expand" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Tile":
            return same and (node.op_type != "Slice" or _forwards(model, node))
        case "Pad":
            return same and node.attrs.get("mode", b"constant") == b"constant" and _no_pads(model, node)
        case "Transpose":
            perm = node.attrs.get("perm")
            return perm is not None and list(perm) == sorted(perm)
    return False


def _may_train(model: Model, name: str) -> bool:
    mode = model.constants.get(name)
    return bool(name) and (mode is None or bool(mode.reshape(-1)[0]))


def _forwards(model: Model, node: Node) -> bool:
    """Whether a Slice that keeps the shape keeps the order too."""
    steps = model.constants.get(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] else np.ones(1)
    return steps is not None and bool((steps > 0).all())


def _no_pads(model: Model, node: Node) -> bool:
    pads = (
        model.constants.get(node.inputs[1]) if len(node.inputs) > 1 else np.array(node.attrs.get("pads", [1]))
    )
    return pads is not None and not pads.any()


def known_types(model: Model, types: Mapping[str, TensorType]) -> Model:
    """The model with types that a run or an inference told, folded again."""
    better = {name: kind for name, kind in types.items() if model.shape_of(name) is None}
    return vanish(fold(model.with_nodes(model.nodes, types=better)))
