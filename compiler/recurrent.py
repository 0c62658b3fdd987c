"""Calibration of recurrent nodes: what enters them, and how far their cell states reach."""

from __future__ import annotations

import numpy as np
import onnx
from onnxruntime.quantization import QuantType

from systolith.compiler.base.boundary import told
from systolith.compiler.base.errors import QuantiseError
from systolith.compiler.base.runtime import session
from systolith.compiler.ops.recurrent import CELL_RANGE, HIDDEN_BITS, HIDDEN_SCALE, OPERATORS, gate_weights

__all__ = ["SEQUENCE", "calibrate_recurrent", "hidden_scales", "observe_recurrent", "set_hidden_bits"]

#: Recurrent operators, and which operand holds the sequence.
SEQUENCE = {**dict.fromkeys(OPERATORS, 0), "Scan": 1}

#: Operators that hand on their operand's values.
_MOVERS = ("Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def observe_recurrent(
    model: onnx.ModelProto, samples: list[dict[str, np.ndarray]]
) -> dict[str, tuple[float, float, list[float]]]:
    """Per recurrent node: least and largest value that enters, and the largest cell state of each direction.

    Nodes with computed weights are left out; the import refuses them by name.
    """
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [
        node
        for node in model.graph.node
        if node.op_type in SEQUENCE and {*node.input[1:4]} <= {"", _sequence(node), *constants}
    ]
    if not nodes:
        return {}
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    names = list(
        dict.fromkeys(name for node in nodes for name in (_sequence(node), *node.input[5:7]) if name)
    )
    known = {value.name for value in (*shown.graph.output, *shown.graph.input)} | constants.keys()
    shown.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in names
        if name not in known
    )
    results = [value.name for value in shown.graph.output]
    runs_it = "check that it runs the model on the calibration data"
    with told(QuantiseError, "quantise", "", "ONNX Runtime could not run the model", runs_it):
        shown_session = session(shown)
    found = {node.name: (0.0, 0.0, []) for node in nodes}
    for sample in samples:
        with told(QuantiseError, "quantise", "", "ONNX Runtime could not run the model", runs_it):
            run = shown_session.run(None, sample)
        values = {**sample, **dict(zip(results, run, strict=True))}
        for node in nodes:
            x = values[_sequence(node)]
            low, high, largest = found[node.name]
            reached = _cell_states(node, x, constants | values) if node.op_type == "LSTM" else []
            found[node.name] = (
                min(low, float(x.min())),
                max(high, float(x.max())),
                [max(pair) for pair in zip(reached, largest or reached, strict=True)],
            )
    return found


def hidden_scales(model: onnx.ModelProto) -> dict[str, list[dict[str, object]]]:
    """For ONNX Runtime's quantiser (`TensorQuantOverrides`): what holds a hidden state keeps its scale, so
    that its readers need no table."""
    held: set[str] = set()
    for node in model.graph.node:
        if node.op_type in SEQUENCE:
            held.update(name for name in node.output if name)
        elif node.op_type in _MOVERS and node.input[0] in held:
            held.add(node.output[0])
    # Y_c and what an unknown Scan gives are not hidden states; but then their nodes are no layers of the
    # core.
    override = {
        "quant_type": QuantType.QInt8,
        "scale": np.array(HIDDEN_SCALE, np.float32),
        "zero_point": np.array(0, np.int8),
    }
    return {name: [override] for name in sorted(held)}


def set_hidden_bits(model: onnx.ModelProto, bits: int) -> None:
    """Note in the model's metadata how many bits the recurrence sees of a hidden state: 8 or 16."""
    for entry in [entry for entry in model.metadata_props if entry.key == HIDDEN_BITS]:
        model.metadata_props.remove(entry)
    model.metadata_props.add(key=HIDDEN_BITS, value=str(bits))


def _sequence(node: onnx.NodeProto) -> str:
    """Name of the sequence that a recurrent node steps through."""
    at = SEQUENCE[node.op_type]
    return node.input[at] if at < len(node.input) else ""


def _cell_states(node: onnx.NodeProto, x: np.ndarray, constants: dict[str, np.ndarray]) -> list[float]:
    """Largest magnitude of the cell state over a sequence, per direction, in float."""

    def operand(index: int) -> np.ndarray | None:
        name = node.input[index] if index < len(node.input) else ""
        return constants.get(name) if name else None

    w, r, b, initial_h, initial_c = (operand(index) for index in (1, 2, 3, 5, 6))
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    direction = attributes.get("direction", b"forward").decode()
    result = []
    for d in range(len(w)):
        weights, recurrent, bias = gate_weights(
            "LSTM", w[d], r[d], None if b is None else b[d], bool(attributes.get("input_forget", 0))
        )
        h = np.zeros((x.shape[1], r.shape[2])) if initial_h is None else initial_h[d]
        c = np.zeros_like(h) if initial_c is None else initial_c[d]
        largest = float(np.abs(c).max())
        for frame in x[:: -1 if direction == "reverse" or d == 1 else 1]:
            i, f, g, o = (
                np.einsum("ghi,ni->gnh", weights, frame)
                + np.einsum("ghk,nk->gnh", recurrent, h)
                + bias[:, None]
            )
            with np.errstate(over="ignore"):
                i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
            c = f * c + i * np.tanh(g)
            h = o * np.tanh(c)
            largest = max(largest, float(np.abs(c).max()))
        result.append(largest)
    return result


def calibrate_recurrent(
    model: onnx.ModelProto, observed: dict[str, tuple[float, float, list[float]]]
) -> None:
    """Quantise what enters each recurrent node where nothing else has, give its results their own scale, and
    note its cell states."""
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    scale_of = {}
    for node in [node for node in graph.node if node.name in observed]:
        low, high, largest = observed[node.name]
        if largest:
            entry = model.metadata_props.add()
            entry.key, entry.value = f"{CELL_RANGE}{node.name}", " ".join(f"{value:.9g}" for value in largest)
        origin = producers.get(_sequence(node))
        while origin is not None and origin.op_type in _MOVERS:
            origin = producers.get(origin.input[0])
        if origin is not None and (origin.op_type == "DequantizeLinear" or origin.op_type in SEQUENCE):
            continue
        name = _sequence(node)
        if name not in scale_of:
            scale_of[name] = _quantise(
                graph, name, min(low, 0.0), max(high, 0.0), list(graph.node).index(node)
            )
        node.input[SEQUENCE[node.op_type]] = scale_of[name]


def _quantise(graph: onnx.GraphProto, name: str, low: float, high: float, position: int) -> str:
    """QuantizeLinear and DequantizeLinear behind a tensor; the name of what they give."""
    scale = np.float32(max(high - low, 1e-6) / 255)
    zero = np.int8(np.clip(np.rint(-128 - low / scale), -128, 127))
    prefix = f"{name}_recurrent"
    graph.initializer.extend(
        [
            onnx.numpy_helper.from_array(np.array(scale), f"{prefix}_scale"),
            onnx.numpy_helper.from_array(np.array(zero), f"{prefix}_zero"),
        ]
    )
    operands = [f"{prefix}_scale", f"{prefix}_zero"]
    graph.node.insert(
        position,
        onnx.helper.make_node(
            "DequantizeLinear", [f"{prefix}_quantised", *operands], [prefix], name=f"{prefix}_dequantise"
        ),
    )
    graph.node.insert(
        position,
        onnx.helper.make_node(
            "QuantizeLinear", [name, *operands], [f"{prefix}_quantised"], name=f"{prefix}_quantise"
        ),
    )
    return prefix
