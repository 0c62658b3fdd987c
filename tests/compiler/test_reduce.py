"""Reductions against ONNX Runtime and on the machine."""

import numpy as np
import pytest

from systolith.compiler.partition import import_model
from tests.compiler.qdq import QdqModel
from tests.compiler.test_select import i64, run

AXES = [(2, 3), (1,), (-1,), (1, 2), None, (0, 3), (1, 3)]


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_axes(kind, axes, keepdims) -> None:
    m = QdqModel(1)
    x = m.input(2, 5, 6, 7, scale=0.01 if kind == "ReduceSum" else None)
    operands = () if axes is None else (m.const(i64(*axes)),)
    run(m, m.node(kind, x, *operands, keepdims=keepdims), 1)


@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceMax"])
@pytest.mark.parametrize("shape", [(3, 40), (1, 4, 9), (2, 3, 4, 2, 3)])
def test_ranks(kind, shape) -> None:
    m = QdqModel(1)
    run(m, m.node(kind, m.input(*shape), m.const(i64(-1))), 1, "tiny")


def test_axes_as_an_attribute() -> None:
    m = QdqModel(1, opset=11)
    y = m.node("ReduceMean", m.input(1, 4, 5, 6), axes=[2, 3], keepdims=0)
    graph = import_model(m.build(m.quantise(y, 0.05)))
    assert graph.tensors[graph.outputs[0]].shape == (1, 4)


def test_no_axes_may_mean_nothing() -> None:
    m = QdqModel(1)
    y = m.node("ReduceSum", m.input(1, 4, 5), m.const(np.zeros(0, np.int64)), noop_with_empty_axes=1)
    assert len(run(m, m.node("Relu", y), 1).nodes) == 1


def test_more_rows_than_an_instruction_takes() -> None:
    m = QdqModel(1)
    run(m, m.node("ReduceMax", m.input(1, 3, 300), m.const(i64(2))), 1)


def test_behind_a_convolution() -> None:
    m = QdqModel(1)
    y = m.node("Conv", m.input(1, 4, 6, 6), m.weights(7, 4, 3, 3))
    y = m.node("ReduceMax", m.quantise(m.node("Relu", y), 0.5), m.const(i64(2, 3)), keepdims=0)
    run(m, m.node("ReduceMean", m.quantise(y, 0.5), m.const(i64(1))), 1)


@pytest.mark.parametrize("kind", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("shape", [(2, 3, 300, 5), (1, 3, 4, 270), (1, 2, 700)])
def test_images_larger_than_an_instruction_takes(kind, shape) -> None:
    m = QdqModel(1)
    run(m, m.node(kind, m.input(*shape)), 1, scale=0.02)


def test_a_maximum_over_a_large_window() -> None:
    m = QdqModel(1)
    run(m, m.node("MaxPool", m.input(1, 3, 200, 3), kernel_shape=[200, 3]), 1)
