"""A quantised graph beside ONNX Runtime, layer by layer: ONNX Runtime gives every tensor, and each layer is
judged on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime

from systolith.compiler.base.runtime import session, session_options
from systolith.reference.graph import QGraph, QNode, QTensor

__all__ = ["LayerDifference", "OrtLayers", "held", "literal_session"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDifference:
    """One layer on one sample.

    Parameters
    ----------
    name, op_type : the node's
    alone         : our codes minus ONNX Runtime's, both computed from ONNX Runtime's operands of this layer
    chained       : the same where ours is computed from our own operands, so that the differences of earlier
                    layers count too
    ties          : elements that differ in `alone` because the mean of equally scaled integers lies exactly
                    between two codes; ONNX Runtime, which computes it in float, goes to either side there
    """

    name: str
    op_type: str
    alone: np.ndarray
    chained: np.ndarray
    ties: int


class OrtLayers:
    """A quantised model in ONNX Runtime, optimisations off, with every tensor that the graph has too as an
    output.

    Parameters
    ----------
    model : the quantised model that `graph` was imported from
    """

    def __init__(self, model: onnx.ModelProto, graph: QGraph) -> None:
        self.graph = graph
        exposed = onnx.ModelProto()
        exposed.CopyFrom(model)
        known = {value.name for value in model.graph.output}
        made = [
            name
            for node in model.graph.node
            for name in node.output
            if name in graph.tensors and name not in known
        ]
        exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
        self._session = literal_session(exposed)
        self._names = [value.name for value in self._session.get_outputs()]

    def run(self, codes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """ONNX Runtime's tensors as the graph holds them, int8, for int8 inputs."""
        tensors = self.graph.tensors
        values = {name: tensor.data for name, tensor in tensors.items() if tensor.data is not None}
        values.update((name, codes[name]) for name in self.graph.inputs)
        feeds = {name: _given(codes[name], tensors[name]) for name in self.graph.inputs}
        results = self._session.run(self._names, feeds)
        values.update(
            (name, held(array, tensors[name])) for name, array in zip(self._names, results, strict=True)
        )
        return values

    def compare(self, codes: dict[str, np.ndarray]) -> list[LayerDifference]:
        """Every layer that the model has a tensor for; a step that it does not have is judged with the next
        one that it has."""
        values = self.run(codes)
        ours = self.graph.run(codes)
        found = []
        for node in self.graph.nodes:
            operands = [values[name] for name in node.inputs]
            result = node.op.run(*operands)
            if node.output not in values:
                values[node.output] = result
                continue
            theirs = values[node.output]
            alone = result.astype(np.int16) - theirs
            found.append(
                LayerDifference(
                    name=node.name,
                    op_type=node.op_type,
                    alone=alone,
                    chained=ours[node.output].astype(np.int16) - theirs,
                    ties=int(np.count_nonzero(alone[_ties(node, self.graph, operands[0])]))
                    if np.any(alone)
                    else 0,
                )
            )
        missing = set(self.graph.outputs) - set(values)
        if missing:
            raise AssertionError(f"ONNX Runtime's model has no tensor {sorted(missing)[0]!r}")
        return found


def literal_session(model: onnx.ModelProto | str) -> onnxruntime.InferenceSession:
    """A model, or its path, in ONNX Runtime without optimisations: what the graph says, operator by
    operator."""
    options = session_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return session(model, options)


def _given(codes: np.ndarray, tensor: QTensor) -> np.ndarray:
    """Codes in the type that the model's input has."""
    if tensor.dtype == "int8":
        return codes
    if tensor.dtype == "uint8":
        return (codes.astype(np.int16) + 128).astype(np.uint8)
    return (codes.astype(np.int32) - tensor.zero_point).astype(np.float32) * np.float32(tensor.scale)


def held(array: np.ndarray, tensor: QTensor) -> np.ndarray:
    """ONNX Runtime's values as the graph holds them."""
    if array.dtype == np.int8:
        return array
    if array.dtype == np.uint8:
        return (array.astype(np.int16) - 128).astype(np.int8)
    codes = np.rint(array / np.float32(tensor.scale)) + tensor.zero_point
    clipped: np.ndarray = np.clip(codes, -128, 127)
    return clipped.astype(np.int8)


def _ties(node: QNode, graph: QGraph, x: np.ndarray) -> np.ndarray:
    """Where the result is a mean of integers in the scale of its operand, and lies exactly between two
    codes."""
    source, result = graph.tensors[node.inputs[0]], graph.tensors[node.output]
    ties = node.op.ties(x) if source.scale == result.scale else None
    return np.zeros(result.shape, bool) if ties is None else ties
