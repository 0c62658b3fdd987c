"""Sums of a quantised model that states no format for them."""

import numpy as np
import pytest

from systolith import api
from systolith.compiler.partition import partition_model
from tests.compiler.qdq import QdqModel
from tests.compiler.test_partition import check, host_of, onnxruntime_values


def test_samples_tell_the_range_of_a_sum_that_states_none():
    """Without them it stays in float on the host: a drawn range would saturate real data without a word."""
    m = QdqModel(31)
    hidden = m.quantise(m.node("Relu", m.node("Gemm", m.input(1, 6), m.weights(8, 6), transB=1)), 0.05)
    model = m.build(m.node("Gemm", hidden, m.weights(5, 8), transB=1))
    without = partition_model(model)
    (last,) = without.host_nodes
    assert (last.op, last.macs) == ("Gemm", 40)
    assert last.reason == "the output is not quantised, and without calibration data its range is not known"
    data = m.rng.uniform(-6, 6, (40, 1, 6)).astype(np.float32)
    plan = partition_model(model, {"x1": data})
    assert len(plan.steps) == 1
    (name,) = plan.graph.outputs
    tensor = plan.graph.tensors[name]
    floats = np.stack([onnxruntime_values(model, {"x1": x}, [name])[name] for x in data])
    ours = np.stack([api.run_reference(plan, {"x1": x}).outputs[name] for x in data])
    assert tensor.scale == pytest.approx((max(floats.max(), 0) - min(floats.min(), 0)) / 255, rel=1e-3)
    assert np.abs(floats - ours).max() <= 2 * tensor.scale


def test_samples_keep_a_residual_without_formats_on_the_core():
    """Quantisers of GPUs leave out what stands between a convolution and its sum."""
    m = QdqModel(32)
    x = m.input(1, 4, 6, 6)
    y = m.quantise(m.node("Relu", m.node("Conv", x, m.weights(4, 4, 3, 3), pads=[1] * 4)), 0.1)
    inner = m.node("Conv", y, m.weights(4, 4, 3, 3), m.bias(4), pads=[1] * 4)
    model = m.build(m.quantise(m.node("Relu", m.node("Add", inner, x)), 0.1))
    assert [node.op for node in partition_model(model).host_nodes if node.macs] == ["Conv"]
    data = m.rng.normal(0, 3, (8, 1, 4, 6, 6)).astype(np.float32)
    plan = partition_model(model, {"x1": data})
    assert len(plan.steps) == 1
    (name,) = plan.graph.outputs
    for sample in data:
        steps = (
            api.run_reference(plan, {"x1": sample}).outputs[name]
            - onnxruntime_values(model, {"x1": sample}, [name])[name]
        ) / plan.graph.tensors[name].scale
        assert np.abs(steps).max() <= 2.001


def test_a_last_layer_that_is_not_quantised_runs_on_the_host():
    m = QdqModel(6)
    y = m.node("Conv", m.input(1, 3, 4, 4), m.weights(4, 3, 3, 3))
    y = m.node("Conv", m.quantise(y, 0.05), m.weights(2, 4, 1, 1), m.bias(2))
    model = m.build(m.quantise(m.node("Sigmoid", y), 1 / 256))
    partition, _, _ = check(model)
    assert host_of(partition) == [
        (op, "after") for op in ("Conv", "Sigmoid", "QuantizeLinear", "DequantizeLinear")
    ]
    assert partition.host_nodes[0].macs == 2 * 4 * 2 * 2
    assert len(partition.graph.nodes) == 1
