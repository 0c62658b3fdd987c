"""Fused operators, Einsum and BatchNormalization come apart or together with the same results."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from systolith.compiler.base.errors import QuantiseError
from systolith.compiler.base.model import Model
from systolith.compiler.passes.dress import plain
from tests.compiler.dressed import Dressed, kinds

#: Activation, its parameters, and the operator that follows.
ACTIVATIONS = [
    ("Relu", [], "Relu"),
    ("Tanh", [], "Tanh"),
    ("Sigmoid", [], "Sigmoid"),
    ("LeakyRelu", [0.2], "LeakyRelu"),
    ("Clip", [-0.5, 1.5], "Clip"),
    ("HardSigmoid", [0.3, 0.4], "HardSigmoid"),
]


@pytest.mark.parametrize("opset", [9, 13])
@pytest.mark.parametrize(("activation", "params", "operator"), ACTIVATIONS)
@pytest.mark.parametrize("added", [False, True])
def test_fused_conv(activation: str, params: list[float], operator: str, opset: int, added: bool) -> None:
    m = Dressed(0, opset)
    operands = [m.input(m.normal(1, 4, 6, 6)), m.const(m.normal(4, 4, 3, 3)), m.const(m.normal(4))]
    operands += [m.input(m.normal(1, 4, 6, 6))] if added else []
    more = {"activation_params": params} if params else {}
    y = m.microsoft("FusedConv", *operands, activation=activation, pads=[1, 1, 1, 1], **more)
    made = m.check(y, within=1e-4)
    assert kinds(made) == ["Conv", *(["Add"] if added else []), operator]
    assert made.nodes[0].name == f"node_{y}"


# ONNX Runtime's FusedGemm has no Clip.
@pytest.mark.parametrize(
    ("activation", "params", "operator"), [row for row in ACTIVATIONS if row[0] != "Clip"]
)
def test_fused_gemm(activation: str, params: list[float], operator: str) -> None:
    m = Dressed(0)
    more = dict(zip(("activation_alpha", "activation_beta"), params, strict=False))
    operands = [m.input(m.normal(3, 8)), m.const(m.normal(5, 8)), m.const(m.normal(5))]
    y = m.microsoft("FusedGemm", *operands, activation=activation, transB=1, alpha=0.5, **more)
    assert kinds(m.check(y, within=1e-5)) == ["Gemm", operator]


@pytest.mark.parametrize("alpha", [1.0, 0.25])
@pytest.mark.parametrize("sides", range(16))
def test_fused_matmul(sides: int, alpha: float) -> None:
    m = Dressed(0)
    flags = [bool(sides & bit) for bit in (1, 2, 4, 8)]
    names = ("transA", "transB", "transBatchA", "transBatchB")
    operands = []
    for inner, flipped, first in (((4, 6), flags[0], flags[2]), ((6, 5), flags[1], flags[3])):
        rows, columns = inner[::-1] if flipped else inner
        # With transBatch the rows' axis stands before the batch's.
        whole = (rows, 2, 3, columns) if first else (2, 3, rows, columns)
        operands.append(m.input(m.normal(*whole)))
    y = m.microsoft(
        "FusedMatMul", *operands, alpha=alpha, **{n: int(f) for n, f in zip(names, flags, strict=True)}
    )
    made = m.check(y, within=1e-5)
    assert kinds(made)[-1] == ("MatMul" if alpha == 1.0 else "Mul")
    assert kinds(made).count("Transpose") == (flags[0] or flags[2]) + (flags[1] or flags[3])


@pytest.mark.parametrize("opset", [13, 20])
@pytest.mark.parametrize("kind", ["Gelu", "BiasGelu", "FastGelu", "FastGelu bias", "QuickGelu"])
def test_gelu(kind: str, opset: int) -> None:
    m = Dressed(0, opset)
    op, _, bias = kind.partition(" ")
    operands = [m.input(m.normal(3, 8) * 3)]
    operands += [m.const(m.normal(8))] if bias or op == "BiasGelu" else []
    made = m.check(m.microsoft(op, *operands), within=1e-5)
    if op == "QuickGelu":
        assert kinds(made) == ["QuickGelu"]
    else:
        assert ("Gelu" in kinds(made)) == (opset == 20) and not any(node.domain for node in made.nodes)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_max_pool_with_channels_last(kind: type) -> None:
    m = Dressed(0)
    x = m.input(m.ints(kind, 1, 7, 6, 3))
    y = m.microsoft("NhwcMaxPool", x, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0])
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    assert kinds(m.check(y, kind=element)) == ["Transpose", "MaxPool", "Transpose"]


@pytest.mark.parametrize("bias", [False, True])
def test_skip_layer_normalization(bias: bool) -> None:
    m = Dressed(0)
    operands = [m.input(m.normal(2, 5, 8)), m.input(m.normal(2, 5, 8))]
    operands += [m.const(m.normal(8)), m.const(m.normal(8))] + ([m.const(m.normal(8))] if bias else [])
    y = m.microsoft("SkipLayerNormalization", *operands, outputs=4, epsilon=1e-5)
    m.nodes[-1].output[1:3] = ["", ""]
    made = m.check(y, f"{y}_3", within=1e-5)
    assert kinds(made) == ["Add"] * (1 + bias) + ["LayerNormalization"]


# ONNX Runtime has no zero points in float for 8 bits.
@pytest.mark.parametrize(
    ("bits", "rows", "zeros"),
    [
        *((4, rows, zeros) for rows in (64, 40) for zeros in ("none", "packed", "float")),
        *((8, 40, zeros) for zeros in ("none", "packed")),
    ],
)
def test_packed_weights_are_float(bits: int, rows: int, zeros: str) -> None:
    m = Dressed(0)
    blocks = -(-rows // 16)
    operands = [m.input(m.normal(3, rows)), m.const(m.ints(np.uint8, 6, blocks, 16 * bits // 8))]
    operands.append(m.const(m.rng.uniform(0.01, 0.05, (6, blocks)), np.float32))
    if zeros == "packed":
        operands.append(m.const(m.ints(np.uint8, 6, -(-blocks * bits // 8))))
    elif zeros == "float":
        operands.append(m.const(m.rng.integers(4, 12, (6, blocks)), np.float32))
    y = m.microsoft("MatMulNBits", *operands, K=rows, N=6, bits=bits, block_size=16)
    assert kinds(m.check(y, within=1e-3)) == ["MatMul"]


# Convolutions in one dimension.


def wrapped(m: Dressed, x: str, axis: int, op: str) -> str:
    """An axis of extent 1 is added to [1, 4, 12]."""
    if op == "Reshape":
        return m.node("Reshape", x, m.const([1, 4, *([1, 12] if axis == 2 else [12, 1])], np.int64))
    return m.node("Unsqueeze", x, m.const([axis], np.int64))


def unwrapped(m: Dressed, x: str, axis: int, op: str) -> str:
    if op == "Reshape":
        return m.node("Reshape", x, m.const([1, 6, -1], np.int64))
    return m.node("Squeeze", x, m.const([axis - 4], np.int64))


@pytest.mark.parametrize("op", ["Unsqueeze", "Reshape"])
@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("quantised", [False, True])
def test_a_convolution_of_one_dimension_is_written_in_one(axis: int, op: str, quantised: bool) -> None:
    m = Dressed(0)
    x = wrapped(m, m.input(m.normal(1, 4, 12)), axis, op)
    shape = [6, 4, 3]
    shape.insert(axis, 1)
    if quantised:
        x = m.qdq(x, 0.03, 2)
        scale = m.const(m.rng.uniform(0.005, 0.01, 6), np.float32), m.const(np.zeros(6), np.int8)
        w = m.node("DequantizeLinear", m.const(m.ints(np.int8, *shape)), *scale, axis=0)
    else:
        w = m.const(m.normal(*shape))
    pads, strides = ([0, 2, 0, 1], [1, 2]) if axis == 2 else ([2, 0, 1, 0], [2, 1])
    y = m.node("Conv", x, w, m.const(m.normal(6)), pads=pads, strides=strides, kernel_shape=shape[2:])
    conv = m.nodes[-1].name
    y = m.node("Relu", y)
    y = m.qdq(y, 0.05, -128) if quantised else y
    y = unwrapped(m, y, axis, op)
    made = m.check(y, within=0.0501 if quantised else 1e-5)
    assert not {"Reshape", "Squeeze", "Unsqueeze"} & set(kinds(made))
    attributes = made.by_name[conv].attrs
    assert (attributes["pads"], attributes["strides"], attributes["kernel_shape"]) == ([2, 1], [2], [3])


@pytest.mark.parametrize("reason", ["padded", "kernel", "read twice", "other axis"])
def test_a_convolution_that_uses_both_dimensions_stays(reason: str) -> None:
    m = Dressed(0)
    x = wrapped(m, m.input(m.normal(1, 4, 12)), 2, "Unsqueeze")
    kernel = (3, 1) if reason == "kernel" else (1, 1) if reason == "other axis" else (1, 3)
    pads = [1, 0, 1, 0] if reason in ("kernel", "padded") else [0, 0, 0, 0]
    y = m.node("Conv", x, m.const(m.normal(6, 4, *kernel)), pads=pads)
    if reason == "padded":
        y = m.node("Slice", y, m.const([0], np.int64), m.const([1], np.int64), m.const([2], np.int64))
    outputs = [unwrapped(m, y, 2, "Squeeze")] if reason != "other axis" else [m.node("Relu", y)]
    outputs += [m.node("Relu", x)] if reason == "read twice" else []
    assert "Unsqueeze" in kinds(m.check(*outputs))


# Subgraphs.


def test_a_body_reads_what_an_expanded_node_gives() -> None:
    m = Dressed(0)
    x = m.input(m.normal(1, 4, 6, 6))
    y = m.microsoft("FusedConv", x, m.const(m.normal(4, 4, 3, 3)), activation="Relu")
    branches = {}
    for name, op in (("then_branch", "Abs"), ("else_branch", "Neg")):
        inner = onnx.helper.make_node(op, [y], [f"{op}_result"], op)
        value = onnx.helper.make_tensor_value_info(f"{op}_result", onnx.TensorProto.FLOAT, None)
        branches[name] = onnx.helper.make_graph([inner], op, [], [value])
    result = m.node("If", m.input(np.array(True)), **branches)
    assert kinds(m.check(result)) == ["Conv", "Relu", "If"]


# Einsum.


EQUATIONS = [
    ("btd,de->bte", (2, 5, 4), (4, 3), ["MatMul"]),
    ("ij,jk->ik", (3, 4), (4, 5), ["MatMul"]),
    ("ij,kj->ik", (3, 4), (5, 4), ["Transpose", "MatMul"]),
    ("ij,jk", (3, 4), (4, 5), ["MatMul"]),
    ("bhqd,bhkd->bhqk", (2, 3, 5, 4), (2, 3, 6, 4), ["Transpose", "MatMul"]),
    ("bqhd,bkhd->bhqk", (2, 5, 3, 4), (2, 6, 3, 4), ["Transpose", "Transpose", "MatMul"]),
    ("nchw,oc->nohw", (2, 4, 3, 5), (6, 4), ["Transpose", "Transpose", "MatMul", "Transpose"]),
    ("abc,bcd->ad", (2, 3, 4), (3, 4, 5), ["Reshape", "Reshape", "MatMul"]),
    ("i,j->ij", (3,), (4,), ["Reshape", "Reshape", "Mul"]),
    ("bi,bi->b", (3, 4), (3, 4), ["Reshape", "Reshape", "MatMul", "Reshape"]),
    ("...ij,...jk->...ik", (2, 3, 4), (2, 4, 5), ["MatMul"]),
    ("bhwc,c->bhwc", (2, 3, 4, 5), (5,), ["Reshape", "Mul"]),
    ("ij,jk->i", (3, 4), (4, 5), ["ReduceSum", "Reshape", "MatMul", "Reshape"]),
    ("i,i->", (4,), (4,), None),
    ("ij->ji", (3, 4), None, ["Transpose"]),
    ("ijk->ik", (3, 4, 5), None, ["ReduceSum"]),
    ("ij->", (3, 4), None, ["ReduceSum"]),
    ("ij->ij", (3, 4), None, ["Identity"]),
]


@pytest.mark.parametrize("opset", [12, 13])
@pytest.mark.parametrize(("equation", "a", "b", "expected"), EQUATIONS, ids=[e[0] for e in EQUATIONS])
def test_einsum(
    equation: str, a: tuple[int, ...], b: tuple[int, ...] | None, expected: list[str] | None, opset: int
) -> None:
    m = Dressed(0, opset)
    operands = [m.input(m.normal(*a)), *([] if b is None else [m.const(m.normal(*b))])]
    y = m.node("Einsum", *operands, equation=equation)
    made = m.check(y, within=1e-5)
    assert "Einsum" not in kinds(made) and f"node_{y}" in made.by_name
    if expected is not None:
        assert kinds(made) == expected


def test_einsum_of_three_operands_and_of_a_diagonal() -> None:
    m = Dressed(0)
    operands = [m.input(m.normal(3, 4)), m.const(m.normal(4, 5)), m.const(m.normal(5, 6))]
    assert kinds(m.check(m.node("Einsum", *operands, equation="ij,jk,kl->il"), within=1e-5)) == ["MatMul"] * 2
    m = Dressed(0)
    assert kinds(m.check(m.node("Einsum", m.input(m.normal(4, 4)), equation="ii->i"))) == ["Einsum"]


# BatchNormalization.


def norm(m: Dressed, x: str, channels: int, **attributes: object) -> str:
    return m.node(
        "BatchNormalization", x, *(m.const(m.normal(channels)) for _ in range(3)),
        m.const(m.rng.uniform(0.1, 2, channels), np.float32), **attributes,
    )  # fmt: skip


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("operator", ["conv", "conv1d", "grouped", "transposed", "gemm", "flat", "matmul"])
def test_a_norm_is_part_of_the_sum_before_it(operator: str, bias: bool) -> None:
    m = Dressed(0)
    added = [m.const(m.normal(6))] if bias else []
    if operator in ("gemm", "flat", "matmul"):
        x = m.input(m.normal(3, 8))
        if operator == "matmul":
            y = m.node("MatMul", x, m.const(m.normal(8, 6)))
            y = m.node("Add", added[0], y) if bias else y
        else:
            flat = {"transB": 1} if operator == "flat" else {}
            w = m.const(m.normal(*((6, 8) if flat else (8, 6))))
            y = m.node("Gemm", x, w, *added, alpha=0.5, beta=2.0, **flat)
    else:
        group, rank = (2 if operator in ("grouped", "transposed") else 1), 1 + (operator != "conv1d")
        x = m.input(m.normal(1, 4, *[7] * rank))
        shape = (4, 3) if operator == "transposed" else (6, 4 // group)
        op = "ConvTranspose" if operator == "transposed" else "Conv"
        y = m.node(op, x, m.const(m.normal(*shape, *[3] * rank)), *added, group=group)
    first = m.nodes[0].name
    made = m.check(norm(m, y, 6, epsilon=1e-3), within=1e-4)
    assert kinds(made) == (["MatMul", "Add"] if operator == "matmul" else [m.nodes[0].op_type])
    assert made.nodes[0].name == first


@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1), (1,)])
@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
def test_a_bias_that_is_added_is_part_of_it_too(operator: str, shape: tuple[int, ...]) -> None:
    m = Dressed(0)
    w = m.const(m.normal(*((6, 4) if operator == "Conv" else (4, 6)), 3, 3))
    y = m.node("Add", m.const(m.normal(*shape)), m.node(operator, m.input(m.normal(1, 4, 7, 7)), w))
    assert kinds(m.check(norm(m, y, 6), within=1e-4)) == [operator]
    m = Dressed(0)
    w = m.const(m.normal(*((6, 4) if operator == "Conv" else (4, 6)), 3, 3))
    y = m.node(operator, m.input(m.normal(1, 4, 7, 7)), w)
    y = m.node("Add", y, m.const(m.normal(1, 1, 5 if operator == "Conv" else 9, 1)))
    assert kinds(m.check(norm(m, y, 6), within=1e-4)) == [operator, "Add", "BatchNormalization"]


def test_a_norm_stays_where_something_else_reads_the_sum() -> None:
    m = Dressed(0)
    y = m.node("Conv", m.input(m.normal(1, 4, 7, 7)), m.const(m.normal(6, 4, 3, 3)))
    made = m.check(norm(m, y, 6), m.node("Relu", y))
    assert kinds(made) == ["Conv", "BatchNormalization", "Relu"]
    m = Dressed(0)
    x = m.input(m.normal(2, 3, 8))
    made = m.check(norm(m, m.node("MatMul", x, m.const(m.normal(8, 6))), 3))
    assert kinds(made) == ["MatMul", "BatchNormalization"]


def test_statistics_without_a_number_are_named() -> None:
    m = Dressed(0)
    y = m.node("Conv", m.input(m.normal(1, 4, 7, 7)), m.const(m.normal(6, 4, 3, 3)))
    bad = m.const(np.full(6, -1), np.float32)
    y = m.node("BatchNormalization", y, *(m.const(m.normal(6)) for _ in range(3)), bad)
    with pytest.raises(QuantiseError, match="node_batchnormalization1.*give NaN or infinity"):
        plain(Model.from_proto(m.model(y)))
