"""Tensors in external memory on RTL, with and without stalls, on narrow and wide buses."""

import dataclasses

import pytest

from systolith.compiler.driver import compile_graph
from systolith.host.driver import Driver
from systolith.sim.native import RtlDevice
from tests.graphs import ARCHS, assert_same_bits, random_graph


@pytest.fixture(scope="module", params=["tiny", "array8", "bus32"])
def arch(request):
    return dataclasses.replace(ARCHS[request.param], act_bytes=1 << 11)


@pytest.mark.parametrize("stalls", [0.0, 0.3])
@pytest.mark.parametrize("seed", [3, 9, 10, 17, 33, 36, 38, 45])
def test_rtl_gives_the_bits_of_the_reference_from_external_memory(arch, seed, stalls):
    graph = random_graph(seed, largest=16)
    image = compile_graph(graph, arch)
    with RtlDevice(arch, stall_seed=seed, stall_probability=stalls) as device:
        driver = Driver(device, image, max_cycles=4_000_000)
        assert_same_bits(driver, graph, seed)
