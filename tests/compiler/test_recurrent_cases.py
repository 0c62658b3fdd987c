"""The ONNX operator tests of LSTM, GRU and RNN, which nobody here wrote: on the core, or on the host behind a
layer, near their results."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from systolith import api
from systolith.compiler.base.errors import UnsupportedError
from tests.compiler.test_onnx_cases import load_cases

#: What runs on the host, and the word by which its reason names it.
ON_HOST = {
    "test_gru_batchwise": "linear_before_reset",
    "test_gru_defaults": "linear_before_reset",
    "test_gru_seq_length": "linear_before_reset",
    "test_gru_with_initial_bias": "linear_before_reset",
    "test_gru_bidirectional": "linear_before_reset",
    "test_gru_reverse": "linear_before_reset",
    "test_lstm_with_peepholes": "peepholes",
}
#: Half a step of the hidden state, and what the steps before and the tables add.
NEAR = 3 / 128


def with_constants(case):
    """The case as a model whose operands but X are constant, its input and its expected results by name."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    inputs, outputs = case.data_sets[0]
    names = [value.name for value in model.graph.input]
    del model.graph.input[1:]
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in list(zip(names, inputs, strict=True))[1:]
    )
    results = dict(zip((value.name for value in model.graph.output), outputs, strict=True))
    return model, {names[0]: inputs[0]}, results


def behind_a_layer(model):
    """The same with a product with the unit matrix before the node, so that the core has a layer."""
    node, value = model.graph.node[0], model.graph.input[0]
    model.graph.initializer.append(
        numpy_helper.from_array(
            np.eye(value.type.tensor_type.shape.dim[-1].dim_value, dtype=np.float32), "unit"
        )
    )
    model.graph.node.insert(0, helper.make_node("MatMul", [value.name, "unit"], ["before"], name="layer"))
    node = model.graph.node[1]
    node.input[0] = "before"
    return node.op_type


@pytest.mark.parametrize("op_type", ["LSTM", "GRU", "RNN"])
def test_operator_cases_are_near_their_results(op_type, tmp_path):
    worst_of_all = {}
    for case in load_cases()[op_type]:
        model, inputs, expected = with_constants(case)
        path = tmp_path / f"{case.name}.onnx"
        samples = {name: value[None] for name, value in inputs.items()}
        onnx.save(model, path)
        if case.name in ON_HOST:
            with pytest.raises(
                UnsupportedError,
                match=f"{ON_HOST[case.name]}.*no other node of the model can run on the core",
            ):
                api.import_model(path, samples)
            behind_a_layer(model)
            onnx.save(model, path)
        partition = api.import_model(path, samples)
        on_host = (
            [] if len(partition.steps) == 1 else [node for node in partition.host_nodes if node.op == op_type]
        )
        assert len(on_host) == (case.name in ON_HOST), case.name
        assert all(ON_HOST[case.name] in node.reason for node in on_host), on_host
        assert api.verify(partition, "array8", inputs, on=("machine",)).bit_exact
        outputs = api.run_reference(partition, inputs).outputs
        assert outputs.keys() == expected.keys()
        worst = 0.0
        for name, value in expected.items():
            assert outputs[name].shape == value.shape, (case.name, name)
            worst = max(worst, float(np.abs(outputs[name] - value).max()))
        print(f"{case.name}: off by {worst:.4f} at most, on the {'host' if on_host else 'core'}")
        assert worst < NEAR, case.name
        worst_of_all[case.name] = worst
    assert len(worst_of_all) == 6
    name = max(worst_of_all, key=worst_of_all.get)
    print(f"{op_type}: worst is {name} with {worst_of_all[name]:.4f}")
