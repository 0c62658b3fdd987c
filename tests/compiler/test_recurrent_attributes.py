"""Every attribute and operand of LSTM, GRU and RNN: honoured by the core's cells or by single operators, or
on the host with its reason."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from systolith import api
from systolith.compiler.driver import compile_graph
from systolith.compiler.partition import import_model
from systolith.host.driver import Driver
from systolith.reference.machine_device import MachineDevice
from tests.compiler.qdq import QdqModel
from tests.compiler.test_recurrent import float_model, signal_to_noise
from tests.graphs import ARCHS, assert_same_bits
from tests.plans import sides


def near(tmp_path, model, samples, oracle=None):
    """The partition, and the signal to noise of its outputs over the last samples against ONNX Runtime on
    `oracle`."""
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    partition = api.import_model(path, {name: value[:16] for name, value in samples.items()})
    session = onnxruntime.InferenceSession(
        (oracle or model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    expected, got = [], []
    for n in range(16, 20):
        frame = {name: value[n] for name, value in samples.items()}
        results = session.run(None, frame)
        outputs = api.run_reference(partition, frame).outputs
        expected += [value.ravel() for value in results]
        got += [outputs[value.name].ravel() for value in session.get_outputs()]
        assert [outputs[value.name].shape for value in session.get_outputs()] == [
            value.shape for value in results
        ]
    return partition, signal_to_noise(np.concatenate(expected), np.concatenate(got))


@pytest.mark.parametrize(
    ("op_type", "options"),
    [
        ("LSTM", {"input_forget": 1}),
        ("LSTM", {"input_forget": 1, "direction": "bidirectional", "initial": True}),
        ("LSTM", {"clip": 8.0}),
        ("GRU", {"clip": 20.0}),
        ("RNN", {"activations": ["Tanh"], "activation_alpha": [0.5]}),
        ("LSTM", {"activations": ["Sigmoid", "Tanh", "Tanh"] * 2, "direction": "bidirectional"}),
    ],
)
def test_what_maps_onto_the_cells_runs_on_the_core(tmp_path, op_type, options):
    model, samples = float_model(op_type, **options)
    partition, ratio = near(tmp_path, model, {"x": samples})
    assert len(partition.steps) == 1
    assert ratio > 30, ratio
    assert api.verify(partition, "array8", {"x": samples[20]}, on=("machine",)).bit_exact


@pytest.mark.parametrize("op_type", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lengths", [[4, 4], [9, 4]])
def test_sequences_may_be_shorter(tmp_path, op_type, direction, lengths):
    model, samples = float_model(op_type, direction, initial=True)
    with_operand(model, 4, "lengths", np.array(lengths, np.int32))
    partition, ratio = near(tmp_path, model, {"x": samples})
    assert len(partition.steps) == 1
    assert ratio > 30, ratio
    assert api.verify(partition, "array8", {"x": samples[20]}, on=("machine",)).bit_exact


def test_the_last_cell_state_is_a_result(tmp_path):
    model, samples = float_model("LSTM")
    with_last_cell_state(model)
    partition, ratio = near(tmp_path, model, {"x": samples})
    assert len(partition.steps) == 1
    assert ratio > 30, ratio
    assert api.verify(partition, "array8", {"x": samples[20]}, on=("machine",)).bit_exact


@pytest.mark.parametrize("op_type", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("wide", [False, True])
def test_the_first_state_may_be_computed(op_type, direction, wide):
    """From a quantised tensor, which the layer takes as exactly as a constant of the same numbers."""
    whole, constants = (states_of(op_type, direction, wide, given) for given in (True, False))
    rng = np.random.default_rng(2)
    codes = {name: rng.integers(-128, 128, t.shape).astype(np.int8) for name, t in inputs_of(whole)}
    expected = {name: constants.run({"x": codes["x"]})[name] for name in constants.outputs}
    # The constants are those of one choice of codes: 0 everywhere.
    zeros = codes | {name: np.zeros_like(value) for name, value in codes.items() if name != "x"}
    got = whole.run(zeros)
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value)
    for arch in ("tiny", "array8"):
        image = compile_graph(whole, ARCHS[arch])
        assert_same_bits(Driver(MachineDevice(ARCHS[arch]), image), whole, 4)


def inputs_of(graph):
    return [(name, graph.tensors[name]) for name in graph.inputs]


def states_of(op_type, direction, wide, given):
    """The quantised graph of a layer whose first states are tensors, or the number that code 0 means."""
    m = QdqModel(3)
    d, g, n, h, i = (
        (2 if direction == "bidirectional" else 1),
        {"LSTM": 4, "GRU": 3, "RNN": 1}[op_type],
        2,
        9,
        5,
    )

    def constant(*shape):
        return m.const(m.rng.uniform(-0.4, 0.4, shape).astype(np.float32))

    x = m.input(6, n, i, scale=0.02)
    m.inputs[0].name = m.nodes[0].input[0] = "x"
    operands = [x, constant(d, g * h, i), constant(d, g * h, h), constant(d, 2 * g * h), ""]
    count = 2 if op_type == "LSTM" else 1
    for _ in range(count):
        name, scale, zero = m.name("h"), np.float32(0.007), np.int8(-30)
        if given:
            m.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, (d, n, h)))
            operands.append(m.qdq(name, m.const(scale), m.const(zero)))
        else:
            operands.append(m.const(np.full((d, n, h), np.float32(30) * scale)))
    options = {"linear_before_reset": 1} if op_type == "GRU" else {}
    m.node(op_type, *operands, outputs=count + 1, hidden_size=h, direction=direction, **options)
    node = m.nodes[-1]
    node.name, node.output[0], node.output[1] = "cell", "Y", "Y_h"
    model = m.build("Y", "Y_h")
    for key, value in (
        ("systolith.cell_range.cell", "2.0 2.0"),
        ("systolith.hidden_bits", "16" if wide else "8"),
    ):
        model.metadata_props.add(key=key, value=value)
    return import_model(model)


@pytest.mark.parametrize("op_type", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_the_batch_may_come_first(tmp_path, op_type, direction):
    model, samples = float_model(op_type, direction, initial=True)
    first = onnx.ModelProto()
    first.CopyFrom(model)
    node, graph = first.graph.node[0], first.graph
    node.attribute.append(helper.make_attribute("layout", 1))
    for tensor in graph.initializer:
        if tensor.name in ("h0", "c0"):
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor).transpose(1, 0, 2), tensor.name)
            )
    orders = {"x": (1, 0, 2), "Y": (2, 0, 1, 3), "Y_h": (1, 0, 2)}
    for value in (*graph.input, *graph.output):
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        value.CopyFrom(
            helper.make_tensor_value_info(
                value.name, TensorProto.FLOAT, [dims[axis] for axis in orders[value.name]]
            )
        )
    onnx.checker.check_model(first)
    partitions = []
    for number, (form, data) in enumerate(((model, samples), (first, samples.swapaxes(1, 2)))):
        path = tmp_path / f"{number}.onnx"
        onnx.save(form, path)
        partitions.append(api.import_model(path, {"x": data[:16]}))
    assert len(partitions[1].steps) == 1
    expected = api.run_reference(partitions[0], {"x": samples[20]}).outputs
    got = api.run_reference(partitions[1], {"x": samples[20].swapaxes(0, 1)}).outputs
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value.transpose(orders[name]))
    assert api.verify(partitions[1], "array8", {"x": samples[20].swapaxes(0, 1)}, on=("machine",)).bit_exact


def with_operand(model, index, name, array=None):
    """Give the node one more operand: a constant, or an int32 or float input of the model (`array` is its
    shape)."""
    node = next(node for node in model.graph.node if node.name == "cell")
    node.input.extend([""] * (index + 1 - len(node.input)))
    node.input[index] = name
    if isinstance(array, np.ndarray):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    else:
        kind = TensorProto.INT32 if index == 4 else TensorProto.FLOAT
        model.graph.input.append(helper.make_tensor_value_info(name, kind, array))
    return model


def with_last_cell_state(model):
    model.graph.node[0].output.append("Y_c")
    model.graph.output.append(helper.make_tensor_value_info("Y_c", TensorProto.FLOAT, (1, 2, 20)))


RNG = np.random.default_rng(11)
UNROLLED = {
    "peepholes": (
        "LSTM",
        {},
        lambda m: with_operand(m, 7, "P", RNG.normal(0, 0.3, (1, 60)).astype(np.float32)),
    ),
    "clip must": ("LSTM", {"clip": 0.7}, None),
    "linear_before_reset": ("GRU", {"linear_before_reset": 0}, None),
    "activations must": ("RNN", {"activations": ["Relu"]}, None),
    "activations must be": (
        "LSTM",
        {
            "activations": ["HardSigmoid", "Tanh", "Softsign"],
            "activation_alpha": [0.3],
            "activation_beta": [0.4],
        },
        None,
    ),
}


@pytest.mark.parametrize("word", UNROLLED)
def test_a_cell_that_the_core_has_not_becomes_operators_that_it_has(tmp_path, word):
    op_type, options, change = UNROLLED[word]
    model, samples = float_model(op_type, **options)
    if change is not None:
        change(model)
    partition, ratio = near(tmp_path, model, {"x": samples})
    assert len(partition.steps) == 1
    kinds = {node.op_type for node in partition.graph.nodes}
    assert "MatMul" in kinds and not kinds & {"LSTM", "GRU", "RNN"}
    # Whoever reads a report finds the node of the file.
    assert {"cell"} == {name for node in partition.graph.nodes for name in node.sources}
    # Softsign is steep where most of its values lie.
    assert ratio > (28 if word == "activations must be" else 30), ratio
    assert api.verify(partition, "array8", {"x": samples[20]}, on=("machine",)).bit_exact


def with_a_layer(index, name, shape):
    """A GRU with one more input of the model, and a layer behind it; samples of both inputs."""
    model, samples = float_model("GRU", outputs=("Y",))
    with_operand(model, index, name, shape)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, (9, 1, 2, 5)))
    rng = np.random.default_rng(3)
    model.graph.initializer.append(
        numpy_helper.from_array(rng.normal(0, 0.3, (20, 5)).astype(np.float32), "readout")
    )
    model.graph.node.append(helper.make_node("MatMul", ["Y", "readout"], ["y"], name="layer"))
    given = (
        rng.integers(1, 10, (24, *shape)).astype(np.int32)
        if index == 4
        else rng.uniform(-1, 1, (24, *shape)).astype(np.float32)
    )
    return model, {"x": samples, name: given}


def test_lengths_that_the_model_is_given_keep_the_cell_on_the_host_before_a_layer(tmp_path):
    partition, ratio = near(tmp_path, *with_a_layer(4, "lengths", (2,)))
    assert sides(partition)["cell"] == "before"
    (hosted,) = partition.host_nodes
    assert hosted.reason == "the input 'lengths' has type int32, which the core does not read"
    assert [node.op_type for node in partition.graph.nodes if node.op_type == "MatMul"] == ["MatMul"]
    # The range of the layer's result is that of 16 samples.
    assert ratio > 20, ratio


def test_a_state_that_the_model_is_given_enters_the_core(tmp_path):
    model, samples = with_a_layer(5, "h0", (1, 2, 20))
    partition, ratio = near(tmp_path, model, samples)
    assert len(partition.steps) == 1 and partition.graph.inputs == ("x", "h0")
    assert ratio > 20, ratio
    given = {name: value[20] for name, value in samples.items()}
    assert api.verify(partition, "array8", given, on=("machine",)).bit_exact
