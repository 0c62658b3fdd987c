"""Random graphs on the Verilated core: the RTL gives the reference's bits, whatever the bus does."""

import pytest

from systolith.compiler.driver import compile_graph
from systolith.host.driver import Driver
from systolith.hw.build import generate
from systolith.sim.native import RtlDevice
from tests.graphs import ARCHS, assert_same_bits, random_graph


def check(arch, seed, stalls, sources=None, **size):
    graph = random_graph(seed, **size)
    image = compile_graph(graph, ARCHS[arch])
    with RtlDevice(ARCHS[arch], stall_seed=seed, stall_probability=stalls, sources=sources) as device:
        assert_same_bits(Driver(device, image, max_cycles=5_000_000), graph, seed)


@pytest.mark.parametrize("stalls", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("arch", ["tiny", "array8", "bus32", "bus64"])
def test_rtl_gives_the_bits_of_the_reference(arch, seed, stalls):
    check(arch, seed, stalls)


@pytest.fixture(scope="module")
def collisions(tmp_path_factory):
    """The core's Verilog, with RAMs that read nonsense where they are written in the same cycle."""
    sources = dict(generate(ARCHS["bus64"], cache_dir=tmp_path_factory.mktemp("cache")).sources)
    return {**sources, "systolith_ram.v": "`define SYSTOLITH_COLLISIONS\n" + sources["systolith_ram.v"]}


@pytest.mark.parametrize("seed", range(6))
def test_nothing_depends_on_what_a_ram_reads_while_it_is_written(seed, collisions):
    check("bus64", seed, 0.1 * (seed % 3), collisions)


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
