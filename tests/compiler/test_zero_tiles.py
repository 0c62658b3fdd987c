"""All-zero tiles of the weights: left out of every kind of layer, without a change of the result, and
counted."""

import numpy as np
import pytest

from systolith.compiler.driver import compile_graph, compile_levels
from systolith.compiler.lower.tile_blocks import kept_runs
from systolith.host.driver import Driver
from systolith.reference.conv import Conv
from systolith.reference.machine_device import MachineDevice
from systolith.reference.matmul import MatMul
from systolith.reference.recurrent import Recurrent
from systolith.spec.isa import Cell, Space
from tests.graphs import ARCHS, GraphBuilder, assert_same_bits


@pytest.mark.parametrize(
    ("kept", "worth", "runs"),
    [
        ([0, 0, 0], 1, [range(1)]),
        ([0, 1, 0, 0, 1, 1, 0], 2, [range(1, 2), range(4, 6)]),
        ([0, 1, 0, 0, 1, 1, 0], 3, [range(1, 6)]),
        ([1, 1], 1, [range(2)]),
    ],
)
def test_runs_join_over_short_gaps(kept, worth, runs):
    assert kept_runs(np.array(kept, bool), worth) == runs


def thinned(b, weights, axes):
    """Set blocks of 5 along these axes to zero, most of them."""
    for axis in axes:
        blocks = b.rng.random(-(-weights.shape[axis] // 5)) < 0.6
        weights[(slice(None),) * axis + (np.repeat(blocks, 5)[: weights.shape[axis]],)] = 0
    return weights


def thinned_network(seed):
    """A convolution, a matrix product or a recurrent layer with many weights at zero; returns the graph and
    the node's weights."""
    b = GraphBuilder(seed)
    kind = seed % 3
    if kind == 0:
        x = b.input((b.integer(1, 5), 1, b.integer(20, 60)))
        y = b.recurrent(x, list(Cell)[seed % 2], b.integer(20, 40), False)
        node = b.nodes[-1]
        node.op.weights[:] = thinned(b, node.op.weights, (1, 2))
        node.op.recurrent[:] = thinned(b, node.op.recurrent, (1, 2))
    elif kind == 1:
        x = b.input((b.integer(1, 4), b.integer(40, 150)))
        y = b.matmul(x, b.integer(4, 30))
        b.nodes[-1].op.weights[:] = thinned(b, b.nodes[-1].op.weights, (0,))
    else:
        x = b.input((1, b.integer(1, 20), 7, 6))
        y = b.conv(x, b.integer(1, 12), group=1)
        weights = b.nodes[-1].op.weights
        weights[:, :, b.rng.random(weights.shape[2]) < 0.6] = 0
    return b.finish(y)


@pytest.mark.parametrize("arch", ["tiny", "array8", "wide"])
@pytest.mark.parametrize("seed", range(12))
def test_results_stay_and_every_skipped_tile_is_counted(seed, arch):
    graph, core = thinned_network(seed), ARCHS[arch]
    assert_same_bits(Driver(MachineDevice(core), compile_graph(graph, core)), graph, seed)
    compilation = compile_levels(graph, core)
    (layer,) = [layer for layer in compilation.image.layers if layer.macs]
    (op,) = [node.op for node in graph.nodes if isinstance(node.op, Recurrent | MatMul | Conv)]
    if isinstance(op, MatMul):
        entries = compilation.constants.entries
        stored = (
            sum(len(entry.data) for (space, _), entry in entries.items() if space is Space.WEIGHT)
            // core.tile_bytes
        )
        k, m = op.weights.shape
        assert stored + layer.skipped_tiles == -(-k // core.rows) * -(-m // core.cols)
    assert 0 <= layer.skipped_macs <= layer.macs
    assert (layer.skipped_macs > 0) == (layer.skipped_tiles > 0)
