"""Sum, Mean, Max, Min, PRelu, BatchNormalization, MatMul and Gemm in all their forms: against ONNX Runtime,
and on the machine."""

import numpy as np
import pytest
from onnx import TensorProto

from systolith.compiler.partition import import_model
from systolith.reference.maximum import Maximum
from tests.compiler.qdq import QdqModel
from tests.compiler.test_select import run

SHAPES = [((2, 3, 4, 5),) * 3, ((2, 3, 4, 5), (3, 1, 1), (5,)), ((4, 5), (1, 5), (4, 1))]


@pytest.mark.parametrize("kind", ["Sum", "Mean", "Max", "Min"])
@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("arch", ["tiny", "array8"])
def test_three_tensors(kind, shapes, arch) -> None:
    m = QdqModel(3)
    run(m, m.node(kind, *(m.input(*shape, scale=0.03) for shape in shapes)), 1, arch)


@pytest.mark.parametrize("kind", ["Sum", "Max", "Min"])
def test_constants(kind) -> None:
    m = QdqModel(4)
    constant = m.const(m.rng.normal(0, 2, (3, 1, 5)).astype(np.float32))
    run(m, m.node(kind, m.input(2, 3, 4, 5), constant), 1)


def test_a_limit_becomes_one() -> None:
    m = QdqModel(4)
    y = m.node("Conv", m.input(1, 3, 5, 5), m.weights(4, 3, 3, 3))
    y = m.node("Min", m.const(np.float32(4)), m.node("Max", y, m.const(np.float32(-1))))
    assert len(run(m, y, 1).nodes) == 1


def test_two_maxima_are_one_instruction_each() -> None:
    m = QdqModel(5)
    x = m.input(1, 3, 5)
    graph = run(m, m.node("Max", x, m.node("Neg", x)), 1)
    assert sum(isinstance(node.op, Maximum) for node in graph.nodes) <= 1


@pytest.mark.parametrize("slope", [(), (4, 1, 1), (4, 5, 6), (6,)])
def test_prelu(slope) -> None:
    m = QdqModel(6)
    x = m.input(2, 4, 5, 6)
    run(m, m.node("PRelu", x, m.const(m.rng.uniform(-0.3, 0.4, slope).astype(np.float32))), 1)


@pytest.mark.parametrize("shape", [(3, 7), (2, 4, 9), (1, 4, 3, 5), (1, 4, 2, 3, 2)])
def test_batch_normalization(shape) -> None:
    m = QdqModel(7)
    c = shape[1]
    operands = [m.const(m.rng.uniform(0.5, 1.5, c).astype(np.float32)) for _ in range(4)]
    run(m, m.node("BatchNormalization", m.input(*shape), *operands), 1)


def test_batch_normalization_behind_a_product_of_rank_3() -> None:
    m = QdqModel(7)
    y = m.quantise(m.node("MatMul", m.input(2, 5, 6), m.weights(6, 5, axis=1)), 0.5)
    operands = [m.const(m.rng.uniform(0.5, 1.5, 5).astype(np.float32)) for _ in range(4)]
    run(m, m.node("BatchNormalization", y, *operands), 1)


@pytest.mark.parametrize(
    ("x", "weights", "axis"),
    [
        ((4, 6), (6, 5), 1),
        ((2, 3, 4, 6), (6, 5), 1),
        ((2, 3, 6), (2, 6, 5), None),
        ((6,), (6, 5), 1),
        ((3, 6), (6,), None),
        ((3, 6), (4, 6, 5), None),
        ((1, 3, 6), (1, 6, 5), 2),
    ],
)
def test_constant_on_the_right(x, weights, axis) -> None:
    m = QdqModel(8)
    y = m.node("MatMul", m.input(*x), m.weights(*weights, axis=axis))
    run(m, y, 1, scale=0.3)


@pytest.mark.parametrize(
    ("weights", "x", "axis"),
    [
        ((5, 6), (6, 4), 0),
        ((5, 6), (2, 6, 3), 0),
        ((6,), (6, 4), None),
        ((5, 6), (6,), 0),
        ((2, 5, 6), (2, 6, 3), None),
        ((4, 5, 6), (6, 3), None),
    ],
)
def test_constant_on_the_left(weights, x, axis) -> None:
    m = QdqModel(9)
    y = m.node("MatMul", m.weights(*weights, axis=axis), m.input(*x))
    run(m, y, 1, scale=0.3)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize(("trans_a", "trans_b"), [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("c", [None, (), (5,), (4, 1), (4, 5), "computed"])
def test_gemm(left, trans_a, trans_b, c) -> None:
    m = QdqModel(10)
    a, b = ((6, 4) if trans_a else (4, 6)), ((5, 6) if trans_b else (6, 5))
    operands = [m.weights(*a, axis=None), m.input(*b)] if left else [m.input(*a), m.weights(*b, axis=None)]
    if c == "computed":
        operands.append(m.input(4, 5))
    elif c is not None:
        operands.append(m.const(m.rng.normal(0, 3, c).astype(np.float32)))
    y = m.node("Gemm", *operands, alpha=0.7, beta=-0.8, transA=trans_a, transB=trans_b)
    model = m.build(m.quantise(y, 0.5))
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert import_model(model)
    run(m, y, 1, scale=0.5)


@pytest.mark.parametrize("moved", ["squeezed", "channels last"])
def test_a_bias_behind_moved_channels_is_folded(moved) -> None:
    m = QdqModel(11)
    if moved == "squeezed":
        y = m.node("Conv", m.input(2, 3, 1, 9), m.weights(5, 3, 1, 3))
        y = m.node("Squeeze", y, m.const(np.array([2])))
        bias = m.rng.normal(0, 2, (5, 1))
    else:
        y = m.node("Conv", m.input(2, 3, 4, 4), m.weights(5, 3, 3, 3))
        y = m.node("Transpose", y, perm=[0, 2, 3, 1])
        bias = m.rng.normal(0, 2, 5)
    y = m.node("Mul", m.node("Add", y, m.const(bias.astype(np.float32))), m.const(np.float32(0.7)))
    graph = run(m, m.node("Relu", y), 1, scale=0.1)
    assert sorted({node.op_type for node in graph.nodes})[0] == "Conv" and len(graph.nodes) == 2


def test_what_changes_nothing_vanishes() -> None:
    m = QdqModel(12)
    zeros, ones = m.const(np.zeros((1, 4), np.float32)), m.const(np.ones((3, 1), np.float32))
    y = m.node("Sub", m.node("Add", zeros, m.input(3, 4)), zeros)
    graph = run(m, m.node("Relu", m.node("Mul", y, ones)), 1)
    assert [node.op_type for node in graph.nodes] == ["Relu"]


@pytest.mark.parametrize("shape", [(), (3, 1, 1), (3, 4, 5), (5,)])
@pytest.mark.parametrize("behind", [False, True])
def test_division_by_a_constant(shape, behind) -> None:
    m = QdqModel(13)
    y = m.input(1, 3, 4, 5)
    if behind:
        y = m.node("Conv", y, m.weights(3, 3, 1, 1))
        y = y if shape in ((), (3, 1, 1)) else m.quantise(y, 0.3)
    divisor = m.rng.uniform(0.5, 2, shape) * m.rng.choice([-1, 1], shape)
    run(m, m.node("Div", y, m.const(np.asarray(divisor, np.float32))), 1, scale=0.3)


def test_a_number_divided_by_a_tensor_is_a_table() -> None:
    m = QdqModel(13)
    run(m, m.node("Div", m.const(np.float32(2)), m.input(3, 5)), 1, scale=0.3)
