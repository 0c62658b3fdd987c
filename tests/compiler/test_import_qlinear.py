"""QLinear operators import to the same graph as QDQ form."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from systolith.compiler.partition import import_model
from systolith.evidence.layerwise import held
from tests.compiler.qdq import QdqModel, layer_differences


class _Integers(QdqModel):
    """Integer tensors between nodes."""

    def integer_input(self, *shape):
        name = self.name("x")
        kind = TensorProto.UINT8 if self.unsigned else TensorProto.INT8
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return (name, *self.parameters(self.scale()))

    def finish(self, name):
        kind = TensorProto.UINT8 if self.unsigned else TensorProto.INT8
        value = helper.make_tensor_value_info(name, kind, None)
        graph = helper.make_graph(self.nodes, "integers", self.inputs, [value], self.initializers)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return onnx.shape_inference.infer_shapes(
            helper.make_model(graph, opset_imports=opsets, ir_version=10)
        )

    def int8(self, *shape):
        return self.const(self.rng.integers(-127, 128, shape).astype(np.int8))


def qlinear_conv(m):
    w_scale = m.const(m.rng.uniform(0.002, 0.02, 8).astype(np.float32))
    bias = m.const(m.rng.integers(-3000, 3000, 8).astype(np.int32))
    x = m.integer_input(1, 4, 7, 7)
    return m.node(
        "QLinearConv",
        *x,
        m.int8(8, 4, 3, 3),
        w_scale,
        m.const(np.zeros(8, np.int8)),
        *m.parameters(m.scale(0.6)),
        bias,
        pads=[1, 1, 1, 1],
    )


def qlinear_matmul(m):
    return m.node(
        "QLinearMatMul",
        *m.integer_input(3, 30),
        m.int8(30, 9),
        m.const(np.float32(0.01)),
        m.const(np.int8(0)),
        *m.parameters(m.scale(0.6)),
    )


def qlinear_binary(op):
    return lambda m: m.node(
        op,
        *m.integer_input(1, 3, 4, 5),
        *m.integer_input(1, 3, 4, 5),
        *m.parameters(m.scale(0.1 if op == "QLinearAdd" else 0.3)),
        domain="com.microsoft",
    )


def qlinear_average(m):
    return m.node(
        "QLinearAveragePool",
        *m.integer_input(1, 3, 6, 6),
        *m.parameters(m.scale()),
        domain="com.microsoft",
        kernel_shape=[3, 3],
        strides=[2, 2],
    )


def qlinear_global(m):
    return m.node(
        "QLinearGlobalAveragePool",
        *m.integer_input(1, 30, 6, 6),
        *m.parameters(m.scale()),
        domain="com.microsoft",
        channels_last=0,
    )


def qlinear_sigmoid(m):
    return m.node("QLinearSigmoid", *m.integer_input(1, 300), *m.parameters(1 / 256), domain="com.microsoft")


def qlinear_concat(m):
    parts = [*m.integer_input(1, 3, 4), *m.integer_input(1, 5, 4)]
    return m.node("QLinearConcat", *m.parameters(m.scale()), *parts, domain="com.microsoft", axis=1)


CASES = {
    "conv": qlinear_conv,
    "matmul": qlinear_matmul,
    "add": qlinear_binary("QLinearAdd"),
    "mul": qlinear_binary("QLinearMul"),
    "average_pool": qlinear_average,
    "global_average_pool": qlinear_global,
    "sigmoid": qlinear_sigmoid,
    "concat": qlinear_concat,
}


@pytest.mark.parametrize("unsigned", [False, True], ids=["int8", "uint8"])
@pytest.mark.parametrize("name", CASES)
def test_qlinear_operators_agree_with_onnx_runtime(name, unsigned):
    equal = total = 0
    for seed in range(6):
        m = _Integers(seed, unsigned)
        # ONNX Runtime's QLinearConv takes int8 weights with either type of activation.
        model = m.finish(CASES[name](m))
        graph = import_model(model)
        assert {graph.tensors[t].dtype for t in (*graph.inputs, *graph.outputs)} == {
            "uint8" if unsigned else "int8"
        }
        for layer, difference in layer_differences(model, graph, seed).items():
            assert np.abs(difference).max() <= 1, f"{layer}, seed {seed}"
            equal += int((difference == 0).sum())
            total += difference.size
    assert equal >= 0.995 * total, f"{total - equal} of {total} elements differ"


@pytest.mark.parametrize("unsigned", [False, True], ids=["int8", "uint8"])
def test_channels_last_runs_between_transpositions(unsigned):
    m = _Integers(0, unsigned)
    y = m.node(
        "QLinearGlobalAveragePool",
        *m.integer_input(1, 4, 4, 300),
        *m.parameters(0.02),
        domain="com.microsoft",
        channels_last=1,
    )
    model = m.finish(y)
    graph = import_model(model)
    assert "GlobalAveragePool" in {node.op_type for node in graph.nodes}
    (name,), differing = graph.inputs, 0
    kind = np.uint8 if unsigned else np.int8
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for _ in range(4):
        x = m.rng.integers(*((0, 256) if unsigned else (-128, 128)), (1, 4, 4, 300)).astype(kind)
        (theirs,) = session.run(None, {name: x})
        ours = graph.run({name: held(x, graph.tensors[name])})[graph.outputs[0]]
        assert ours.shape == theirs.shape
        difference = ours.astype(int) - held(theirs, graph.tensors[graph.outputs[0]])
        assert np.abs(difference).max() <= 1
        differing += np.count_nonzero(difference)
    assert differing <= 0.005 * 4 * 300
