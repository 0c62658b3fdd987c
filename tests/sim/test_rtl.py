"""Random graphs on the Verilated core: the RTL gives the reference's bits, whatever the bus does."""

import pytest

from systolith.compiler.driver import compile_graph
from systolith.host.driver import Driver
from systolith.sim.native import RtlDevice
from tests.graphs import ARCHS, assert_same_bits, random_graph


def check(arch, seed, stalls, **size):
    graph = random_graph(seed, **size)
    image = compile_graph(graph, ARCHS[arch])
    with RtlDevice(ARCHS[arch], stall_seed=seed, stall_probability=stalls) as device:
        assert_same_bits(Driver(device, image, timeout_cycles=5_000_000), graph, seed)


@pytest.mark.parametrize("stalls", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("arch", ["tiny", "array8", "bus32", "bus64"])
def test_rtl_gives_the_bits_of_the_reference(arch, seed, stalls):
    check(arch, seed, stalls)


# Building its simulation takes minutes.
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_the_largest_array_gives_the_bits_of_the_reference(seed):
    check("array32", seed, stalls=0.1 * (seed % 3))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 130))
@pytest.mark.parametrize("arch", ["tiny", "array8", "array16", "wide", "nodw", "bus32", "bus64"])
def test_larger_graphs_on_rtl(arch, seed):
    check(arch, seed, stalls=0.1 * (seed % 6), steps=8, largest=14)
