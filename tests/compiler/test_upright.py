"""Images of one column: the same bytes as images of one row, and the same cycles."""

import numpy as np
import pytest

from systolith.compiler.driver import compile_graph
from systolith.host.driver import Driver
from systolith.reference.conv import Conv
from systolith.reference.machine_device import MachineDevice
from systolith.reference.max_pool import MaxPool
from systolith.spec.arch import PRESETS
from tests.graphs import GraphBuilder, assert_same_bits


def network(upright, stride, dilation, pads):
    """Depthwise and dense convolutions and a pooling, along the one long axis."""
    b = GraphBuilder(11)
    b.name = "upright"

    def turned(pair):
        return pair if upright else pair[::-1]

    x = b.input((2, 12, *turned((40, 1))))
    for group in (12, 1):
        weights = b.weights(12, 12 // group, *turned((5, 1)))
        before = turned((pads[0], 0)) + turned((pads[1], 0))
        x = b.append(
            Conv(
                weights=weights,
                bias=np.arange(12, dtype=np.int32),
                strides=turned((stride, 1)),
                dilations=turned((dilation, 1)),
                pads=before,
                group=group,
                x_zero=b.tensors[x].zero_point,
                requant=b.requant(12, weights[0].size),
            ),
            x,
        )
    x = b.append(
        MaxPool(
            kernel=turned((2, 1)),
            strides=turned((2, 1)),
            dilations=(1, 1),
            pads=turned((1, 0)) + (0, 0),
            table=None,
        ),
        x,
    )
    return b.finish(x)


@pytest.mark.parametrize("arch", ["tiny", "array8"])
@pytest.mark.parametrize(("stride", "dilation", "pads"), [(1, 1, (2, 2)), (2, 1, (1, 0)), (1, 2, (0, 3))])
def test_one_column_gives_the_program_of_one_row(arch, stride, dilation, pads):
    upright, lying = (network(u, stride, dilation, pads) for u in (True, False))
    images = [compile_graph(graph, PRESETS[arch]) for graph in (upright, lying)]
    assert images[0].program == images[1].program
    assert_same_bits(Driver(MachineDevice(PRESETS[arch]), images[0]), upright, seed=3)
