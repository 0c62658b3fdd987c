"""Calibration of recurrent nodes: what enters them, and how far their cell states reach."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime

from systolith.compiler.ops.recurrent import CELL_RANGE, OPERATORS, gate_weights

__all__ = ["calibrate_recurrent", "observe_recurrent"]

#: Operators that hand on their operand's values.
_MOVERS = ("Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def observe_recurrent(model: onnx.ModelProto, samples: list[dict[str, np.ndarray]]) -> dict[str, tuple[float, float, list[float]]]:
    """Per recurrent node: least and largest value that enters, and the largest cell state of each direction."""
    nodes = [node for node in model.graph.node if node.op_type in OPERATORS]
    if not nodes:
        return {}
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    names = list(dict.fromkeys(node.input[0] for node in nodes))
    known = {value.name for value in (*shown.graph.output, *shown.graph.input)}
    shown.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names if name not in known)
    results = [value.name for value in shown.graph.output]
    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    found = {node.name: (0.0, 0.0, []) for node in nodes}
    for sample in samples:
        values = {**sample, **dict(zip(results, session.run(None, sample), strict=True))}
        for node in nodes:
            x = values[node.input[0]]
            low, high, largest = found[node.name]
            reached = _cell_states(node, x, constants | values) if node.op_type == "LSTM" else []
            found[node.name] = min(low, float(x.min())), max(high, float(x.max())), [max(pair) for pair in zip(reached, largest or reached, strict=True)]
    return found


def _cell_states(node: onnx.NodeProto, x: np.ndarray, constants: dict[str, np.ndarray]) -> list[float]:
    """Largest magnitude of the cell state over a sequence, per direction, in float."""
    def operand(index: int) -> np.ndarray | None:
        name = node.input[index] if index < len(node.input) else ""
        return constants.get(name) if name else None

    w, r, b, initial_h, initial_c = (operand(index) for index in (1, 2, 3, 5, 6))
    direction = next((a.s.decode() for a in node.attribute if a.name == "direction"), "forward")
    result = []
    for d in range(len(w)):
        weights, recurrent, bias = gate_weights("LSTM", w[d], r[d], None if b is None else b[d])
        h = np.zeros((x.shape[1], r.shape[2])) if initial_h is None else initial_h[d]
        c = np.zeros_like(h) if initial_c is None else initial_c[d]
        largest = float(np.abs(c).max())
        for frame in x[:: -1 if direction == "reverse" or d == 1 else 1]:
            i, f, g, o = np.einsum("ghi,ni->gnh", weights, frame) + np.einsum("ghk,nk->gnh", recurrent, h) + bias[:, None]
            i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
            c = f * c + i * np.tanh(g)
            h = o * np.tanh(c)
            largest = max(largest, float(np.abs(c).max()))
        result.append(largest)
    return result


def calibrate_recurrent(model: onnx.ModelProto, observed: dict[str, tuple[float, float, list[float]]]) -> None:
    """Quantise what enters each recurrent node where nothing else has, give its results their own scale, and note its cell states."""
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    scale_of = {}
    for node in [node for node in graph.node if node.op_type in OPERATORS]:
        low, high, largest = observed[node.name]
        if largest:
            entry = model.metadata_props.add()
            entry.key, entry.value = f"{CELL_RANGE}{node.name}", " ".join(f"{value:.9g}" for value in largest)
        origin = producers.get(node.input[0])
        while origin is not None and origin.op_type in _MOVERS:
            origin = producers.get(origin.input[0])
        if origin is not None and (origin.op_type == "DequantizeLinear" or origin.op_type in OPERATORS):
            continue
        name = node.input[0]
        if name not in scale_of:
            scale_of[name] = _quantise(graph, name, min(low, 0.0), max(high, 0.0), list(graph.node).index(node))
        node.input[0] = scale_of[name]


def _quantise(graph: onnx.GraphProto, name: str, low: float, high: float, position: int) -> str:
    """QuantizeLinear and DequantizeLinear behind a tensor; the name of what they give."""
    scale = np.float32(max(high - low, 1e-6) / 255)
    zero = np.int8(np.clip(np.rint(-128 - low / scale), -128, 127))
    prefix = f"{name}_recurrent"
    graph.initializer.extend([onnx.numpy_helper.from_array(np.array(scale), f"{prefix}_scale"), onnx.numpy_helper.from_array(np.array(zero), f"{prefix}_zero")])
    operands = [f"{prefix}_scale", f"{prefix}_zero"]
    graph.node.insert(position, onnx.helper.make_node("DequantizeLinear", [f"{prefix}_quantised", *operands], [prefix], name=f"{prefix}_dequantise"))
    graph.node.insert(position, onnx.helper.make_node("QuantizeLinear", [name, *operands], [f"{prefix}_quantised"], name=f"{prefix}_quantise"))
    return prefix
