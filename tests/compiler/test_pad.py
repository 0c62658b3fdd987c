"""Pad against ONNX Runtime and on the machine; a padding of zeros goes into the window behind it."""

import numpy as np
import pytest

from systolith.compiler.partition import import_model
from systolith.reference.select import Select
from tests.compiler.qdq import QdqModel
from tests.compiler.test_select import i64, run


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
@pytest.mark.parametrize(
    "pads", [(0, 0, 1, 2, 0, 0, 2, 0), (0, 1, 0, 3, 0, 1, 2, 1), (0, -1, 2, 0, 0, 0, -2, 3)]
)
def test_pad(mode, pads) -> None:
    m = QdqModel(1)
    x = m.input(1, 4, 5, 6)
    run(m, m.node("Pad", x, m.const(i64(*pads)), mode=mode), 1)


@pytest.mark.parametrize("value", [0.0, 1.3, -700.0])
def test_value_and_axes(value) -> None:
    m = QdqModel(2)
    x = m.input(2, 4, 5)
    run(m, m.node("Pad", x, m.const(i64(1, 0, 0, 2)), m.const(np.float32(value)), m.const(i64(-1, 0))), 1)


def test_limits_behind_hold_inside_too() -> None:
    m = QdqModel(2)
    y = m.node("Pad", m.input(1, 4, 5), m.const(i64(0, 1, 0, 0, 0, 2)), m.const(np.float32(40)))
    run(m, m.node("Clip", y, m.const(np.float32(-1)), m.const(np.float32(1.5))), 1)


def test_pads_as_an_attribute() -> None:
    m = QdqModel(1, opset=10)
    y = m.node("Pad", m.input(1, 4, 5), pads=[0, 0, 1, 0, 0, 2], value=0.5)
    graph = import_model(m.build(m.quantise(y, 0.05)))
    assert graph.tensors[graph.outputs[0]].shape == (1, 4, 8)


@pytest.mark.parametrize("kind", ["Conv", "AveragePool"])
def test_zeros_go_into_the_window(kind) -> None:
    m = QdqModel(1)
    x = m.node("Pad", m.input(1, 4, 6, 6), m.const(i64(0, 0, 1, 0, 0, 0, 2, 1)))
    if kind == "Conv":
        y = m.node("Conv", x, m.weights(3, 4, 3, 3), pads=[0, 1, 0, 0])
    else:
        y = m.node("AveragePool", x, kernel_shape=[3, 3], pads=[0, 1, 0, 0])
    graph = run(m, y, 1)
    assert [node.op_type for node in graph.nodes] == [kind]


def test_another_number_does_not() -> None:
    m = QdqModel(1)
    x = m.node("Pad", m.input(1, 4, 6, 6), m.const(i64(0, 0, 1, 0, 0, 0, 2, 1)), m.const(np.float32(0.7)))
    y = m.node("Conv", m.quantise(x, 0.05), m.weights(3, 4, 3, 3))
    graph = run(m, y, 1)
    assert any(isinstance(node.op, Select) for node in graph.nodes)
