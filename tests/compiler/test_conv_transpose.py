"""ConvTranspose against ONNX Runtime and on the machine."""

import dataclasses

import numpy as np
import pytest

from systolith.compiler.driver import compile_graph
from systolith.compiler.partition import import_model
from systolith.host.driver import Driver
from systolith.reference.machine_device import MachineDevice
from tests.compiler.qdq import QdqModel, layer_differences
from tests.compiler.test_select import run
from tests.graphs import ARCHS, GraphBuilder, assert_same_bits

ATTRIBUTES = [
    {},
    {"strides": [2, 2]},
    {"strides": [2, 3], "pads": [1, 0, 2, 1], "output_padding": [1, 2]},
    {"strides": [3, 2], "dilations": [2, 1], "output_padding": [1, 0]},
    {"strides": [2, 2], "dilations": [2, 2]},
    {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
    {"strides": [3, 3], "output_shape": [16, 13]},
    {"strides": [3, 3], "output_shape": [16, 13], "auto_pad": "SAME_UPPER"},
    {"strides": [4, 5], "auto_pad": "VALID"},
]


@pytest.mark.parametrize("attributes", ATTRIBUTES)
@pytest.mark.parametrize("group", [1, 2, 6])
def test_attributes(attributes, group) -> None:
    m = QdqModel(1)
    x = m.input(2, 6, 5, 4)
    y = m.node(
        "ConvTranspose", x, m.weights(6, 3, 3, 4, axis=1), m.bias(3 * group), group=group, **attributes
    )
    model = m.build(m.quantise(m.node("Relu", y), 0.3))
    graph = import_model(model)
    assert len(graph.nodes) == 1
    for layer, difference in layer_differences(model, graph, 3).items():
        assert np.abs(difference).max() <= 1, layer
    arch = ARCHS["array8"]
    assert_same_bits(Driver(MachineDevice(arch), compile_graph(graph, arch)), graph, 1, runs=1)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_one_dimension(stride) -> None:
    m = QdqModel(2)
    y = m.node("ConvTranspose", m.input(1, 4, 9), m.weights(4, 5, 4, axis=1), strides=[stride], pads=[1, 2])
    run(m, y, 1, "tiny", scale=0.3)


@pytest.mark.parametrize("arch", ["tiny", "array8", "wide", "nodw", "small"])
@pytest.mark.parametrize("seed", range(12))
def test_random_geometry_on_the_machine(seed, arch) -> None:
    small = dataclasses.replace(ARCHS["tiny"], name="small", act_bytes=1 << 11)
    arch = ARCHS.get(arch, small)
    b = GraphBuilder(seed)
    x = b.input((b.integer(1, 2), b.integer(1, 9), *(b.integer(1, 7) for _ in range(b.integer(1, 2)))))
    graph = b.finish(b.conv_transpose(x))
    assert_same_bits(Driver(MachineDevice(arch), compile_graph(graph, arch)), graph, seed)


def test_multiply_accumulates_are_those_of_the_operator() -> None:
    m = QdqModel(1)
    y = m.node("ConvTranspose", m.input(1, 6, 5, 4), m.weights(6, 3, 3, 4, axis=1), strides=[2, 2])
    (node,) = import_model(m.build(m.quantise(y, 0.3))).nodes
    assert node.op.macs((1, 6, 5, 4)) == 6 * 5 * 4 * 3 * 3 * 4
