"""Taps of a kernel that meet padding alone take no tiles and no cycles."""

import pytest

from systolith.compiler.driver import compile_graph
from systolith.host.driver import Driver
from systolith.reference.machine_device import MachineDevice
from tests.graphs import ARCHS, GraphBuilder, assert_same_bits


def window(kernel, pads, strides=(1, 1), dilations=(1, 1)):
    return {"kernel": kernel, "strides": strides, "dilations": dilations, "pads": pads}


@pytest.mark.parametrize("arch", ["tiny", "array8"])
@pytest.mark.parametrize(
    ("shape", "given", "group", "taps"),
    [
        ((1, 16, 1, 1), window((1, 3), (0, 1, 0, 1)), 1, 1),
        ((1, 16, 1, 2), window((1, 3), (0, 1, 0, 1), (1, 2)), 1, 2),
        ((1, 16, 1, 2), window((1, 3), (0, 1, 0, 1)), 1, 3),
        ((1, 16, 1, 1), window((3, 3), (1, 1, 1, 1)), 1, 1),
        ((1, 16, 2, 1), window((5, 3), (2, 1, 2, 1)), 1, 3),
        ((1, 16, 1, 3), window((1, 3), (0, 4, 0, 4), (1, 1), (1, 4)), 1, 1),
        ((1, 16, 1, 6), window((1, 2), (0, 1, 0, 0), (1, 3), (1, 4)), 1, 1),
        ((1, 16, 1, 2), window((1, 2), (0, 3, 0, 0), (1, 3), (1, 3)), 1, 1),
        ((1, 16, 1, 1), window((1, 3), (0, 1, 0, 1)), 16, 1),
        ((1, 16, 3, 1), window((1, 3), (0, 3, 0, 0)), 1, 1),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(value),
)
def test_bits_and_tiles(shape, given, group, taps, arch):
    b = GraphBuilder(41)
    y = b.convolve(b.input(shape), given, 16, group)
    graph = b.finish(y)
    image = compile_graph(graph, ARCHS[arch])
    assert_same_bits(Driver(MachineDevice(ARCHS[arch], memory_bytes=1 << 20), image), graph, 41)
    if group == 1:
        # Every tap of 16 channels fills whole tiles.
        tiles = sum(i.ky * i.kx * i.kt for _, i in image.stream("run") if i.mnemonic == "MATMUL")
        blocks, instances = (
            16 // ARCHS[arch].cols,
            sum(i.mnemonic == "OUTPUT" for _, i in image.stream("run")),
        )
        assert tiles == instances * taps * 16 // ARCHS[arch].rows and instances % blocks == 0
