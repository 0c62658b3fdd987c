"""Small valid models of every kind that the compiler takes: what the ONNX fuzzer damages."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.compiler.qdq import QdqModel

__all__ = ["Seed", "seeds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """A model, and the samples for calibration (.npz) that it needs, or b''."""

    name: str
    model: bytes
    calib: bytes = b""


def _qdq(seed: int, unsigned: bool, host: str = "") -> onnx.ModelProto:
    """Conv, MaxPool, depthwise Conv, Add, Gemm; `host`: a Softmax behind, or a CumSum in front."""
    m = QdqModel(seed, unsigned)
    x = m.input(1, 2, 6, 6)
    if host == "before":
        x = m.quantise(m.node("CumSum", x, m.const(np.int64(1))), 0.1)
    y = m.quantise(m.node("Conv", x, m.weights(4, 2, 3, 3), m.bias(4), pads=[1, 1, 1, 1]), 0.2)
    pooled = m.node("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    z = m.quantise(m.node("Relu", m.node("Conv", pooled, m.weights(4, 1, 3, 3), group=4, pads=[1] * 4)), 0.1)
    z = m.quantise(m.node("Add", z, pooled), 0.1)
    mean = m.quantise(m.node("AveragePool", z, kernel_shape=[3, 3], count_include_pad=1), 0.1)
    flat = m.node("Reshape", mean, m.const(np.array([1, -1])))
    out = m.quantise(m.node("Gemm", flat, m.weights(5, 4), m.bias(5), transB=1), 0.2)
    if host == "after":
        out = m.node("Softmax", out, axis=1)
    return m.build(out)


def _more(seed: int) -> onnx.ModelProto:
    """Concat, Mul, tables, Transpose, Squeeze, one axis fewer, two inputs and two outputs."""
    m = QdqModel(seed, opset=17)
    a, b = m.input(1, 3, 8), m.input(1, 3, 8)
    y = m.quantise(m.node("Mul", a, b), 0.05)
    z = m.quantise(
        m.node("Sigmoid", m.quantise(m.node("Conv", a, m.weights(3, 3, 3), pads=[1, 1]), 0.1)), 1 / 256
    )
    joined = m.quantise(m.node("Concat", y, z, axis=1), 0.05)
    turned = m.node("Transpose", joined, perm=[0, 2, 1])
    out = m.quantise(m.node("MatMul", turned, m.weights(6, 4, axis=1)), 0.2)
    other = m.quantise(m.node("Clip", y, m.const(np.float32(-1)), m.const(np.float32(1))), 0.02)
    return m.build(out, other)


def _qlinear() -> onnx.ModelProto:
    """QLinearConv, QLinearAdd, QLinearGlobalAveragePool and QGemm between uint8 and uint8."""
    rng = np.random.default_rng(3)
    constants: dict[str, np.ndarray | np.generic] = {
        "w": rng.integers(-127, 128, (4, 2, 3, 3)).astype(np.int8),
        "ws": np.full(4, 0.01, np.float32),
        "wz": np.zeros(4, np.int8),
        "b": rng.integers(-200, 200, 4).astype(np.int32),
        "g": rng.integers(-127, 128, (3, 4)).astype(np.int8),
        "gs": np.float32(0.02),
        "gz": np.int8(0),
        "gb": rng.integers(-50, 50, 3).astype(np.int32),
        "s": np.float32(0.05),
        "z": np.uint8(120),
    }
    q = ["s", "z"]
    nodes = [
        helper.make_node("QLinearConv", ["x", *q, "w", "ws", "wz", *q, "b"], ["c"], "conv", pads=[1] * 4),
        helper.make_node("QLinearAdd", ["c", *q, "c", *q, *q], ["a"], "add", domain="com.microsoft"),
        helper.make_node(
            "QLinearGlobalAveragePool", ["a", *q, *q], ["p"], "pool", domain="com.microsoft", channels_last=0
        ),
        helper.make_node("Flatten", ["p"], ["f"], "flat"),
        helper.make_node(
            "QGemm", ["f", *q, "g", "gs", "gz", "gb", *q], ["y"], "gemm", domain="com.microsoft", transB=1
        ),
    ]
    return _model(nodes, {"x": (1, 2, 5, 5)}, ["y"], constants, TensorProto.UINT8)


def _float_cnn() -> onnx.ModelProto:
    rng = np.random.default_rng(4)
    constants = {
        "w": rng.normal(0, 0.3, (4, 2, 3, 3)).astype(np.float32),
        "b": rng.normal(0, 0.3, 4).astype(np.float32),
        "scale": rng.uniform(0.5, 1.5, 4).astype(np.float32),
        "shift": rng.normal(0, 0.3, 4).astype(np.float32),
        "mean": rng.normal(0, 0.3, 4).astype(np.float32),
        "var": rng.uniform(0.5, 1.5, 4).astype(np.float32),
        "d": rng.normal(0, 0.3, (4, 3)).astype(np.float32),
        "shape": np.array([0, -1]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"], "bn"),
        helper.make_node("Relu", ["n"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Reshape", ["p", "shape"], ["f"], "flat"),
        helper.make_node("MatMul", ["f", "d"], ["m"], "dense"),
        helper.make_node("Softmax", ["m"], ["y"], "softmax", axis=1),
    ]
    return _model(nodes, {"x": (1, 2, 5, 5)}, ["y"], constants, TensorProto.FLOAT)


def _recurrent(kind: str, gates: int) -> onnx.ModelProto:
    rng = np.random.default_rng(gates)
    units, width, extra = 4, 3, {"linear_before_reset": 1} if kind == "GRU" else {}
    constants = {
        "w": rng.normal(0, 0.4, (1, gates * units, width)).astype(np.float32),
        "r": rng.normal(0, 0.4, (1, gates * units, units)).astype(np.float32),
        "b": rng.normal(0, 0.4, (1, 2 * gates * units)).astype(np.float32),
        "d": rng.normal(0, 0.4, (units, 2)).astype(np.float32),
        "h": np.zeros((1, 1, units), np.float32),
        "axes": np.array([1]),
    }
    nodes = [
        helper.make_node(
            kind, ["x", "w", "r", "b", "", "h"], ["s", "last"], "cell", hidden_size=units, **extra
        ),
        helper.make_node("Squeeze", ["s", "axes"], ["q"], "squeeze"),
        helper.make_node("MatMul", ["q", "d"], ["y"], "dense"),
    ]
    return _model(nodes, {"x": (5, 1, width)}, ["y", "last"], constants, TensorProto.FLOAT)


def _subgraphs() -> onnx.ModelProto:
    """An If over a constant and a computed constant around a quantised layer, and a Scan on the host."""
    m = QdqModel(9)
    x = m.input(1, 4)

    def branch(name: str, value: float) -> onnx.GraphProto:
        constant = helper.make_node("Constant", [], [name], f"{name}_c", value_float=value)
        return helper.make_graph([constant], name, [], [helper.make_tensor_value_info(name, 1, [])])

    gain = m.node("If", m.const(np.array(True)), then_branch=branch("t", 0.5), else_branch=branch("e", 2.0))
    y = m.quantise(m.node("Mul", m.quantise(m.node("MatMul", x, m.weights(4, 3, axis=1)), 0.1), gain), 0.1)
    body = helper.make_graph(
        [
            helper.make_node("Add", ["state", "item"], ["next"]),
            helper.make_node("Identity", ["next"], ["seen"]),
        ],
        "body",
        [helper.make_tensor_value_info(name, 1, [3]) for name in ("state", "item")],
        [helper.make_tensor_value_info(name, 1, [3]) for name in ("next", "seen")],
    )
    zero = m.node("ConstantOfShape", m.const(np.array([3])))
    m.nodes.append(helper.make_node("Scan", [zero, y], ["last", "all"], "scan", num_scan_inputs=1, body=body))
    return m.build("last", "all")


def _model(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, ...]],
    outputs: list[str],
    constants: Mapping[str, np.ndarray | np.generic],
    kind: int,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "seed",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=9))


def _samples(model: onnx.ModelProto) -> bytes:
    """Four random samples of each input."""
    rng = np.random.default_rng(0)
    arrays = {
        value.name: rng.normal(0, 1, (4, *(dim.dim_value for dim in value.type.tensor_type.shape.dim)))
        for value in model.graph.input
    }
    file = io.BytesIO()
    np.savez(file, **{name: array.astype(np.float32) for name, array in arrays.items()})
    return file.getvalue()


@cache
def seeds() -> tuple[Seed, ...]:
    """Every model; each is accepted as it is."""
    quantised = {
        "qdq": _qdq(1, False),
        "qdq-unsigned": _qdq(2, True),
        "host-before": _qdq(3, False, "before"),
        "host-after": _qdq(4, False, "after"),
        "two": _more(5),
        "qlinear": _qlinear(),
        "subgraphs": _subgraphs(),
    }
    floats = {
        "cnn": _float_cnn(),
        "lstm": _recurrent("LSTM", 4),
        "gru": _recurrent("GRU", 3),
        "rnn": _recurrent("RNN", 1),
    }
    return (
        *(Seed(name=name, model=model.SerializeToString()) for name, model in quantised.items()),
        *(
            Seed(name=name, model=model.SerializeToString(), calib=_samples(model))
            for name, model in floats.items()
        ),
    )
