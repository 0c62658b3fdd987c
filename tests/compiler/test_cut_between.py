"""Nodes that the core cannot run between layers that it can: every layer stays on the core."""

import numpy as np
import onnxruntime
import pytest

from systolith import api
from systolith.compiler.partition import partition_model
from systolith.reference.plan import CorePart
from tests.compiler.qdq import QdqModel


def layers(outputs):
    """Layers from 6 inputs to each of `outputs` in turn, with a node between that only the host can run."""
    m = QdqModel(10)
    y, width = m.input(1, 6), 6
    for index, count in enumerate(outputs):
        if index:
            y = m.quantise(m.node("CumSum", y, m.const(np.int64(1))), 0.1)
        y = m.quantise(m.node("Gemm", y, m.weights(count, width), transB=1), 0.05)
        width = count
    return m.build(y)


@pytest.mark.parametrize("outputs", [(6, 2), (6, 9), (6, 30, 5), (9, 3, 4, 6)], ids=str)
def test_every_layer_stays_on_the_core(outputs):
    model = layers(outputs)
    plan = partition_model(model)
    # The core begins and ends, and one step of the host lies between two layers.
    assert [isinstance(step, CorePart) for step in plan.steps] == [True, False] * (len(outputs) - 1) + [True]
    found = []
    for part in plan.cores:
        found += [part.graph.tensors[node.output].shape[-1] for node in part.graph.nodes]
        assert [node.op_type for node in part.graph.nodes] == ["Gemm"]
    assert tuple(found) == outputs
    sums = [node for node in plan.host_nodes if node.op == "CumSum"]
    assert [node.reason for node in sums] == ["operator CumSum is not supported"] * (len(outputs) - 1)
    assert all(node.macs == 0 for node in plan.host_nodes)
    assert api.verify(plan, "tiny", on=("reference", "machine")).bit_exact


@pytest.mark.parametrize("outputs", [(6, 2), (6, 9)], ids=str)
def test_results_are_those_of_onnx_runtime_within_steps(outputs):
    """A step of the first layer grows by the sum of up to six of them, and by the weights of the second."""
    model = layers(outputs)
    plan = partition_model(model)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    (result,) = plan.cores[-1].outputs
    equal = total = 0
    for seed in range(40):
        arrays = api.random_inputs(plan, seed)
        ours = api.run_reference(plan, arrays).outputs[result]
        (theirs,) = session.run([result], arrays)
        steps = np.rint((ours - theirs) / plan.cores[-1].graph.tensors[result].scale)
        assert np.abs(steps).max() <= 12
        equal += np.count_nonzero(steps == 0)
        total += steps.size
    assert equal >= 0.95 * total
