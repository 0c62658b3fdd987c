"""State that a model carries through its own inputs and outputs, bound to the core."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import systolith
from systolith import api
from systolith.compiler.base.errors import CompileError, InputError, UnsupportedError
from systolith.compiler.partition import partition_model
from systolith.host.codes import quantise
from systolith.spec.image import Image
from tests.test_cli import invoke, refused

UNITS, FRAMES = 20, 40
STATES = {"hn": "h", "cn": "c"}


def voice_model(
    op_type="LSTM",
    seed=0,
    squeezed=False,
    x="x",
    probability="probability",
    width=40,
    units=UNITS,
    classes=3,
    **attributes,
):
    """A small one of a voice detector's shape: a front end that the core cannot run, a convolution, a cell
    whose state comes in and goes out, and a dense layer behind it. With `squeezed` the states have no axis
    for the directions.
    """
    rng = np.random.default_rng(seed)
    gates = {"LSTM": 4, "GRU": 3}[op_type]
    constants = {
        "front": rng.normal(0, 0.4, (12, 1, 8)),
        "kernel": rng.normal(0, 0.3, (16, 12, 3)),
        "bias": rng.normal(0, 0.1, 16),
        "W": rng.normal(0, 0.4, (1, gates * units, 16)),
        "R": rng.normal(0, 0.25, (1, gates * units, units)),
        "B": rng.normal(0, 0.2, (1, 2 * gates * units)),
        "dense": rng.normal(0, 0.4, (units, classes)),
    }
    integers = {"axis1": [1], "axis0": [0]}
    lstm = op_type == "LSTM"
    states = ["h", "c"] if lstm else ["h"]
    shape = (1, units) if squeezed else (1, 1, units)
    inner = [f"{name}_inner" for name in states] if squeezed else states
    nexts = [f"{name}n" for name in states]
    given = [f"{name}_outer" for name in nexts] if squeezed else nexts
    if op_type == "GRU":
        attributes.setdefault("linear_before_reset", 1)
    nodes = [
        helper.make_node("Unsqueeze", [x, "axis1"], ["signal"]),
        helper.make_node("Conv", ["signal", "front"], ["bands"], "front", strides=[4]),
        helper.make_node("CumSum", ["bands", "two"], ["sums"], "sums"),
        helper.make_node("Abs", ["sums"], ["magnitude"], "abs"),
        helper.make_node("Conv", ["magnitude", "kernel", "bias"], ["convolved"], "conv"),
        helper.make_node("Relu", ["convolved"], ["features"]),
        helper.make_node("GlobalAveragePool", ["features"], ["mean"], "mean"),
        helper.make_node("Transpose", ["mean"], ["frame"], perm=[0, 2, 1]),
        *(
            [helper.make_node("Unsqueeze", [name, "axis0"], [f"{name}_inner"]) for name in states]
            if squeezed
            else []
        ),
        helper.make_node(
            op_type,
            ["frame", "W", "R", "B", "", *inner],
            ["y", *given],
            "cell",
            hidden_size=units,
            **attributes,
        ),
        *(
            [helper.make_node("Squeeze", [f"{name}_outer", "axis0"], [name]) for name in nexts]
            if squeezed
            else []
        ),
        helper.make_node("Squeeze", ["y", "axis1"], ["last"]),
        helper.make_node("MatMul", ["last", "dense"], ["scores"], "dense"),
        helper.make_node("Sigmoid", ["scores"], [probability]),
    ]
    graph = helper.make_graph(
        nodes,
        "voice",
        [
            helper.make_tensor_value_info(x, TensorProto.FLOAT, ("frames", width)),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in states),
        ],
        [
            helper.make_tensor_value_info(probability, TensorProto.FLOAT, None),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in nexts),
        ],
        [
            *(
                numpy_helper.from_array(np.asarray(value, np.float32), name)
                for name, value in constants.items()
            ),
            *(numpy_helper.from_array(np.asarray(value, np.int64), name) for name, value in integers.items()),
            numpy_helper.from_array(np.int64(2), "two"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def bound(op_type):
    return STATES if op_type == "LSTM" else {"hn": "h"}


def signal(seed=3):
    """Frames of a stream that grows louder and fainter."""
    rng = np.random.default_rng(seed)
    return (rng.normal(0, 0.3, (FRAMES, 1, 40)) * (1 + np.sin(np.arange(FRAMES) / 5))[:, None, None]).astype(
        np.float32
    )


def in_float(model, frames, squeezed=False):
    """ONNX Runtime, frame by frame, its state handed on."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [value.name for value in session.get_inputs()][1:]
    state = {name: np.zeros((1, UNITS) if squeezed else (1, 1, UNITS), np.float32) for name in names}
    found = []
    for frame in frames:
        probability, *after = session.run(None, {"x": frame, **state})
        state = dict(zip(names, after, strict=True))
        found.append(probability)
    return np.concatenate(found)


