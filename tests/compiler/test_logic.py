"""Comparisons, logic, Where and Cast: against ONNX Runtime and on the machine."""

import numpy as np
import pytest
from onnx import TensorProto

from tests.compiler.qdq import QdqModel
from tests.compiler.test_select import run

COMPARISONS = ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]


def as_float(m, name):
    return m.node("Cast", name, to=TensorProto.FLOAT)


@pytest.mark.parametrize("kind", COMPARISONS)
@pytest.mark.parametrize("other", [(), (1, 3, 4, 5), (3, 1, 1), "tensor", "same scale", "row"])
def test_comparison(kind, other) -> None:
    m = QdqModel(1)
    x = m.input(1, 3, 4, 5, scale=0.05)
    if other == "tensor":
        y = m.input(1, 3, 4, 5, scale=0.05)
    elif other == "same scale":
        name = m.name("x")
        m.inputs.append(m.inputs[0].__class__.FromString(m.inputs[0].SerializeToString()))
        m.inputs[-1].name = name
        y = m.qdq(name, *m.nodes[0].input[1:])
    elif other == "row":
        y = m.input(1, 1, 1, 5, scale=0.05)
    else:
        y = m.const(m.rng.normal(0, 2, other).astype(np.float32))
    run(m, as_float(m, m.node(kind, x, y)), 0, scale=0.01)


@pytest.mark.parametrize("kind", COMPARISONS[1:])
def test_constant_first(kind) -> None:
    m = QdqModel(2)
    c = m.const(m.rng.normal(0, 2, (3, 1, 1)).astype(np.float32))
    run(m, as_float(m, m.node(kind, c, m.input(1, 3, 4, 5))), 0, scale=0.01)


@pytest.mark.parametrize("kind", ["And", "Or", "Xor"])
@pytest.mark.parametrize("second", ["tensor", "same", "constant"])
def test_logic(kind, second) -> None:
    m = QdqModel(3)
    x = m.input(1, 3, 4, 5)
    a = m.node("Greater", x, m.const(np.float32(0.3)))
    if second == "tensor":
        b = m.node("Less", m.input(1, 3, 4, 5), m.const(np.float32(0.1)))
    elif second == "same":
        b = m.node("Not", m.node("Less", x, m.const(np.float32(-1))))
    else:
        b = m.const(m.rng.integers(0, 2, (3, 1, 5)).astype(bool))
    run(m, as_float(m, m.node("Not", m.node(kind, a, b))), 0, scale=0.01)


@pytest.mark.parametrize("condition", ["table", "tensors", "constant"])
@pytest.mark.parametrize("choices", ["tensors", "number second", "number first", "constants", "broadcast"])
@pytest.mark.parametrize("arch", ["tiny", "array8"])
def test_where(condition, choices, arch) -> None:
    m = QdqModel(4)
    x = m.input(1, 3, 4, 5) if choices != "broadcast" or condition != "constant" else None
    if condition == "table":
        c = m.node("Greater", x, m.const(np.float32(0.5)))
    elif condition == "tensors":
        c = m.node("Greater", x, m.input(3, 1, 1))
    else:
        c = m.const(m.rng.integers(0, 2, (4, 5)).astype(bool))
    number = m.const(np.float32(-1.7))
    array = m.const(m.rng.normal(0, 2, (3, 4, 5)).astype(np.float32))
    # Each is made only where it is used: an input that nobody reads is none of the core's.
    a, b = {
        "tensors": lambda: (x, m.input(1, 3, 4, 5)),
        "number second": lambda: (x, number),
        "number first": lambda: (number, x),
        "constants": lambda: (array, m.node("Relu", x)),
        "broadcast": lambda: (m.input(3, 1, 5), m.input(1, 3, 4, 1)),
    }[choices]()
    run(m, m.node("Where", c, a, b), 1, arch)


def test_an_infinite_mask_saturates() -> None:
    m = QdqModel(5)
    x = m.input(1, 4, 5)
    c = m.const(np.triu(np.ones((4, 5), bool)))
    run(m, m.node("Where", c, x, m.const(np.float32(-np.inf))), 1)


def test_cast_to_bool() -> None:
    m = QdqModel(6)
    y = m.node("Cast", m.input(1, 4, 5), to=TensorProto.BOOL)
    run(m, as_float(m, y), 0, scale=0.01)
