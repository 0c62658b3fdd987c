"""Norms and what divides by one: against ONNX Runtime, and on the machine."""

import numpy as np
import pytest
from onnx import NodeProto

from systolith.compiler.ops.powers import DIGITS, square_digits
from systolith.compiler.ops.registry import NodeView
from systolith.compiler.ops.values import Builder
from systolith.compiler.partition import import_model
from systolith.reference.graph import QGraph, QTensor
from tests.compiler.qdq import QdqModel, layer_differences
from tests.compiler.test_select import i64, run

#: Roots are the sum of tables over ranges of the sum.
ROOT = 2


@pytest.mark.parametrize("axes", [(2, 3), (1,), (-1,)])
@pytest.mark.parametrize(
    ("kind", "scale", "steps"), [("ReduceL1", 0.5, 1), ("ReduceL2", 0.2, ROOT), ("ReduceSumSquare", 3.0, 1)]
)
def test_reductions(kind, scale, steps, axes) -> None:
    m = QdqModel(1)
    x = m.input(2, 5, 6, 7, scale=0.05)
    run(m, m.node(kind, x, m.const(i64(*axes)), keepdims=0), steps, scale=scale)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize(
    "attributes", [{}, {"strides": [2, 2], "pads": [1, 0, 1, 1]}, {"auto_pad": "SAME_UPPER"}]
)
@pytest.mark.parametrize("arch", ["tiny", "array8"])
def test_lp_pool(p, attributes, arch) -> None:
    m = QdqModel(2)
    x = m.input(1, 5, 6, 7, scale=0.05)
    y = m.node("LpPool", x, kernel_shape=[3, 2], p=p, **attributes)
    run(m, y, ROOT, arch, scale=0.15 if p == 1 else 0.08)


@pytest.mark.parametrize("p", [1, 2])
def test_global_lp_pool(p) -> None:
    m = QdqModel(3)
    run(m, m.node("GlobalLpPool", m.input(1, 5, 4, 3, scale=0.05), p=p), ROOT, scale=0.3)


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("alpha", [1e-4, 0.5])
def test_lrn(size, alpha) -> None:
    m = QdqModel(4)
    x = m.input(1, 9, 4, 5, scale=0.05)
    run(m, m.node("LRN", x, size=size, alpha=alpha, beta=0.75, bias=1.5), 2, scale=0.04)


@pytest.mark.parametrize("zero", [-128, -3, 127])
def test_digits_are_the_square(zero) -> None:
    builder = Builder()
    builder.tensors["x"] = QTensor(name="x", shape=(1, 256), scale=0.5, zero_point=zero)
    node = NodeView(
        name="n", op_type="ReduceL2", attrs={}, values=(), outputs=("y",), opset=18, proto=NodeProto()
    )
    name = square_digits(builder, node, "x", 0, "squares")
    graph = QGraph(
        name="g", tensors=builder.tensors, nodes=tuple(builder.nodes), inputs=("x",), outputs=(name,)
    )
    codes = np.arange(-128, 128)
    parts = graph.run({"x": codes[None].astype(np.int8)})[name].astype(np.int64) + 128
    np.testing.assert_array_equal(np.array(DIGITS) @ parts, np.square(codes - zero))


def test_roots_are_near_everywhere() -> None:
    """Also of small sums, where the root is steep."""
    m = QdqModel(5)
    x = m.input(64, 4, scale=0.05)
    y = m.node("ReduceL2", x, m.const(i64(1)))
    model = m.build(m.quantise(y, 0.05))
    graph = import_model(model)
    zero = graph.tensors[graph.inputs[0]].zero_point
    near = np.clip(zero + np.arange(64)[:, None] // 4 + np.zeros(4, int), -128, 127).astype(np.int8)
    (difference,) = [
        d for label, d in layer_differences(model, graph, 1, {graph.inputs[0]: near}).items() if "L2" in label
    ]
    assert np.abs(difference).max() <= ROOT
