"""Recurrent layers: machine against reference, and float models against ONNX Runtime."""

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from systolith import api
from systolith.compiler.base.errors import QuantiseError
from systolith.compiler.driver import compile_graph
from systolith.compiler.partition import import_model
from systolith.host.driver import Driver
from systolith.reference.lookup import Lookup
from systolith.reference.machine_device import MachineDevice
from systolith.reference.recurrent import Recurrent
from systolith.reference.reshape import Reshape
from systolith.spec.isa import Cell
from tests.graphs import ARCHS, GraphBuilder, assert_same_bits


def random_network(seed: int):
    """One or two stacked layers over a short sequence."""
    b = GraphBuilder(seed)
    x = b.input((b.integer(1, 7), b.integer(1, 2), b.integer(1, 40)))
    for depth in range(b.integer(1, 2)):
        x = b.recurrent(
            x, list(Cell)[(seed + depth) % 3], b.integer(1, 40), bool(b.integer(0, 1)), wide=seed % 4 == 3
        )
        b.tensors[x] = dataclasses.replace(b.tensors[x], scale=1 / 128, zero_point=0)
        if depth == 0:
            shape = b.tensors[x].shape
            x = b.append(Reshape(shape=(shape[0], shape[2], shape[3])), x)
    return b.finish(x)


def plain_network(kind: Cell, steps: int, inputs: int, units: int):
    """One layer over one sequence, whose weights are all int8."""
    b = GraphBuilder(5)
    return b.finish(b.recurrent(b.input((steps, 1, inputs)), kind, units, reverse=False, planes=1))


@pytest.mark.parametrize("arch", ["tiny", "array8", "wide", "bus32"])
@pytest.mark.parametrize("seed", range(12))
def test_machine_gives_the_bits_of_the_reference(seed, arch):
    graph = random_network(seed)
    assert_same_bits(Driver(MachineDevice(ARCHS[arch]), compile_graph(graph, ARCHS[arch])), graph, seed)


# -- float models
# --------------------------------------------------------------------------------------------------
def float_model(
    op_type,
    direction="forward",
    units=20,
    inputs=12,
    steps=9,
    batch=2,
    seed=0,
    initial=False,
    outputs=("Y", "Y_h"),
    **attributes,
):
    """One recurrent node with random weights as a float model."""
    rng = np.random.default_rng(seed)
    gates, directions = {"LSTM": 4, "GRU": 3, "RNN": 1}[op_type], 2 if direction == "bidirectional" else 1
    constants = {
        "W": rng.normal(0, 0.5, (directions, gates * units, inputs)),
        "R": rng.normal(0, 0.3, (directions, gates * units, units)),
        "B": rng.normal(0, 0.2, (directions, 2 * gates * units)),
    }
    operands = ["x", "W", "R", "B"]
    if initial:
        constants["h0"] = rng.uniform(-0.9, 0.9, (directions, batch, units))
        operands += ["", "h0"]
        if op_type == "LSTM":
            constants["c0"] = rng.normal(0, 1, (directions, batch, units))
            operands.append("c0")
    if op_type == "GRU":
        attributes.setdefault("linear_before_reset", 1)
    node = helper.make_node(
        op_type, operands, list(outputs), name="cell", hidden_size=units, direction=direction, **attributes
    )
    shapes = {
        "Y": (steps, directions, batch, units),
        "Y_h": (directions, batch, units),
        "Y_c": (directions, batch, units),
    }
    graph = helper.make_graph(
        [node],
        "recurrent",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (steps, batch, inputs))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in outputs if name],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model, rng.normal(0, 1, (24, steps, batch, inputs)).astype(np.float32)


def signal_to_noise(expected, got):
    """In decibels."""
    return 10 * np.log10(np.square(expected).sum() / np.square(expected - got).sum())


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op_type", ["LSTM", "GRU", "RNN"])
def test_a_float_model_is_near_onnx_runtime(tmp_path, op_type, direction, initial):
    model, samples = float_model(op_type, direction, initial=initial)
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    partition = api.import_model(path, {"x": samples})
    assert len(partition.steps) == 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    worst = np.inf
    for sample in samples[16:]:
        expected = dict(zip(["Y", "Y_h"], session.run(None, {"x": sample}), strict=True))
        result = api.run_reference(partition, {"x": sample})
        for name, value in expected.items():
            assert result.outputs[name].shape == value.shape and result.outputs[name].dtype == np.float32
            worst = min(worst, signal_to_noise(value, result.outputs[name]))
            assert np.abs(value - result.outputs[name]).max() < 0.15
    print(f"{op_type} {direction}: {worst:.1f} dB at least")
    assert worst > 30
    checked = api.verify(partition, "array8", {"x": samples[20]}, on=("machine",))
    assert checked.bit_exact


@pytest.mark.parametrize(("ratio", "planes"), [(0.5, 1), (1.2, 1), (1.3, 2), (2.4, 2), (2.6, 3), (9, 4)])
def test_the_input_takes_another_product_where_the_weights_of_the_state_would_be_too_coarse(ratio, planes):
    model, samples = float_model("RNN", "forward")
    samples = np.clip(np.abs(samples), 0, 2)
    scale = float(samples.max()) / 255
    # In steps of the input, and of the hidden state, the largest weights are in this ratio.
    for tensor in model.graph.initializer:
        if tensor.name in "WR":
            size = 0.5 if tensor.name == "R" else ratio * 0.5 / 128 / scale
            weights = size * np.sign(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(weights.astype(np.float32), tensor.name))
    (op,) = [node.op for node in import_model(model, {"x": samples}).nodes if isinstance(node.op, Recurrent)]
    assert op.planes == planes
    assert np.abs(op.recurrent).max() == round(127 / max(1, ratio / planes))


