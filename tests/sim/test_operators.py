"""Operators that are made of several on the Verilated core: the RTL gives the reference's bits."""

import numpy as np
import pytest

from systolith.compiler.driver import compile_graph
from systolith.compiler.partition import import_model
from systolith.host.driver import Driver
from systolith.sim.native import RtlDevice
from tests.compiler.qdq import QdqModel
from tests.compiler.test_recurrent_attributes import states_of
from tests.graphs import ARCHS, GraphBuilder, assert_same_bits


def check(graph, arch, stalls=0.2):
    with RtlDevice(ARCHS[arch], stall_seed=1, stall_probability=stalls) as device:
        assert_same_bits(Driver(device, compile_graph(graph, ARCHS[arch]), max_cycles=5_000_000), graph, 1)


def i64(*values):
    return np.array(values, np.int64)


@pytest.mark.parametrize("arch", ["tiny", "array8"])
def test_images(arch):
    m = QdqModel(1)
    scales = m.const(np.array([1, 1, 2, 2], np.float32))
    y = m.node("Resize", m.input(1, 3, 6, 6), m.const(np.zeros(0, np.float32)), scales, mode="linear")
    y = m.node("Pad", m.quantise(y, 0.05), m.const(i64(0, 0, 1, 1, 0, 0, 1, 1)), mode="reflect")
    z = m.quantise(m.node("LRN", m.quantise(y, 0.05), size=3, alpha=0.5), 0.03)
    r = m.quantise(m.node("ReduceL2", z, m.const(i64(1))), 0.03)
    check(import_model(m.build(m.quantise(m.node("ReduceMin", r, m.const(i64(2))), 0.03), z)), arch)


@pytest.mark.parametrize("arch", ["tiny", "array8"])
def test_choices(arch):
    m = QdqModel(1)
    x, y = m.input(1, 3, 4, 5), m.input(1, 3, 4, 5)
    chosen = m.quantise(m.node("Where", m.node("Greater", x, y), x, y), 0.05)
    most = m.quantise(m.node("Max", chosen, y, m.input(1, 3, 1, 1)), 0.05)
    slope = m.const(np.array([0.1, -0.2, 0.3], np.float32).reshape(3, 1, 1))
    check(import_model(m.build(m.quantise(m.node("PRelu", most, slope), 0.05), chosen)), arch)


@pytest.mark.parametrize("seed", range(6))
def test_phases_and_indices(seed):
    b = GraphBuilder(seed)
    x = b.input((b.integer(1, 2), b.integer(1, 6), b.integer(1, 6), b.integer(1, 6)))
    check(b.finish(b.conv_transpose(b.select(x))), ("tiny", "array8")[seed % 2], 0.1 * (seed % 3))


@pytest.mark.parametrize("op_type", ["LSTM", "GRU"])
@pytest.mark.parametrize("wide", [False, True])
def test_first_states(op_type, wide):
    check(states_of(op_type, "bidirectional", wide, True), "array8")
