"""Every dress of quantised and fused operators comes out as plain ONNX of the same results."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from systolith.compiler.base.errors import ModelError, QuantiseError
from systolith.compiler.base.model import Model
from systolith.compiler.passes.dress import plain, weights_only
from tests.compiler.dressed import Dressed, kinds, run

INT8, UINT8 = TensorProto.INT8, TensorProto.UINT8


# QLinear operators.


def parameters(m: Dressed, scale: float, unsigned: bool) -> tuple[str, str]:
    kind = np.uint8 if unsigned else np.int8
    return m.const(scale * m.rng.uniform(0.7, 1.4), np.float32), m.const(m.ints(kind))


def quantised(m: Dressed, unsigned: bool, *shape: int) -> tuple[str, str, str]:
    return m.input(m.ints(np.uint8 if unsigned else np.int8, *shape)), *parameters(m, 0.05, unsigned)


def conv(m: Dressed, u: bool) -> str:
    scale = m.const(m.rng.uniform(0.002, 0.02, 6), np.float32)
    weights = [m.const(m.ints(np.int8, 6, 2, 3, 3)), scale, m.const(np.zeros(6), np.int8)]
    bias = m.const(m.rng.integers(-3000, 3000, 6), np.int32)
    x = quantised(m, u, 1, 4, 7, 7)
    return m.node("QLinearConv", *x, *weights, *parameters(m, 0.4, u), bias, group=2, pads=[1, 1, 1, 1])


def matmul(m: Dressed, u: bool) -> str:
    scale = m.const(m.rng.uniform(0.005, 0.02, 9), np.float32)
    weights = [m.const(m.ints(np.int8, 30, 9)), scale, m.const(np.zeros(9), np.int8)]
    return m.node("QLinearMatMul", *quantised(m, u, 2, 3, 30), *weights, *parameters(m, 0.6, u))


def gemm(alpha: float) -> object:
    def build(m: Dressed, u: bool) -> str:
        weights = [m.const(m.ints(np.int8, 9, 30)), m.const(0.01, np.float32), m.const(0, np.int8)]
        bias = m.const(m.rng.integers(-30000, 30000, 9), np.int32)
        x = quantised(m, u, 3, 30)
        out = parameters(m, 0.3, u)
        return m.microsoft("QGemm", *x, *weights, bias, *out, alpha=alpha, transB=1)

    return build


def binary(op: str) -> object:
    def build(m: Dressed, u: bool) -> str:
        a, b = quantised(m, u, 1, 3, 4, 5), quantised(m, u, 3, 1, 5)
        return m.microsoft(op, *a, *b, *parameters(m, 0.1, u))

    return build


def unary(op: str, *shape: int, scale: float = 0.05, **attributes: object) -> object:
    def build(m: Dressed, u: bool) -> str:
        return m.microsoft(op, *quantised(m, u, *shape), *parameters(m, scale, u), **attributes)

    return build


def concat(m: Dressed, u: bool) -> str:
    out = parameters(m, 0.05, u)
    return m.microsoft("QLinearConcat", *out, *quantised(m, u, 1, 3, 4), *quantised(m, u, 1, 5, 4), axis=1)


def where(m: Dressed, u: bool) -> str:
    condition = m.input(m.rng.integers(0, 2, (3, 4)).astype(bool))
    a, b = quantised(m, u, 2, 3, 4), quantised(m, u, 3, 4)
    return m.microsoft("QLinearWhere", condition, *a, *b, *parameters(m, 0.06, u))


QLINEAR = {
    "conv": conv,
    "matmul": matmul,
    "gemm": gemm(1.0),
    "gemm_alpha": gemm(0.5),
    "add": binary("QLinearAdd"),
    "mul": binary("QLinearMul"),
    "average": unary("QLinearAveragePool", 1, 3, 6, 6, kernel_shape=[3, 3], strides=[2, 2]),
    "average_last": unary("QLinearAveragePool", 1, 6, 6, 3, kernel_shape=[3, 3], channels_last=1),
    "global": unary("QLinearGlobalAveragePool", 1, 30, 6, 6, channels_last=0),
    "global_last": unary("QLinearGlobalAveragePool", 1, 6, 6, 5, channels_last=1),
    "sigmoid": unary("QLinearSigmoid", 1, 300, scale=1 / 256),
    "leaky": unary("QLinearLeakyRelu", 1, 300, alpha=0.1),
    "softmax": unary("QLinearSoftmax", 4, 10, scale=1 / 256, axis=-1, opset=13),
    "concat": concat,
    "where": where,
}


@pytest.mark.parametrize("unsigned", [False, True], ids=["int8", "uint8"])
@pytest.mark.parametrize("name", QLINEAR)
def test_qlinear_operators_stand_between_dequantize_and_quantize(name: str, unsigned: bool) -> None:
    for seed in range(4):
        m = Dressed(seed)
        y = QLINEAR[name](m, unsigned)
        made = m.check(y, kind=UINT8 if unsigned else INT8, within=1)
        assert not any(node.domain for node in made.nodes)
        assert made.producer[y].op_type == "QuantizeLinear"
        assert made.by_name[m.nodes[-1].name].op_type not in ("QuantizeLinear", "DequantizeLinear")


@pytest.mark.parametrize("opset", [13, 18])
def test_a_quantised_mean_which_onnx_runtime_does_not_have(opset: int) -> None:
    m = Dressed(0, opset)
    x, scale, zero = m.ints(np.int8, 2, 5, 6), m.const(0.05, np.float32), m.const(7, np.int8)
    y = m.microsoft("QLinearReduceMean", m.input(x), scale, zero, scale, zero, axes=[1], keepdims=0)
    made = plain(Model.from_proto(m.model(y, kind=INT8)))
    assert kinds(made) == ["DequantizeLinear", "ReduceMean", "QuantizeLinear"]
    np.testing.assert_array_equal(run(made.to_proto(), m.feeds)[0], np.rint(x.mean(axis=1)))


def test_an_old_opset_gets_operators_that_it_has() -> None:
    m = Dressed(0, opset=10)
    y = conv(m, True)
    made = m.check(y, kind=UINT8, within=1)
    # An axis is new in 13; per-channel weights are dequantised by Microsoft's operator.
    assert {node.domain for node in made.nodes if "axis" in node.attrs} == {"com.microsoft"}


def test_qgemm_without_a_result_scale_gives_floats() -> None:
    m = Dressed(0)
    weights = [m.const(m.ints(np.int8, 9, 30)), m.const(0.01, np.float32), m.const(0, np.int8)]
    y = m.microsoft("QGemm", *quantised(m, False, 3, 30), *weights, transB=1)
    assert kinds(m.check(y, within=1e-4))[-1] == "Gemm"


def test_a_missing_zero_point_of_int8_is_zero() -> None:
    m = Dressed(0)
    x, scale, _ = quantised(m, False, 1, 30)
    y = m.microsoft("QLinearLeakyRelu", x, scale, "", m.const(0.04, np.float32), "", alpha=0.5)
    m.check(y, kind=INT8, within=1)


def test_a_bias_of_unknown_unit_leaves_the_node_to_the_host() -> None:
    m = Dressed(0)
    scale = m.input(np.array(0.05, np.float32))
    weights = [m.const(m.ints(np.int8, 6, 4, 3, 3)), m.const(0.01, np.float32), m.const(0, np.int8)]
    x, zero = m.input(m.ints(np.int8, 1, 4, 7, 7)), m.const(3, np.int8)
    out = m.const(0.4, np.float32), zero
    y = m.node("QLinearConv", x, scale, zero, *weights, *out, m.const(np.zeros(6), np.int32))
    assert kinds(m.check(y, kind=INT8)) == ["QLinearConv"]


def test_contradictions_are_named() -> None:
    m = Dressed(0)
    x = quantised(m, False, 1, 4, 7, 7)
    weights = [m.const(m.ints(np.int8, 6, 4, 3, 3)), m.const(np.zeros(0), np.float32), m.const(0, np.int8)]
    bias = m.const(np.zeros(6), np.int32)
    y = m.node("QLinearConv", *x, *weights, *x[1:], bias)
    with pytest.raises(QuantiseError, match=r"node_qlinearconv0.*scales of shapes \[\] and \[0\]"):
        plain(Model.from_proto(m.model(y, kind=INT8)))
    m = Dressed(0)
    y = m.microsoft("QLinearAdd", *quantised(m, False, 3))
    with pytest.raises(ModelError, match="node_qlinearadd0.*does not make 1 results of 3 operands"):
        plain(Model.from_proto(m.model(y, kind=INT8)))
    m = Dressed(0)
    y = m.microsoft("QLinearLeakyRelu", *quantised(m, False, 3), *parameters(m, 1, False), alpha=1)
    with pytest.raises(ModelError, match="attribute 'alpha'.*must be of type FLOAT"):
        plain(Model.from_proto(m.model(y, kind=INT8)))


# Dynamic quantisation.


def near(m: Dressed, y: str, part: float = 0.03) -> Model:
    """The plain model; dynamic quantisation moves the results by some parts of their range."""
    (result,) = run(m.model(y), m.feeds)
    return m.check(y, within=float(np.abs(result).max()) * part)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("form", ["one_scale", "two_muls", "bias_last"])
def test_a_dynamic_product_is_a_product_of_floats(form: str, kind: type, per_channel: bool) -> None:
    m = Dressed(0)
    xq = m.node("DynamicQuantizeLinear", m.input(m.normal(3, 24)), outputs=3)
    weights, zero = m.const(m.ints(kind, 24, 5)), m.const(0 if kind is np.int8 else 130, kind)
    scale = m.const(m.rng.uniform(0.005, 0.02, 5 if per_channel else ()), np.float32)
    y = m.node("MatMulInteger", xq, weights, f"{xq}_2", zero)
    y = m.node("Cast", y, to=TensorProto.FLOAT)
    if form == "two_muls":
        y = m.node("Mul", m.node("Mul", y, f"{xq}_1"), scale)
    else:
        y = m.node("Mul", m.node("Mul", scale, f"{xq}_1"), y)
    if form == "bias_last":
        y = m.node("Add", y, m.const(m.normal(5)))
    assert weights_only(m.typed(y))
    made = near(m, y)
    assert kinds(made) == ["MatMul", "Add"][: 2 if form == "bias_last" else 1]


def test_a_dynamic_product_of_two_computed_tensors() -> None:
    m = Dressed(1)
    a = m.node("DynamicQuantizeLinear", m.input(m.normal(2, 6, 8)), outputs=3)
    b = m.node("DynamicQuantizeLinear", m.input(m.normal(2, 8, 4)), outputs=3)
    y = m.node("Cast", m.node("MatMulInteger", a, b, f"{a}_2", f"{b}_2"), to=TensorProto.FLOAT)
    y = m.node("Mul", y, m.node("Mul", f"{a}_1", f"{b}_1"))
    assert kinds(near(m, y)) == ["MatMul"]


def test_a_product_whose_unit_is_incomplete_stays() -> None:
    m = Dressed(1)
    x = m.node("DynamicQuantizeLinear", m.input(m.normal(3, 24)), outputs=3)
    y = m.node("MatMulInteger", x, m.const(m.ints(np.int8, 24, 5)), f"{x}_2")
    y = m.node("Cast", y, to=TensorProto.FLOAT)
    assert "DynamicQuantizeLinear" in kinds(m.check(y, within=1e-3))


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_dynamic_convolution(per_channel: bool) -> None:
    m = Dressed(2)
    x = m.node("DynamicQuantizeLinear", m.input(m.normal(1, 4, 6, 6)), outputs=3)
    y = m.node(
        "ConvInteger", x, m.const(m.ints(np.uint8, 6, 4, 3, 3)), f"{x}_2", m.const(127, np.uint8),
        pads=[1, 1, 1, 1],
    )  # fmt: skip
    y = m.node("Cast", y, to=TensorProto.FLOAT)
    scale = m.rng.uniform(0.005, 0.02, (6, 1, 1) if per_channel else ())
    y = m.node("Mul", y, m.node("Mul", f"{x}_1", m.const(scale, np.float32)))
    y = m.node("Add", y, m.const(m.normal(1, 6, 1, 1)))
    made = near(m, y)
    assert kinds(made) == ["Conv", "Add"] and made.nodes[0].attrs["pads"] == [1, 1, 1, 1]


@pytest.mark.parametrize("bias", [False, True])
def test_microsofts_dynamic_products(bias: bool) -> None:
    m = Dressed(3)
    scale, zero = m.const(m.rng.uniform(0.005, 0.02, 5), np.float32), m.const(np.full(5, 3), np.int8)
    weights = m.const(m.ints(np.int8, 24, 5))
    added = [m.const(m.normal(5))] if bias else []
    y = m.microsoft("DynamicQuantizeMatMul", m.input(m.normal(3, 24)), weights, scale, zero, *added)
    assert kinds(near(m, y)) == ["MatMul", "Add"][: 1 + bias]
    x = m.node("DynamicQuantizeLinear", "x0", outputs=3)
    y = m.microsoft("MatMulIntegerToFloat", x, weights, f"{x}_1", scale, f"{x}_2", zero, *added)
    made = near(m, y)
    assert kinds(made) == ["MatMul", "Add"][: 1 + bias] and weights_only(m.typed(y))


def test_matmul_integer_to_float_of_static_integers() -> None:
    m = Dressed(4)
    scales = m.const(0.05, np.float32), m.const(m.rng.uniform(0.005, 0.02, 5), np.float32)
    zeros = m.const(3, np.uint8), m.const(np.zeros(5), np.int8)
    x, weights = m.input(m.ints(np.uint8, 3, 24)), m.const(m.ints(np.int8, 24, 5))
    y = m.microsoft("MatMulIntegerToFloat", x, weights, *scales, *zeros)
    assert kinds(m.check(y, within=1e-4)) == ["DequantizeLinear", "DequantizeLinear", "MatMul"]


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_a_dynamic_lstm(direction: str, per_channel: bool) -> None:
    m = Dressed(5)
    dirs, hidden, inputs = 1 + (direction == "bidirectional"), 4, 6
    operands = [m.input(m.normal(7, 1, inputs))]
    operands += [m.const(m.ints(np.int8, dirs, size, 4 * hidden)) for size in (inputs, hidden)]
    operands += [m.const(m.normal(dirs, 8 * hidden)), "", "", "", ""]
    shape = (dirs, 4 * hidden) if per_channel else (dirs,)
    for _ in range(2):
        operands.append(m.const(m.rng.uniform(0.002, 0.006, shape), np.float32))
        operands.append(m.const(np.zeros(shape), np.int8))
    y = m.microsoft("DynamicQuantizeLSTM", *operands, outputs=3, hidden_size=hidden, direction=direction)
    made = m.check(y, within=0.02)
    assert kinds(made) == ["LSTM"] and weights_only(m.typed(y))


def test_a_static_integer_product_keeps_its_sums() -> None:
    m = Dressed(6)
    x, weights = m.input(m.ints(np.uint8, 3, 24)), m.const(m.ints(np.int8, 24, 5))
    y = m.node("MatMulInteger", x, weights, m.const(7, np.uint8), m.const(0, np.int8))
    made = m.check(y, kind=TensorProto.INT32)
    assert kinds(made) == ["DequantizeLinear", "DequantizeLinear", "MatMul", "Cast"]


@pytest.mark.parametrize("conv", [False, True])
def test_a_static_integer_product_with_its_unit(conv: bool) -> None:
    m = Dressed(7)
    x = m.input(m.normal(1, 4, 6, 6) if conv else m.normal(3, 24))
    zero = m.const(5, np.int8)
    q = m.node("QuantizeLinear", x, m.const(0.03, np.float32), zero)
    weights = m.const(m.ints(np.int8, *((6, 4, 3, 3) if conv else (24, 6))))
    y = m.node("ConvInteger" if conv else "MatMulInteger", q, weights, zero)
    unit = m.rng.uniform(1e-4, 1e-3, (1, 6, 1, 1) if conv else 6)
    y = m.node("Mul", m.node("Cast", y, to=TensorProto.FLOAT), m.const(unit, np.float32))
    made = m.check(y, within=1e-4)
    assert kinds(made) == ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear"] + [
        "Conv" if conv else "MatMul"
    ]
    scales = {made.constants[node.inputs[1]].size for node in made.nodes if "Deq" in node.op_type}
    assert scales == {1, 6} and not weights_only(m.typed(y))


# Domains.


def test_microsofts_quantisers_are_onnxs_where_the_opset_has_them() -> None:
    for opset, domain in ((11, "com.microsoft"), (13, "")):
        m = Dressed(8, opset)
        scale = m.const(m.rng.uniform(0.01, 0.05, 4), np.float32), m.const(np.zeros(4), np.int8)
        q = m.microsoft("QuantizeLinear", m.input(m.normal(3, 4)), *scale, axis=1)
        made = m.check(m.microsoft("DequantizeLinear", q, *scale, axis=1))
        assert {node.domain for node in made.nodes} == {domain}
