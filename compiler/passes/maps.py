"""Maps from class to probability, as scikit-learn's exporter gives them: arrays instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnx import TensorProto

from systolith.compiler.base.model import Model, Node, TensorType, make_node

__all__ = ["maps_to_arrays"]

#: Labels that a note names one by one.
_MOST_NAMED = 12


def maps_to_arrays(model: Model) -> tuple[Model, tuple[str, ...]]:
    """The model with the array of probabilities [N, classes] in the place of every ZipMap's list of maps,
    under the same name; a ZipMap whose maps another node reads stays.

    Returns
    -------
    the model, and one sentence for the user per output that changed
    """
    chosen = {
        node.name: node
        for node in model.nodes
        if node.op_type == "ZipMap" and node.domain == "ai.onnx.ml" and not model.readers.get(node.outputs[0])
    }
    if not chosen:
        return model, ()
    nodes = [
        make_node("Identity", node.inputs, node.outputs, node.name) if node.name in chosen else node
        for node in model.nodes
    ]
    results = {node.outputs[0]: _array_type(model, node) for node in chosen.values()}
    odd = {name: kind for name, kind in model.odd.items() if name not in results}
    notes = tuple(_note(node) for node in chosen.values() if node.outputs[0] in model.outputs)
    return replace(model.with_nodes(nodes, types=results), odd=odd), notes


def _array_type(model: Model, node: Node) -> TensorType:
    """The type of a ZipMap's operand, which is float [N, classes]."""
    known = model.type_of(node.inputs[0])
    return known if known.element else TensorType(TensorProto.FLOAT, (None, len(_labels(node))))


def _labels(node: Node) -> Sequence[object]:
    texts = [label.decode() for label in node.attrs.get("classlabels_strings", ())]
    return texts or list(node.attrs.get("classlabels_int64s", ()))


def _note(node: Node) -> str:
    labels = _labels(node)
    named = ", ".join(map(repr, labels)) if len(labels) <= _MOST_NAMED else f"{len(labels)} of them"
    return f"output {node.outputs[0]!r} is an array with a column per class ({named}), and no list of maps"
