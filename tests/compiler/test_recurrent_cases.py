"""The ONNX operator tests of LSTM, GRU and RNN, which nobody here wrote: on the core, near their
results."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from systolith import api
from tests.compiler.test_onnx_cases import load_cases

#: Cases whose cell the core has not, so that single operators take its place: the reset before the product,
#: and peepholes.
UNROLLED = {
    "test_gru_batchwise",
    "test_gru_defaults",
    "test_gru_seq_length",
    "test_gru_with_initial_bias",
    "test_gru_bidirectional",
    "test_gru_reverse",
    "test_lstm_with_peepholes",
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


@pytest.mark.parametrize("op_type", ["LSTM", "GRU", "RNN"])
def test_operator_cases_are_near_their_results(op_type, tmp_path):
    worst_of_all = {}
    for case in load_cases()[op_type]:
        model, inputs, expected = with_constants(case)
        path = tmp_path / f"{case.name}.onnx"
        samples = {name: value[None] for name, value in inputs.items()}
        onnx.save(model, path)
        partition = api.import_model(path, calib=samples)
        assert len(partition.steps) == 1, case.name
        whole = any(node.op_type == op_type for node in partition.graph.nodes)
        assert whole == (case.name not in UNROLLED), case.name
        assert api.verify(partition, "array8", inputs, on=("machine",)).bit_exact
        outputs = api.run_reference(partition, inputs).outputs
        assert outputs.keys() == expected.keys()
        worst = 0.0
        for name, value in expected.items():
            assert outputs[name].shape == value.shape, (case.name, name)
            worst = max(worst, float(np.abs(outputs[name] - value).max()))
        print(f"{case.name}: off by {worst:.4f} at most, {'one cell' if whole else 'single operators'}")
        # Between single operators every tensor is rounded.
        assert worst < (NEAR if whole else 4 / 128), case.name
        worst_of_all[case.name] = worst
    assert len(worst_of_all) == 6
    name = max(worst_of_all, key=worst_of_all.get)
    print(f"{op_type}: worst is {name} with {worst_of_all[name]:.4f}")