@pytest.mark.parametrize(
    ("op_type", "squeezed", "backend"),
    [("LSTM", False, "rtl"), ("LSTM", True, "machine"), ("GRU", False, "rtl"), ("GRU", True, "machine")],
)
def test_a_stream_stays_close_to_float_and_on_the_bits_of_the_reference(op_type, squeezed, backend):
    model, frames = voice_model(op_type, squeezed=squeezed), signal()
    partition = partition_model(model, {"x": frames[: FRAMES // 2]}, bound(op_type))
    # The front end's convolution and the rest run on the core, with two nodes of the host between them.
    front, host, rest = partition.steps
    assert [node.name for node in host.nodes] == ["sums", "abs"]
    assert (front.inputs, front.outputs) == (("x",), ("bands",))
    assert (rest.inputs, rest.outputs) == (("magnitude",), ("probability",))
    image = api.compile(partition, "array8")
    assert [port.name for port in image.inputs] == ["x"] and [port.name for port in image.outputs] == [
        "probability"
    ]
    states, found = {}, []
    with systolith.Session(backend, image) as session:
        for frame in frames:
            result = session.run({"x": frame})
            found.append(result.outputs["probability"])
            given = quantise(result.values["magnitude"], image.formats["magnitude"])
            np.testing.assert_array_equal(
                rest.graph.run({"magnitude": given}, states)["probability"], result.raw["probability"]
            )
        session.reset()
        np.testing.assert_array_equal(session.run({"x": frames[0]}).outputs["probability"], found[0])
        # Two streams on one device, one a frame behind the other.
        first, second = session.stream(), session.stream()
        for t in range(4):
            np.testing.assert_array_equal(first.run({"x": frames[t]}).outputs["probability"], found[t])
            if t:
                np.testing.assert_array_equal(
                    second.run({"x": frames[t - 1]}).outputs["probability"], found[t - 1]
                )
    error = np.abs(np.concatenate(found) - in_float(model, frames, squeezed))
    assert error.mean() < 0.02 and error.max() < 0.1


def test_calibration_follows_the_stream():
    """The cell state grows from frame to frame, far beyond what one frame from zero reaches."""
    model, frames = voice_model(), signal()
    (bias,) = [tensor for tensor in model.graph.initializer if tensor.name == "B"]
    # The forget gate stays open, and what comes in is positive.
    gates = numpy_helper.to_array(bias).reshape(8, UNITS).copy()
    gates[0], gates[2], gates[3] = 3, 8, 3
    bias.CopyFrom(numpy_helper.from_array(gates.reshape(1, -1), "B"))
    longer = partition_model(model, {"x": frames}, STATES)
    first = partition_model(model, {"x": frames[:1]}, STATES)
    (of_stream,), (of_frame,) = (
        [node.op.cell_shift for part in plan.cores for node in part.graph.nodes if node.op_type == "LSTM"]
        for plan in (longer, first)
    )
    assert (of_frame, of_stream) == (0, 3)


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (
            {"nothing": "h", "cn": "c"},
            "'nothing': no output of the model has this name.*the outputs are probability, hn, cn",
        ),
        (
            {"hn": "nothing", "cn": "c"},
            "'nothing': no input of the model has this name.*the inputs are x, h, c",
        ),
        ({"hn": "x", "cn": "c"}, "'x'.*not the initial state of one LSTM, GRU or RNN"),
        ({"hn": "c", "cn": "h"}, "'hn': it is bound to 'c', initial_c of 'cell', but it is not Y_c"),
        (
            {"probability": "h", "cn": "c"},
            "'probability': it is bound to 'h', initial_h of 'cell', but it is not Y_h",
        ),
        ({"hn": "h"}, "'c': it is initial_c of 'cell', whose other state is bound; bind both"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_binding_is_refused_with_the_name_at_fault(states, message):
    with pytest.raises(InputError, match=message):
        partition_model(voice_model(), {"x": signal()}, states)


def test_a_bound_state_of_a_node_on_the_host_is_refused():
    with pytest.raises(
        UnsupportedError,
        match="'cell': its state 'h' is bound, but it would run on the host: 'cell': LSTM: the activations "
        "must be",
    ):
        partition_model(voice_model(activations=["Sigmoid", "Tanh", "Relu"]), {"x": signal()}, STATES)


def test_without_binding_the_states_are_inputs_and_outputs_of_the_core():
    model, frames = voice_model(), signal()
    zero = np.zeros((FRAMES, 1, 1, UNITS), np.float32)
    partition = partition_model(model, {"x": frames, "h": zero, "c": zero})
    assert [node.name for node in partition.host_nodes] == ["sums", "abs"]
    assert partition.cores[0].inputs == ("x", "h", "c")
    assert partition.cores[1].outputs == ("probability", "hn", "cn")
    assert api.verify(partition, "tiny", on=("machine",)).bit_exact


def test_the_command_line_binds_and_refuses(tmp_path, capsys):
    model, data = tmp_path / "voice.onnx", tmp_path / "x.npz"
    onnx.save(voice_model(), model)
    np.savez(data, x=signal())
    common = ("--arch", "tiny", "--calib", data)
    status, out, _ = invoke(
        capsys, "verify", model, *common, "--state", "hn:h", "--state", "cn:c", "--on", "machine"
    )
    assert status == 0 and "bit" in out
    assert "'hn' is not OUTPUT:INPUT" in refused(capsys, "explain", model, *common, "--state", "hn")
    assert "no output of the model" in refused(
        capsys, "compile", model, *common, "--state", "a:h", "-o", tmp_path / "v.sysl"
    )
    assert not (tmp_path / "v.sysl").exists()


def test_an_image_keeps_its_bound_states(tmp_path):
    frames = signal()
    image = api.compile(partition_model(voice_model(), {"x": frames}, STATES), "tiny")
    image.save(tmp_path / "v.sysl")
    with systolith.Session("machine", Image.load(tmp_path / "v.sysl")) as session:
        first = session.run({"x": frames[0]}).outputs["probability"]
        assert (session.run({"x": frames[0]}).outputs["probability"] != first).any()


def test_other_errors_of_the_model_are_not_hidden():
    with pytest.raises(CompileError, match="there is no calibration data"):
        partition_model(voice_model(), None, STATES)
