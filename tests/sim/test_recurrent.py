"""Recurrent layers on RTL, with and without bus stalls: the bits of the reference."""

import pytest

from systolith.compiler.driver import compile_graph
from systolith.host.driver import Driver
from systolith.sim.native import RtlDevice
from tests.compiler.test_recurrent import random_network
from tests.graphs import ARCHS, assert_same_bits


@pytest.mark.parametrize("arch", ["tiny", "array8", "bus32"])
@pytest.mark.parametrize("stalls", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(6))
def test_rtl_gives_the_bits_of_the_reference(arch, seed, stalls):
    graph = random_network(seed)
    image = compile_graph(graph, ARCHS[arch])
    with RtlDevice(ARCHS[arch], stall_seed=seed, stall_probability=stalls) as device:
        assert_same_bits(Driver(device, image, timeout_cycles=2_000_000), graph, seed)
