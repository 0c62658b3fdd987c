"""Random graphs on the Verilated core: the RTL gives the reference's bits, whatever the bus does."""

import numpy as np
import pytest

from systolith.compiler.driver import compile_graph
from systolith.host.driver import Driver
from systolith.sim.native import RtlDevice
from tests.compiler.test_compile import ARCHS, random_inputs
from tests.graphs import random_graph


@pytest.fixture(scope="module", params=["tiny", "array8", "bus32", "bus64"])
def arch(request):
    return ARCHS[request.param]


@pytest.mark.parametrize("stalls", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(24))
def test_rtl_gives_the_bits_of_the_reference(arch, seed, stalls):
    graph = random_graph(seed)
    image = compile_graph(graph, arch)
    with RtlDevice(arch, stall_seed=seed, stall_probability=stalls) as device:
        driver = Driver(device, image, timeout_cycles=2_000_000)
        for draw in range(2):
            inputs = random_inputs(graph, seed * 2 + draw)
            expected, actual = graph.run(inputs), driver.run_int8(inputs)
            for name in graph.outputs:
                np.testing.assert_array_equal(actual[name], expected[name], err_msg=f"seed {seed}, input {draw}, arch {arch.name}, stalls {stalls}")