def test_layers_are_stacked_between_convolution_and_classifier(tmp_path):
    rng = np.random.default_rng(4)

    def constant(name, *shape, scale=0.3):
        return numpy_helper.from_array(rng.normal(0, scale, shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], name="conv", pads=[1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Transpose", ["r"], ["t"], name="to_time", perm=[2, 0, 1]),
        helper.make_node(
            "LSTM", ["t", "w1", "r1", "b1"], ["y1"], name="both", hidden_size=10, direction="bidirectional"
        ),
        helper.make_node("Transpose", ["y1"], ["y1t"], name="side_by_side", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["y1t", "flat"], ["y1f"], name="joined"),
        helper.make_node(
            "GRU", ["y1f", "w2", "r2", "b2"], ["", "h2"], name="second", hidden_size=9, linear_before_reset=1
        ),
        helper.make_node("Squeeze", ["h2", "first"], ["s"], name="squeeze"),
        helper.make_node("Gemm", ["s", "w3", "b3"], ["y"], name="classifier"),
    ]
    constants = [
        constant("k", 6, 4, 3),
        constant("w1", 2, 40, 6),
        constant("r1", 2, 40, 10),
        constant("b1", 2, 80),
        constant("w2", 1, 27, 20),
        constant("r2", 1, 27, 9),
        constant("b2", 1, 54),
        constant("w3", 9, 5),
        constant("b3", 5),
        numpy_helper.from_array(np.array([11, 1, 20]), "flat"),
        numpy_helper.from_array(np.array([0]), "first"),
    ]
    graph = helper.make_graph(
        nodes,
        "fusion",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4, 11))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 5))],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    samples = rng.normal(0, 1, (30, 1, 4, 11)).astype(np.float32)
    partition = api.import_model(path, {"x": samples[:20]})
    assert len(partition.steps) == 1
    assert [
        node.op_type for node in partition.graph.nodes if node.op_type in ("Conv", "LSTM", "GRU", "Gemm")
    ] == ["Conv", "LSTM", "LSTM", "GRU", "Gemm"]
    # The readers of a hidden state take its scale, so that no table lies between.
    assert not [node.name for node in partition.graph.nodes if isinstance(node.op, Lookup)]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = np.concatenate([session.run(None, {"x": sample})[0] for sample in samples[20:]])
    got = np.concatenate(
        [api.run_reference(partition, {"x": sample}).outputs["y"] for sample in samples[20:]]
    )
    assert signal_to_noise(expected, got) > 25, signal_to_noise(expected, got)
    for arch in ("tiny", "array8"):
        assert api.verify(partition, ARCHS[arch], {"x": samples[25]}, on=("machine",)).bit_exact


def test_a_quantised_model_without_the_range_of_its_cell_states_is_refused():
    model, _ = float_model("LSTM", outputs=("Y",))
    model.graph.node[0].input[0] = "xr"
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.float32(0.02), "s"), numpy_helper.from_array(np.int8(0), "z")]
    )
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xr"]))
    model.graph.node.insert(0, helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]))
    with pytest.raises(QuantiseError, match="'cell'.*calibration"):
        import_model(model)


def test_a_cell_that_was_unrolled_into_elementary_operators_runs_on_the_core(tmp_path):
    rng = np.random.default_rng(8)
    steps, inputs, units = 3, 6, 5
    constants = {
        f"{part}{gate}": rng.normal(0, 0.4, (rows, units))
        for gate in "ifgo"
        for part, rows in (("w", inputs), ("r", units))
    }
    constants |= {f"b{gate}": rng.normal(0, 0.2, units) for gate in "ifgo"} | {
        "h": np.zeros((1, units)) + 0.1,
        "c": np.zeros((1, units)) + 0.2,
    }
    nodes, hidden, cell = [], "h", "c"

    def node(op, *operands):
        nodes.append(
            helper.make_node(op, list(operands), [f"{op}{len(nodes)}"], name=f"{op.lower()}{len(nodes)}")
        )
        return nodes[-1].output[0]

    for t in range(steps):
        gates = {}
        for gate in "ifgo":
            total = (
                node("Add", node("MatMul", f"x{t}", f"w{gate}"), node("MatMul", hidden, f"r{gate}"))
                if t
                else node("MatMul", "x0", f"w{gate}")
            )
            gates[gate] = node("Tanh" if gate == "g" else "Sigmoid", node("Add", total, f"b{gate}"))
        entering = node("Mul", gates["i"], gates["g"])
        cell = node("Add", node("Mul", gates["f"], cell), entering)
        hidden = node("Mul", gates["o"], node("Tanh", cell))
    del constants["h"]
    nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        nodes,
        "unrolled",
        [helper.make_tensor_value_info(f"x{t}", TensorProto.FLOAT, (1, inputs)) for t in range(steps)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, units))],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    samples = {f"x{t}": rng.normal(0, 1, (40, 1, inputs)).astype(np.float32) for t in range(steps)}
    partition = api.import_model(path, samples)
    assert len(partition.steps) == 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    frames = [{name: value[n] for name, value in samples.items()} for n in range(40)]
    expected = np.concatenate([session.run(None, frame)[0] for frame in frames])
    got = np.concatenate([api.run_reference(partition, frame).outputs["y"] for frame in frames])
    assert signal_to_noise(expected, got) > 25, signal_to_noise(expected, got)
    assert api.verify(partition, "array8", frames[0], on=("machine",)).bit_exact
