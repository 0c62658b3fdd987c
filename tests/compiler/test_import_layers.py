"""Every operator and attribute, against ONNX Runtime on the same QDQ model."""

import numpy as np
import pytest

from systolith.compiler.partition import import_model
from tests.compiler.qdq import QdqModel, layer_differences

SEEDS = range(6)


def conv(
    m, *, size=(9, 8), channels=6, out=8, kernel=(3, 3), group=1, bias=True, axis=0, near=None, **attributes
):
    x = m.input(1, channels, *size)
    w = m.weights(out, channels // group, *kernel, axis=axis)
    y = m.node("Conv", x, w, *([m.bias(out)] if bias else []), group=group, **attributes)
    return m, y, near or 0.1 * np.sqrt(channels // group * np.prod(kernel))


def quantised_int32_bias(m):
    x_scale = m.scale()
    x = m.input(1, 4, 6, 6, scale=x_scale)
    w_scale = m.rng.uniform(0.002, 0.02, 5).astype(np.float32)
    w = m.node(
        "DequantizeLinear",
        m.const(m.rng.integers(-127, 128, (5, 4, 3, 3)).astype(np.int8)),
        m.const(w_scale),
        axis=0,
    )
    b = m.node(
        "DequantizeLinear",
        m.const(m.rng.integers(-9000, 9000, 5).astype(np.int32)),
        m.const(w_scale * x_scale),
        axis=0,
    )
    return m, m.node("Conv", x, w, b), 0.6


def uint8_weights(m):
    x = m.input(1, 4, 6, 6)
    data = m.const(m.rng.integers(0, 256, (5, 4, 3, 3)).astype(np.uint8))
    return (
        m,
        m.node(
            "Conv", x, m.node("DequantizeLinear", data, m.const(np.float32(0.01)), m.const(np.uint8(128)))
        ),
        0.6,
    )


def clipped(m, kind):
    m, y, near = conv(m)
    if kind == "Clip":
        return m, m.node("Clip", y, m.const(np.float32(-3)), m.const(np.float32(4.1))), near
    return m, m.node("Relu", y), near


def dense(m, op, **attributes):
    rows = int(m.rng.integers(1, 4))
    if op == "MatMul":
        return (
            m,
            m.node("Add", m.node("MatMul", m.input(2, rows, 40), m.weights(40, 12, axis=1)), m.bias(12)),
            0.6,
        )
    shape = (12, 40) if attributes.get("transB") else (40, 12)
    w = m.weights(*shape, axis=0 if attributes.get("transB") else 1)
    return (
        m,
        m.node("Gemm", m.input(rows, 40), w, m.bias(12), **attributes),
        0.6 * abs(attributes.get("alpha", 1)),
    )


def pool(m, op, shape=(2, 5, 9, 10), **attributes):
    return m, m.node(op, m.input(*shape), **attributes), 0.05


def pooled_relu_conv(m):
    m, y, near = conv(m, size=(10, 10))
    return (
        m,
        m.node("MaxPool", m.node("Relu", y), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        near,
    )


def binary(m, op, a=(1, 4, 5, 6), b=(1, 4, 5, 6)):
    return m, m.node(op, m.input(*a), m.input(*b)), 0.07 if op != "Mul" else 0.3


def with_constant(m, op, shape=(4, 1, 1), first=False):
    data = m.node(
        "DequantizeLinear",
        m.const(m.rng.integers(-128, 128, shape).astype(np.int8)),
        m.const(m.scale()),
        m.const(np.int8(7)),
    )
    x = m.input(1, 4, 5, 6)
    return m, m.node(op, *((data, x) if first else (x, data))), 0.07 if op != "Mul" else 0.3


def float_constant(m, op, shape=(1, 4, 1, 1), first=False):
    data = m.const(m.rng.normal(0, 2, shape).astype(np.float32))
    x = m.input(1, 4, 5, 6)
    return m, m.node(op, *((data, x) if first else (x, data))), 0.08 if op != "Mul" else 0.12


def batch_norm(m, after_conv=False):
    x = m.node("Conv", m.input(1, 4, 6, 6), m.weights(4, 4, 3, 3)) if after_conv else m.input(1, 4, 6, 6)
    parameters = [
        m.const(a.astype(np.float32))
        for a in (m.rng.normal(1, 1, 4), m.rng.normal(size=4), m.rng.normal(size=4), m.rng.uniform(0.5, 2, 4))
    ]
    return m, m.node("BatchNormalization", x, *parameters, epsilon=1e-3), 0.8 if after_conv else 0.08


def concat(m, axis):
    parts = [m.input(1, 3, 4, 5), m.input(1, 3, 4, 5, scale=0.013), m.input(1, 3, 4, 5)]
    return m, m.node("Concat", *parts, axis=axis), 0.05


def reshaped(m, op, *rest, **attributes):
    x = m.input(1, 3, 4, 5)
    return m, m.node(op, x, *(m.const(np.array(r, np.int64)) for r in rest), **attributes), 0.05


CASES = {
    "conv": conv,
    "conv_per_tensor": lambda m: conv(m, axis=None, bias=False),
    "conv_strided_dilated": lambda m: conv(m, size=(13, 11), strides=[2, 3], dilations=[2, 1]),
    "conv_asymmetric_pads": lambda m: conv(m, pads=[0, 2, 1, 0]),
    "conv_same_upper": lambda m: conv(m, auto_pad="SAME_UPPER", strides=[2, 2], kernel=(4, 3)),
    "conv_same_lower": lambda m: conv(m, auto_pad="SAME_LOWER", strides=[2, 2], kernel=(4, 3)),
    "conv_valid": lambda m: conv(m, auto_pad="VALID"),
    "conv_depthwise": lambda m: conv(m, group=6, out=6, pads=[1, 1, 1, 1]),
    "conv_depthwise_multiplier": lambda m: conv(m, group=6, out=12),
    "conv_grouped": lambda m: conv(m, group=2),
    "conv_1d": lambda m: conv(m, size=(30,), kernel=(5,), strides=[2], dilations=[2], pads=[3, 1]),
    "conv_int32_bias": quantised_int32_bias,
    "conv_uint8_weights": uint8_weights,
    "conv_relu": lambda m: clipped(m, "Relu"),
    "conv_clip": lambda m: clipped(m, "Clip"),
    "conv_relu_max_pool": pooled_relu_conv,
    "matmul_add": lambda m: dense(m, "MatMul"),
    "gemm": lambda m: dense(m, "Gemm"),
    "gemm_transposed_scaled": lambda m: dense(m, "Gemm", transB=1, alpha=0.5, beta=1.5),
    "gemm_negative_alpha": lambda m: dense(m, "Gemm", alpha=-0.7),
    "max_pool": lambda m: pool(m, "MaxPool", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    "max_pool_ceil_dilated": lambda m: pool(
        m, "MaxPool", kernel_shape=[2, 3], strides=[3, 2], dilations=[2, 1], ceil_mode=1
    ),
    "max_pool_1d": lambda m: pool(
        m, "MaxPool", (1, 3, 17), kernel_shape=[3], strides=[2], auto_pad="SAME_UPPER"
    ),
    "average_pool": lambda m: pool(m, "AveragePool", kernel_shape=[3, 3], strides=[2, 1], pads=[1, 1, 1, 1]),
    "average_pool_include_pad": lambda m: pool(
        m, "AveragePool", kernel_shape=[3, 3], pads=[1, 1, 0, 1], count_include_pad=1
    ),
    "average_pool_ceil": lambda m: pool(m, "AveragePool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "average_pool_ceil_include_pad": lambda m: pool(
        m,
        "AveragePool",
        kernel_shape=[3, 3],
        strides=[2, 2],
        ceil_mode=1,
        pads=[1, 1, 1, 1],
        count_include_pad=1,
    ),
    "average_pool_1d": lambda m: pool(
        m, "AveragePool", (1, 3, 17), kernel_shape=[4], strides=[3], auto_pad="SAME_LOWER"
    ),
    "global_average_pool": lambda m: pool(m, "GlobalAveragePool", (2, 40, 7, 6)),
    "global_max_pool": lambda m: pool(m, "GlobalMaxPool"),
    "add": lambda m: binary(m, "Add"),
    "add_broadcast": lambda m: binary(m, "Add", b=(4, 1, 6)),
    "sub": lambda m: binary(m, "Sub"),
    "mul": lambda m: binary(m, "Mul"),
    "mul_broadcast": lambda m: binary(m, "Mul", b=(1, 4, 1, 1)),
    "add_constant": lambda m: with_constant(m, "Add"),
    "sub_from_constant": lambda m: with_constant(m, "Sub", first=True),
    "mul_constant": lambda m: with_constant(m, "Mul", (5, 6)),
    "mul_scalar": lambda m: with_constant(m, "Mul", ()),
    "mul_float_channels": lambda m: float_constant(m, "Mul"),
    "sub_from_float_channels": lambda m: float_constant(m, "Sub", first=True),
    "batch_normalization": batch_norm,
    "conv_batch_normalization": lambda m: batch_norm(m, after_conv=True),
    "concat_channels": lambda m: concat(m, 1),
    "concat_last": lambda m: concat(m, -1),
    "flatten": lambda m: reshaped(m, "Flatten", axis=2),
    "reshape": lambda m: reshaped(m, "Reshape", [0, -1, 2]),
    "transpose": lambda m: reshaped(m, "Transpose", perm=[0, 2, 3, 1]),
    "squeeze": lambda m: reshaped(m, "Squeeze", [0]),
    "unsqueeze": lambda m: reshaped(m, "Unsqueeze", [0, -1]),
}


def check(build, minimum=0.995):
    """At least 99.5 % of all elements equal, none off by more than one, over all seeds."""
    equal = total = 0
    for seed in SEEDS:
        m, y, near = build(QdqModel(seed, unsigned=bool(seed % 2)))
        model = m.build(m.quantise(y, m.scale(near)))
        graph = import_model(model)
        assert graph.outputs == tuple(value.name for value in model.graph.output)
        differences = layer_differences(model, graph, seed)
        assert differences
        for layer, difference in differences.items():
            assert np.abs(difference).max() <= 1, f"{layer}, seed {seed}: off by {np.abs(difference).max()}"
            equal += int((difference == 0).sum())
            total += difference.size
    assert equal >= minimum * total, f"{total - equal} of {total} elements differ, seeds {list(SEEDS)}"


@pytest.mark.parametrize("name", CASES)
def test_layers_agree_with_onnx_runtime(name):
    check(CASES[name])


FUNCTIONS = {
    "Relu": {},
    "LeakyRelu": {"alpha": 0.2},
    "Sigmoid": {},
    "Tanh": {},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4},
    "HardSwish": {},
    "Elu": {"alpha": 1.3},
    "Selu": {},
    "Celu": {"alpha": 0.8},
    "Softplus": {},
    "Softsign": {},
    "Gelu": {},
    "Mish": {},
    "Exp": {},
    "Abs": {},
    "Neg": {},
    "Erf": {},
    "Identity": {},
    "Dropout": {},
    "ThresholdedRelu": {"alpha": 0.5},
}


@pytest.mark.parametrize("op", FUNCTIONS)
def test_activations_agree_with_onnx_runtime(op):
    check(lambda m: (m, m.node(op, m.input(1, 2, 500, scale=0.03), **FUNCTIONS[op]), 0.02))


def test_activation_behind_a_convolution_becomes_its_table():
    m, y, near = conv(QdqModel(0))
    model = m.build(m.quantise(m.node("Sigmoid", m.quantise(y, near)), 1 / 256))
    graph = import_model(model)
    (node,) = graph.nodes
    assert node.op.requant.table is not None
    assert np.abs(next(iter(layer_differences(model, graph, 0).values()))).max() <= 1


def test_swish_written_as_a_product_is_one_table():
    def build(m):
        x = m.input(1, 2, 300)
        return m, m.node("Mul", x, m.node("Sigmoid", x)), 0.03

    check(build)
    m, y, near = build(QdqModel(0))
    assert [node.op_type for node in import_model(m.build(m.quantise(y, near))).nodes] == ["Mul"]


def test_prelu_and_pow_with_a_scalar_are_tables():
    check(lambda m: (m, m.node("PRelu", m.input(1, 2, 500), m.const(np.full((1, 1), 0.3, np.float32))), 0.03))
    check(lambda m: (m, m.node("Pow", m.input(1, 2, 500), m.const(np.float32(2))), 0.1))
