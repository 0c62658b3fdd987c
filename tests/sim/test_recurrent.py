"""Recurrent layers on RTL: the bits of the reference, with and without bus stalls, and the cycles of a
step."""

import dataclasses

import numpy as np
import pytest

import systolith
from systolith.compiler.driver import compile_graph
from systolith.evidence.profile import step_cycles
from systolith.host.driver import Driver
from systolith.sim.native import RtlDevice
from systolith.spec.arch import PRESETS
from systolith.spec.isa import Cell
from tests.compiler.test_recurrent import plain_network, random_network
from tests.graphs import ARCHS, assert_same_bits, random_inputs

ONE_ROW = dataclasses.replace(PRESETS["array16"], name="one_row", weight_rows_per_cycle=1)


@pytest.mark.parametrize("arch", ["tiny", "array8", "bus32"])
@pytest.mark.parametrize("stalls", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(6))
def test_rtl_gives_the_bits_of_the_reference(arch, seed, stalls):
    graph = random_network(seed)
    image = compile_graph(graph, ARCHS[arch])
    with RtlDevice(ARCHS[arch], stall_seed=seed, stall_probability=stalls) as device:
        assert_same_bits(Driver(device, image, max_cycles=2_000_000), graph, seed)


@pytest.mark.parametrize(
    ("kind", "arch", "product"),
    [
        (Cell.LSTM, PRESETS["array16"], 4 * 8 * 8),
        (Cell.LSTM, ONE_ROW, 4 * 8 * 8 * 16),
        (Cell.LSTM, PRESETS["array8"], 4 * 16 * 16),
        # Three gates see the state, and one the input alone.
        (Cell.GRU, PRESETS["array16"], 4 * 8 * 8),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_step_takes_its_product_and_at_most_64_cycles(kind, arch, product):
    graph = plain_network(kind, steps=4, inputs=128, units=128)
    codes = random_inputs(graph, 1)
    with systolith.Session("rtl", compile_graph(graph, arch)) as session:
        result = session.run(codes)
        steps = step_cycles(session.image, session.ends[0])
    for name, expected in graph.run(codes).items():
        if name in result.raw:
            np.testing.assert_array_equal(result.raw[name], expected)
    print(f"{kind.name} {arch.name}: {steps}")
    assert len(steps) == 3 and all(product <= cycles <= product + 64 for cycles in steps), steps
