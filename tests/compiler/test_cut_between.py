"""Nodes that the core cannot run between layers that it can: the side with less work goes to the host."""

import numpy as np
import pytest

from systolith import api
from systolith.compiler.partition import partition_model
from tests.compiler.qdq import QdqModel
from tests.plans import sides


def layers(outputs):
    """Layers from 6 inputs to each of `outputs` in turn, with a node between that only the host can run."""
    m = QdqModel(10)
    y, width = m.input(1, 6), 6
    for index, count in enumerate(outputs):
        if index:
            y = m.quantise(m.node("CumSum", y, m.const(np.int64(1))), 0.1)
        y = m.quantise(m.node("Gemm", y, m.weights(count, width), transB=1), 0.05)
        width = count
    return partition_model(m.build(y))


@pytest.mark.parametrize(
    ("outputs", "kept", "wanted"),
    [
        ((6, 2), 6, ["after", "after"]),
        ((6, 9), 9, ["before", "before"]),
        ((6, 30, 5), 30, ["before", "before", "after", "after"]),
        ((9, 3, 4, 6), 9, ["after"] * 6),
    ],
    ids=str,
)
def test_the_largest_part_stays_on_the_core(outputs, kept, wanted):
    partition = layers(outputs)
    assert [
        partition.graph.tensors[node.output].shape[-1]
        for node in partition.graph.nodes
        if node.op_type == "Gemm"
    ] == [kept]
    found = [node for node in partition.host_nodes if node.op in ("CumSum", "Gemm")]
    assert [sides(partition)[node.name] for node in found] == wanted
    for node in found:
        if node.op == "CumSum":
            assert node.reason == "operator CumSum is not supported"
        else:
            assert node.macs and "which is on the host" in node.reason
    assert api.verify(partition, "tiny", on=("reference", "machine")).bit_exact
