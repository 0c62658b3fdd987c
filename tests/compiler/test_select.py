"""Slice, Split, Gather, Tile, Expand: against ONNX Runtime, and on the machine."""

import dataclasses

import numpy as np
import pytest
from onnx import helper

from systolith.compiler.driver import compile_graph
from systolith.compiler.lower.select import pieces_of
from systolith.compiler.ops import RULES
from systolith.compiler.ops.registry import NodeView
from systolith.compiler.ops.values import Builder, FloatInput
from systolith.compiler.partition import import_model
from systolith.host.driver import Driver
from systolith.reference.machine_device import MachineDevice
from tests.compiler.qdq import QdqModel, layer_differences
from tests.graphs import ARCHS, GraphBuilder, assert_same_bits


def i64(*values):
    return np.array(values, np.int64)


def run(m, name, steps=0, arch="array8", scale=0.06):
    """Import, compare with ONNX Runtime, and run on the machine."""
    model = m.build(m.quantise(name, scale))
    graph = import_model(model)
    for layer, difference in layer_differences(model, graph, 3).items():
        assert np.abs(difference).max(initial=0) <= steps, layer
    assert_same_bits(Driver(MachineDevice(ARCHS[arch]), compile_graph(graph, ARCHS[arch])), graph, 1, runs=1)
    return graph


SLICES = [
    ((1,), (3,), (1,), (1,)),
    ((0, -1), (5, -9), (2, 3), (2, -2)),
    ((-1,), (-(2**31),), (-1,), (-1,)),
    ((-3, 1), (2**40, 100), (1, -2), (1, 3)),
    ((100,), (0,), (2,), (-2,)),
]


@pytest.mark.parametrize("bounds", SLICES)
@pytest.mark.parametrize("arch", ["tiny", "array8"])
def test_slice(bounds, arch) -> None:
    m = QdqModel(1)
    x = m.input(1, 5, 7, 6)
    run(m, m.node("Slice", x, *(m.const(i64(*v)) for v in bounds)), 1, arch)


def test_slice_without_axes_and_steps() -> None:
    m = QdqModel(1)
    run(m, m.node("Slice", m.input(1, 5, 7), m.const(i64(0, 1)), m.const(i64(1, -1))), 1)


def test_slice_of_opset_9() -> None:
    attrs = {"axes": [2], "starts": [1], "ends": [-2]}
    (value,) = converted("Slice", FloatInput("x", (2, 5, 7)), attrs)
    assert value.shape == (2, 5, 4)


def converted(kind, *values_and_attrs, opset=9, outputs=("y",)):
    """What the rule of an operator gives, of an opset that is older than QuantizeLinear."""
    *values, attrs = values_and_attrs
    node = NodeView(
        name="n",
        op_type=kind,
        attrs=attrs,
        values=tuple(values),
        outputs=outputs,
        opset=opset,
        proto=helper.make_node(kind, ["x", "scales"][: len(values)], list(outputs), **attrs),
    )
    RULES[kind].check(node)
    result = RULES[kind].convert(Builder(), node)
    return result if isinstance(result, tuple) else (result,)


def test_a_slice_of_everything_vanishes() -> None:
    m = QdqModel(1)
    x = m.input(1, 5, 7)
    y = m.node("Slice", x, m.const(i64(0)), m.const(i64(2**31)), m.const(i64(2)))
    y = m.node("Expand", m.node("Tile", y, m.const(i64(1, 1, 1))), m.const(i64(5, 1)))
    graph = run(m, m.node("Relu", y), 1)
    assert [node.op_type for node in graph.nodes] == ["Relu"]


@pytest.mark.parametrize("sizes", [None, (2, 5, 1)])
def test_split(sizes) -> None:
    m = QdqModel(1, opset=18)
    x = m.input(1, 8, 3, 4)
    count = 3 if sizes else 4
    operands = (m.const(i64(*sizes)),) if sizes else ()
    attributes = {} if sizes else {"num_outputs": count}
    m.node("Split", x, *operands, outputs=count, axis=1, **attributes)
    parts = m.nodes[-1].output
    total = m.node("Concat", *(m.quantise(part, 0.05) for part in parts[::-1]), axis=1)
    run(m, total, 1)


def test_split_of_opset_11() -> None:
    m = QdqModel(1, opset=11)
    m.node("Split", m.input(1, 6, 3), outputs=2, axis=-2, split=[2, 4])
    a, b = (m.quantise(part, 0.05) for part in m.nodes[-1].output)
    graph = import_model(m.build(a, b))
    assert [graph.tensors[name].shape for name in graph.outputs] == [(1, 2, 3), (1, 4, 3)]


@pytest.mark.parametrize("index", [[0, 2, 2, -1], [[1, 0], [3, 3]], [4]])
@pytest.mark.parametrize("axis", [1, -1])
def test_gather(index, axis) -> None:
    m = QdqModel(1)
    x = m.input(1, 5, 3, 5)
    run(m, m.node("Gather", x, m.const(np.array(index, np.int64)), axis=axis), 1)


@pytest.mark.parametrize("repeats", [(1, 2, 3, 1), (2, 1, 1, 4)])
def test_tile(repeats) -> None:
    m = QdqModel(1)
    run(m, m.node("Tile", m.input(1, 5, 3, 2), m.const(i64(*repeats))), 1)


@pytest.mark.parametrize("shape", [(2, 5, 6, 3), (4, 1), (1,), (2, 1, 5, 6, 3)])
def test_expand(shape) -> None:
    m = QdqModel(1)
    run(m, m.node("Expand", m.input(5, 1, 3), m.const(i64(*shape))), 1)


@pytest.mark.parametrize("arch", ["tiny", "array8", "bus32"])
@pytest.mark.parametrize("seed", range(12))
def test_random_indices_on_the_machine(seed, arch) -> None:
    b = GraphBuilder(seed)
    x = b.input((b.integer(1, 2), *(b.integer(1, 7) for _ in range(b.integer(1, 3)))))
    graph = b.finish(b.select(b.select(b.lookup(x))))
    assert_same_bits(Driver(MachineDevice(ARCHS[arch]), compile_graph(graph, ARCHS[arch])), graph, seed)


@pytest.mark.parametrize("seed", range(8))
def test_random_indices_in_external_memory(seed) -> None:
    arch = dataclasses.replace(ARCHS["tiny"], name="small", act_bytes=1 << 10)
    b = GraphBuilder(seed)
    x = b.input((1, b.integer(2, 9), b.integer(4, 12), b.integer(4, 12)))
    graph = b.finish(b.select(b.select(b.lookup(x))))
    assert_same_bits(Driver(MachineDevice(arch), compile_graph(graph, arch)), graph, seed)


def test_even_indices_are_one_piece() -> None:
    assert len(pieces_of([0, 0, 1, 1, 2, 2])) == 1
    assert len(pieces_of([0, 1, 2, 0, 1, 2])) == 1
    assert len(pieces_of([5, 7, 9])) == 1
    assert len(pieces_of([-1, 0, 1, 2, -1, -1])) == 3
