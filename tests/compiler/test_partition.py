"""Models of which the host runs a part: where they are cut, what they compute, and what is still refused."""

import re

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.utils import Extractor

from systolith import api
from systolith.compiler.base.errors import CompileError, InputError
from systolith.compiler.partition import partition_model
from systolith.host.runner import HostStepError
from systolith.host.step_process import Loaded
from systolith.reference.plan import CorePart
from systolith.spec.image import Image
from systolith.spec.plan import HostStep
from tests.compiler.qdq import QdqModel
from tests.compiler.test_import_float import cnn, samples
from tests.plans import sides


def onnxruntime_values(model, feeds, names):
    """Tensors of a model by name, optimisations off."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    known = {value.name for value in model.graph.output}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(exposed.SerializeToString(), options)
    return dict(zip(names, session.run(names, feeds), strict=True))


def check(model, seed=3, calibration=None, layers=1):
    """Machine = reference on random inputs, and what the core gives is ONNX Runtime's, to one step per layer.

    Returns the partition, the reference's result, and what the core gave, by name, as the model has it.
    """
    partition = partition_model(model, calibration)
    assert partition.host_nodes
    result = api.verify(partition, "tiny", on=("reference", "machine"), seed=seed)
    assert result.bit_exact, result.differences
    arrays = api.random_inputs(partition, seed)
    ours = api.run_reference(partition, arrays)
    assert list(ours.outputs) == [value.name for value in model.graph.output]
    crossing = [name for name in partition.graph.outputs if calibration is None]
    expected = onnxruntime_values(model, arrays, [*crossing, *ours.outputs])
    held = {}
    for name in crossing:
        tensor = partition.graph.tensors[name]
        real = (ours.raw[name].astype(np.int32) - tensor.zero_point).astype(np.float32) * np.float32(
            tensor.scale
        )
        held[name] = real if tensor.dtype == "float32" else ours.raw[name]
        step = tensor.scale if tensor.dtype == "float32" else 1
        assert np.abs(held[name].astype(np.float64) - expected[name]).max() <= layers * step * 1.001
    for name, value in ours.outputs.items():
        assert (value.shape, value.dtype) == (expected[name].shape, expected[name].dtype)
    return partition, ours, held


def host_of(partition):
    """(op, side of the core) of the nodes on the host, in order."""
    return [(node.op, sides(partition)[node.name]) for node in partition.host_nodes]


def dense(m, x, inputs=6, outputs=5):
    return m.quantise(m.node("Gemm", x, m.weights(outputs, inputs), transB=1), 0.05)


@pytest.mark.parametrize("unsigned", [False, True])
def test_a_softmax_at_the_end_runs_on_the_host(unsigned):
    m = QdqModel(0, unsigned=unsigned)
    logits = dense(m, m.input(1, 6))
    model = m.build(m.quantise(m.node("Softmax", logits), 1 / 256))
    partition, ours, held = check(model)
    assert host_of(partition) == [(op, "after") for op in ("Softmax", "QuantizeLinear", "DequantizeLinear")]
    softmax, quantise, _ = partition.host_nodes
    assert softmax.reason == "operator Softmax is not supported"
    assert quantise.reason == f"it reads the result of {softmax.name!r}, which is on the host"
    assert (softmax.elements, softmax.bytes, quantise.bytes, softmax.macs) == (5, 5, 0, 0)
    # The rest of the model, cut out by onnx itself, on what the core gave.
    tail = Extractor(onnx.shape_inference.infer_shapes(model)).extract_model([logits], list(ours.outputs))
    assert partition.graph.outputs == (logits,)
    expected = onnxruntime_values(tail, held, list(ours.outputs))
    for name, value in ours.outputs.items():
        np.testing.assert_array_equal(value, expected[name])


def test_an_argmax_gives_its_integers():
    m = QdqModel(1)
    logits = dense(m, m.input(1, 6))
    model = m.build(m.node("ArgMax", logits, axis=1))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    _, ours, held = check(model)
    (value,) = ours.outputs.values()
    np.testing.assert_array_equal(value[0], held[logits].argmax(axis=1))


def test_outputs_of_core_and_host_keep_the_models_order():
    m = QdqModel(2)
    logits = dense(m, m.input(1, 6))
    hidden = m.quantise(m.node("Relu", logits), 0.04)
    model = m.build(m.node("Softmax", logits), hidden, logits, m.node("LogSoftmax", logits))
    partition, ours, held = check(model, layers=2)
    assert set(partition.graph.outputs) == {logits, hidden}
    assert [node.bytes for node in partition.host_nodes] == [5, 5]
    for name in (logits, hidden):
        np.testing.assert_array_equal(ours.outputs[name], held[name])


def test_preprocessing_runs_before_the_core():
    m = QdqModel(3)
    m.inputs.append(helper.make_tensor_value_info("pixels", TensorProto.UINT8, [1, 4, 4, 3]))
    x = m.node("Cast", "pixels", to=TensorProto.FLOAT)
    x = m.node("Div", m.node("Sub", x, m.const(np.float32(127))), m.const(np.float32(64)))
    x = m.quantise(m.node("Transpose", x, perm=[0, 3, 1, 2]), 1 / 64)
    model = m.build(m.quantise(m.node("Conv", x, m.weights(4, 3, 3, 3)), 0.05))
    partition, _, _ = check(model)
    # The core transposes: of what can wait, nothing runs on the host.
    assert host_of(partition) == [(op, "before") for op in ("Cast", "Sub", "Div")]
    assert [node.bytes for node in partition.host_nodes] == [0, 0, 48]
    assert "is not quantised" in partition.host_nodes[1].reason
    assert isinstance(partition.steps[-1], CorePart)


def test_what_both_sides_need_is_computed_on_both():
    m = QdqModel(4)
    x = m.input(1, 3, 4, 4)
    summed = m.quantise(m.node("CumSum", x, m.const(np.int64(1))), 0.2)
    y = m.quantise(m.node("Conv", x, m.weights(3, 3, 3, 3), pads=[1, 1, 1, 1]), 0.05)
    z = m.quantise(m.node("Conv", m.quantise(m.node("Add", y, summed), 0.3), m.weights(2, 3, 1, 1)), 0.1)
    partition, _, _ = check(m.build(z), layers=3)
    assert host_of(partition) == [(op, "before") for op in ("QuantizeLinear", "DequantizeLinear", "CumSum")]
    assert set(partition.graph.inputs) == {"x1", "cumsum7"}
    quantise, _, cumsum = partition.host_nodes
    assert quantise.reason == (
        "'node_dequantizelinear5', which is on the host, needs its result as the model has it"
    )
    assert (cumsum.reason, cumsum.bytes) == ("operator CumSum is not supported", 48)
    # The core quantises its own input too: nothing crosses twice.
    assert [type(step) for step in partition.steps] == [HostStep, CorePart]


def test_an_integer_input_is_looked_up_on_the_host():
    m = QdqModel(5)
    m.inputs.append(helper.make_tensor_value_info("token", TensorProto.INT64, [1]))
    table = m.const(m.rng.normal(size=(2, 6)).astype(np.float32))
    x = m.quantise(m.node("Gather", table, "token"), 0.03)
    partition, _, _ = check(m.build(dense(m, x)))
    assert host_of(partition) == [("Gather", "before")]


def test_an_integer_input_of_operators_that_the_core_has_is_read_by_the_host():
    m = QdqModel(5)
    m.inputs.append(helper.make_tensor_value_info("codes", TensorProto.INT64, [1, 2, 3]))
    flat = m.node("Cast", m.node("Reshape", "codes", m.const(np.array([1, 6]))), to=TensorProto.FLOAT)
    partition, _, _ = check(m.build(dense(m, m.quantise(flat, 0.03))))
    assert host_of(partition) == [("Reshape", "before"), ("Cast", "before")]
    assert partition.host_nodes[0].reason == (
        "the input 'codes' has type int64, which the core does not read"
    )


def test_products_of_computed_tensors_at_the_end_run_on_the_host():
    m = QdqModel(7)
    x = m.input(3, 4)
    a = m.quantise(m.node("MatMul", x, m.weights(4, 4, axis=1)), 0.05)
    b = m.quantise(m.node("MatMul", x, m.weights(4, 4, axis=1)), 0.05)
    scores = m.quantise(m.node("MatMul", a, m.quantise(m.node("Transpose", b), 0.05)), 0.1)
    partition, _, _ = check(m.build(m.node("MatMul", m.node("Softmax", scores), b)), layers=2)
    products = [node for node in partition.host_nodes if node.op == "MatMul"]
    assert [node.macs for node in products] == [3 * 4 * 3, 3 * 3 * 4]
    assert "must be constant" in products[0].reason


def qlinear(channels_last=0):
    """QLinearConv and, behind it, QLinearSoftmax, which has no float twin here."""
    rng = np.random.default_rng(8)
    constants = {
        "s": np.float32(0.05),
        "z": np.uint8(128),
        "w": rng.integers(-127, 128, (4, 3, 1, 1)).astype(np.int8),
        "ws": np.float32(0.01),
        "wz": np.int8(0),
        "p": np.float32(1 / 256),
        "pz": np.uint8(0),
    }
    nodes = [
        helper.make_node("QLinearConv", ["x", "s", "z", "w", "ws", "wz", "s", "z"], ["c"], "conv"),
        helper.make_node(
            "QLinearSoftmax",
            ["c", "s", "z", "p", "pz"],
            ["y"],
            "softmax",
            domain="com.microsoft",
            axis=1,
            opset=13,
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "qlinear",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 3, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [1, 4, 2, 2])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def test_qlinear_models_state_formats_at_the_boundary():
    model = qlinear()
    partition = partition_model(model)
    assert host_of(partition) == [("Softmax", "after"), ("QuantizeLinear", "after")]
    assert api.verify(partition, "tiny", on=("machine",)).bit_exact
    arrays = api.random_inputs(partition, 3)
    ours = api.run_reference(partition, arrays)
    expected = onnxruntime_values(model, arrays, ["c", "y"])
    (crossing,) = partition.graph.outputs
    tensor = partition.graph.tensors[crossing]
    assert (tensor.scale, tensor.zero_point) == (pytest.approx(0.05), 0)
    assert np.abs(ours.raw[crossing].astype(int) + 128 - expected["c"]).max() <= 1
    # Within one step at the logits, softmax moves by no more than 5 per cent of its value.
    assert ours.outputs["y"].dtype == np.uint8
    assert np.abs(ours.outputs["y"].astype(int) - expected["y"]).max() <= 0.06 * 256


def float_model():
    """Cast and CumSum, which the core has not, before a CNN, and Softmax and ArgMax behind it."""
    model = cnn()
    nodes = [
        helper.make_node("Cast", ["bytes"], ["floats"], "cast", to=TensorProto.FLOAT),
        helper.make_node("CumSum", ["floats", "axis"], ["sums"], "sums"),
        helper.make_node("Mul", ["sums", "factor"], ["x"], "factor"),
        *model.graph.node,
        helper.make_node("Softmax", ["y"], ["probabilities"], "softmax"),
        helper.make_node("ArgMax", ["probabilities"], ["class"], "argmax", axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "both",
        [helper.make_tensor_value_info("bytes", TensorProto.UINT8, [1, 3, 12, 12])],
        [
            helper.make_tensor_value_info("class", TensorProto.INT64, [1]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [1, 5]),
        ],
        [
            *model.graph.initializer,
            numpy_helper.from_array(np.int64(2), "axis"),
            numpy_helper.from_array(np.float32(1 / 1000), "factor"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_a_float_model_is_calibrated_behind_its_first_host_step():
    model = float_model()
    data = np.random.default_rng(9).integers(0, 256, (20, 3, 12, 12)).astype(np.uint8)
    partition = partition_model(model, {"bytes": data})
    assert api.verify(partition, "tiny", on=("machine",)).bit_exact
    ops = host_of(partition)
    # Mul stays in float, as nothing of the core lies before it.
    assert ops[:3] == [("Cast", "before"), ("CumSum", "before"), ("Mul", "before")]
    assert ops[3:] == [("Softmax", "after"), ("ArgMax", "after")]
    (name,) = partition.graph.inputs
    tensor = partition.graph.tensors[name]
    # Calibrated for the sums of the data, up to 12 * 255, over 1000.
    largest = np.cumsum(data.astype(np.float32), axis=2).max() / 1000
    assert (127 - tensor.zero_point) * tensor.scale == pytest.approx(largest, rel=0.01)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    agreed, errors = 0, []
    for sample in data[:10, None]:
        ours = api.run_reference(partition, {"bytes": sample}).outputs
        best, probabilities = session.run(["class", "probabilities"], {"bytes": sample})
        agreed += ours["class"] == best
        errors.append(np.abs(ours["probabilities"] - probabilities).max())
    assert agreed >= 9 and np.max(errors) < 0.1


def test_what_the_importer_refuses_of_a_float_model_after_calibration_moves_to_the_host_too():
    model = cnn()
    model.graph.node.append(helper.make_node("Transpose", ["y"], ["column"], "turn", perm=[1, 0]))
    model.graph.node.append(helper.make_node("MatMul", ["column", "y"], ["products"], "outer"))
    model.graph.output.append(helper.make_tensor_value_info("products", TensorProto.FLOAT, [5, 5]))
    partition, ours, _ = check(model, calibration={"x": samples()})
    (outer,) = partition.host_nodes
    assert (outer.name, outer.macs, outer.elements, outer.bytes) == ("outer", 25, 25, 10)
    y = ours.outputs["y"]
    np.testing.assert_allclose(ours.outputs["products"], y.T @ y, rtol=1e-5)


def test_a_float_model_asks_for_data_of_its_own_input():
    with pytest.raises(InputError, match="there is no calibration data; give samples for 'bytes'"):
        partition_model(float_model())
    with pytest.raises(InputError, match="'x': calibration data for an input that the model does not have"):
        partition_model(float_model(), {"x": samples(2)})


def nothing(m):
    return m.build(m.node("Softmax", m.quantise(m.node("CumSum", m.input(1, 6), m.const(np.int64(1))), 0.1)))


def not_quantised(m):
    return m.build(m.node("Conv", m.input(1, 2, 4, 4), m.weights(3, 2, 1, 1)))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (nothing, "node 'node_cumsum.*operator CumSum is not supported"),
        (not_quantised, "node 'node_conv.*the output is not quantised, and without calibration data"),
    ],
)
def test_a_model_of_which_the_core_runs_nothing_is_a_plan_that_the_front_door_refuses(build, words):
    model = build(QdqModel(0))
    partition = partition_model(model)
    assert not partition.cores and len(partition.steps) == 1
    with pytest.raises(api.HostOnlyError, match=f"nothing of .* can run on the core .{words}") as caught:
        api.compile(partition, "tiny")
    assert "\n" not in str(caught.value)
    # Where that is wanted, the host gives what ONNX Runtime gives.
    arrays = api.random_inputs(partition, 2)
    image = api.compile(partition, "tiny", host_only=True)
    (name,) = (port.name for port in partition.outputs)
    np.testing.assert_allclose(
        api.run(image, arrays).outputs[name], onnxruntime_values(model, arrays, [name])[name], rtol=1e-5
    )


def test_a_broken_constant_is_refused_and_moves_nothing_to_the_host():
    m = QdqModel(11)
    w = m.node("DequantizeLinear", m.const(np.ones((5, 6), np.int8)), m.const(np.float32(np.nan)))
    y = m.quantise(m.node("Gemm", dense(m, m.input(1, 6), outputs=6), w, transB=1), 0.05)
    with pytest.raises(CompileError, match="must be positive and finite"):
        partition_model(m.build(y))


def test_a_supported_model_has_no_host_part():
    m = QdqModel(12)
    partition = partition_model(m.build(dense(m, m.input(1, 6))))
    assert len(partition.steps) == 1
    assert len(api.compile(partition, "tiny").steps) == 1


def test_nodes_that_no_output_needs_run_nowhere():
    m = QdqModel(12)
    y = dense(m, m.input(1, 6))
    m.node("Softmax", y)
    assert len(partition_model(m.build(y)).steps) == 1


def test_inputs_and_results_of_the_first_host_step_may_be_outputs_and_operands_of_the_last():
    m = QdqModel(21)
    m.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6]))
    summed = m.node("CumSum", "x", m.const(np.int64(1)))
    logits = dense(m, m.quantise(summed, 0.1), outputs=6)
    mixed = m.node("Add", m.node("Add", m.node("Softmax", logits), "x"), summed)
    partition, ours, _ = check(m.build(mixed, "x", summed))
    assert partition.graph.inputs == (summed,) and partition.graph.outputs == (logits,)
    x = ours.outputs["x"]
    np.testing.assert_allclose(ours.outputs[summed], np.cumsum(x, axis=1), rtol=1e-6)
    assert ours.outputs[mixed].sum() == pytest.approx(1 + x.sum() + ours.outputs[summed].sum(), rel=1e-5)


def test_an_operator_that_onnxruntime_has_not_is_refused_before_anything_is_written():
    m = QdqModel(22)
    model = m.build(dense(m, m.input(1, 6)))
    (last,) = (value.name for value in model.graph.output)
    model.graph.node.append(helper.make_node("Wild", [last], ["wild"], "wild", domain="example"))
    model.opset_import.append(helper.make_opsetid("example", 1))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("wild", TensorProto.FLOAT, [1, 5]))
    with pytest.raises(
        HostStepError, match="does not accept the host's step 2 .*Wild.* change the model"
    ) as caught:
        api.compile(partition_model(model), "tiny")
    assert "\n" not in str(caught.value)


def test_without_layers_with_weights_the_core_runs_what_it_can():
    m = QdqModel(13)
    y = m.quantise(m.node("MaxPool", m.input(1, 2, 4, 4), kernel_shape=[2, 2]), 0.05)
    partition, _, _ = check(m.build(m.node("Softmax", m.node("CumSum", y, m.const(np.int64(1))))))
    assert host_of(partition) == [("CumSum", "after"), ("Softmax", "after")]


def test_a_branch_of_an_if_brings_what_it_captures():
    m = QdqModel(14)
    logits, threshold = dense(m, m.input(1, 6)), m.const(np.float32(0))
    m.inputs.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))

    def branch(op):
        value = helper.make_tensor_value_info(f"{op}_out", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, [logits, threshold], [f"{op}_out"])], op, [], [value])

    model = m.build(m.node("If", "flag", then_branch=branch("Add"), else_branch=branch("Mul")))
    partition, _, _ = check(model)
    assert host_of(partition) == [("If", "after")]
    assert partition.host_nodes[0].bytes == 5
    assert partition.graph.outputs == (logits,)


def test_recurrent_cells_run_before_the_core_and_their_work_is_counted():
    m = QdqModel(20)
    m.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 1, 4]))
    weights = [m.const(m.rng.normal(size=(1, 20, k)).astype(np.float32)) for k in (4, 5)]
    state = m.node("LSTM", "x", *weights, hidden_size=5)
    flat = m.quantise(m.node("Reshape", state, m.const(np.array([3, 5]))), 1 / 128)
    partition, _, _ = check(m.build(dense(m, flat, inputs=5)))
    (lstm,) = partition.host_nodes
    assert (lstm.op, lstm.macs, lstm.elements, lstm.bytes) == ("LSTM", 3 * 20 * (4 + 5), 15, 15)


def test_a_shape_that_only_running_tells_cannot_enter_the_core():
    m = QdqModel(15)
    m.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [6]))
    picked = m.quantise(m.node("Compress", "x", m.node("Greater", "x", m.const(np.float32(0)))), 0.1)
    y = m.node("MatMul", picked, m.weights(6, 4, axis=1))
    partition = partition_model(m.build(m.quantise(y, 0.1)))
    assert not partition.cores
    product = next(node for node in partition.host_nodes if node.op == "MatMul")
    assert re.fullmatch("the shape of 'dequantizelinear.*' is known only once the model runs", product.reason)
    assert product.macs is None


def test_an_output_whose_shape_only_running_tells_has_no_size():
    m = QdqModel(16)
    logits = dense(m, m.input(1, 6))
    model = m.build(m.node("NonZero", m.node("Relu", logits)))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    partition, _, _ = check(model)
    assert partition.host_nodes[-1].elements is None
    assert partition.outputs[0].shape is None


def test_an_image_carries_the_steps_of_the_host():
    m = QdqModel(17)
    m.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6]))
    x = m.quantise(m.node("Acosh", "x"), 0.01)
    model = m.build(m.node("Softmax", dense(m, x)))
    partition = partition_model(model)
    image = api.compile(partition, "tiny")
    back = Image.from_bytes(image.to_bytes())
    assert back == image and (back.steps[0], back.steps[2]) == (partition.steps[0], partition.steps[2])
    assert back.to_bytes() == api.compile(partition_model(model), "tiny").to_bytes()
    arrays = {"x": np.linspace(1, 3, 6, dtype=np.float32)[None]}
    expected = api.run_reference(partition, arrays)
    got = api.run(back, arrays)
    for name, value in expected.outputs.items():
        np.testing.assert_array_equal(got.outputs[name], value)
    assert set(got.host_seconds) == {1, 3}
    with pytest.raises(ValueError, match=r"the host's step 1 \(nodes? .*\) gives NaN in 'acosh1'"):
        api.run(back, {"x": np.zeros((1, 6), np.float32)})
    with pytest.raises(api.InputError, match="input 'x' must have shape"):
        api.run(back, {"x": np.zeros((1, 7), np.float32)})


def test_verify_notices_a_node_that_gives_other_values_each_time(monkeypatch):
    run, calls = Loaded.run, iter(range(9))

    def unsteady(step, feeds):
        return {name: value + next(calls) for name, value in run(step, feeds).items()}

    monkeypatch.setattr(Loaded, "run", unsteady)
    m = QdqModel(18)
    logits = dense(m, m.input(1, 6))
    result = api.verify(partition_model(m.build(m.node("Softmax", logits))), "tiny", on=("machine",))
    (difference,) = result.differences
    assert "of the host's step 2 (node" in str(difference)
    assert "everything before it agrees" in str(difference)


def test_random_inputs_of_the_host_are_in_their_documented_ranges():
    m = QdqModel(19)
    kinds = {"f": TensorProto.FLOAT, "b": TensorProto.INT8, "u": TensorProto.UINT8, "i": TensorProto.INT32}
    parts = []
    for name, kind in kinds.items():
        m.inputs.append(helper.make_tensor_value_info(name, kind, [1, 400]))
        real = m.node("Cast", name, to=TensorProto.FLOAT)
        parts.append(m.node("CumSum", real, m.const(np.int64(1))))
    x = m.quantise(m.node("Add", m.node("Sum", *parts), parts[0]), 1)
    partition = partition_model(m.build(dense(m, x, inputs=400)))
    drawn = api.random_inputs(partition, 0)
    ranges = {name: (value.min(), value.max(), value.dtype.name) for name, value in drawn.items()}
    assert ranges["b"][0] < -122 and ranges["b"][1] > 121 and ranges["b"][2] == "int8"
    assert ranges["u"][0] < 5 and ranges["u"][1] > 250 and ranges["u"][2] == "uint8"
    assert ranges["i"] == (0, 1, "int32")
    assert 0 <= ranges["f"][0] < 0.05 and 0.95 < ranges["f"][1] < 1 and ranges["f"][2] == "float32"
    again = api.random_inputs(partition, 0)
    assert all(np.array_equal(drawn[name], again[name]) for name in drawn)
