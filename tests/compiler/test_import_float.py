"""Float models, quantised by calibration."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from systolith.compiler.base.errors import InputError, UnsupportedError
from systolith.compiler.partition import import_model, partition_model
from systolith.reference.conv import Conv
from systolith.reference.plan import CorePart
from systolith.spec.plan import HostStep
from tests.compiler.qdq import layer_differences


def cnn(*activations, batch=1) -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, MaxPool, depthwise Conv, other activations, a residual Add,
    GlobalAveragePool, Gemm."""
    rng = np.random.default_rng(3)
    initializers = []

    def const(*shape, positive=False):
        name = f"c{len(initializers)}"
        array = rng.uniform(0.5, 1.5, shape) if positive else rng.normal(0, 0.4, shape)
        initializers.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    nodes = [
        helper.make_node("Conv", ["x", const(8, 3, 3, 3)], ["a"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node(
            "BatchNormalization",
            ["a", const(8, positive=True), const(8), const(8), const(8, positive=True)],
            ["b"],
            "bn",
        ),
        helper.make_node("Relu", ["b"], ["c"], "relu"),
        helper.make_node("MaxPool", ["c"], ["d"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node(
            "Conv", ["d", const(8, 1, 3, 3), const(8)], ["e"], "depthwise", pads=[1, 1, 1, 1], group=8
        ),
    ]
    last = "e"
    for op in activations:
        nodes.append(helper.make_node(op, [last], [f"out_{op}"], op.lower()))
        last = f"out_{op}"
    nodes += [
        helper.make_node("Add", [last, "d"], ["f"], "residual"),
        helper.make_node("GlobalAveragePool", ["f"], ["g"], "mean"),
        helper.make_node("Flatten", ["g"], ["h"], "flatten"),
        helper.make_node("Gemm", ["h", const(8, 5), const(5)], ["y"], "dense"),
    ]
    graph = helper.make_graph(
        nodes,
        "cnn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def samples(count=24):
    return np.random.default_rng(5).normal(size=(count, 3, 12, 12)).astype(np.float32)


@pytest.mark.parametrize(
    "activations",
    [(), ("Sigmoid",), ("LeakyRelu", "HardSwish"), ("Elu", "Softplus"), ("Gelu",), ("Mish", "Tanh")],
    ids=str,
)
def test_float_models_are_quantised_and_stay_close(activations):
    model = cnn(*activations)
    plan = partition_model(model, {"x": samples()})
    qdq, graph = onnx.load_model_from_string(plan.core.core), plan.graph
    assert (graph.inputs, graph.outputs) == (("x",), ("y",))
    for layer, difference in layer_differences(qdq, graph, 1).items():
        assert np.abs(difference).max() <= 1, layer
        assert (difference == 0).mean() >= 0.97, layer  # Layers of five elements: one tie is much.
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x, y = graph.tensors["x"], graph.tensors["y"]
    errors, reals = [], []
    for sample in samples(8):
        real = session.run(None, {"x": sample[None]})[0]
        codes = np.clip(np.rint(sample[None] / x.scale) + x.zero_point, -128, 127).astype(np.int8)
        errors.append((graph.run({"x": codes})["y"].astype(float) - y.zero_point) * y.scale - real)
        reals.append(real)
    assert np.std(errors) < 0.1 * np.std(reals)


def test_batch_normalization_and_relu_disappear_into_the_convolution():
    graph = import_model(cnn(), {"x": samples()})
    first = graph.nodes[0]
    assert isinstance(first.op, Conv) and first.op_type == "Conv"
    assert not {"BatchNormalization", "Relu"} & {node.op_type for node in graph.nodes}
    # After Relu every code counts: the zero point is the least of them.
    assert graph.tensors[first.output].zero_point == -128


def test_a_symbolic_batch_is_calibrated_with_batch_one():
    graph = import_model(cnn(batch="n"), {"x": samples(4)})
    assert graph.tensors["x"].shape == (1, 3, 12, 12)


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        (None, "no calibration data"),
        ({}, "'x': there is no calibration data"),
        ({"x": samples(), "z": samples()}, "'z': calibration data for an input that the model does not have"),
        ({"x": samples()[:, :2]}, "'x': calibration data has shape"),
        ({"x": samples() * np.float32(np.nan)}, "'x': calibration data holds NaN"),
        ({"x": np.full((4, 3, 12, 12), np.inf, np.float32)}, "'x': calibration data holds NaN"),
        ({"x": samples()[:0]}, "'x': calibration data has shape"),
    ],
    ids=["none", "empty", "extra", "shape", "nan", "infinite", "no_samples"],
)
def test_bad_calibration_is_refused_by_name(calibration, words):
    with pytest.raises(InputError, match=words):
        import_model(cnn(), calibration)


def test_an_operator_that_the_core_has_not_runs_on_the_host_between_two_steps_of_the_core():
    with pytest.raises(UnsupportedError, match="node 'det'.*Det"):
        import_model(with_det(cnn()), {"x": samples()})
    plan = partition_model(with_det(cnn()), {"x": samples()})
    (det,) = plan.host_nodes
    assert (det.name, det.reason) == ("det", "operator Det is not supported")
    assert [type(step) for step in plan.steps] == [CorePart, HostStep, CorePart]


def with_det(model):
    """The model with a factor behind its mean: the determinant of a square that is cut from a tensor."""
    graph = model.graph
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64), name)
        for name, value in (("begin", [0, 0, 0, 0]), ("end", [1, 1, 2, 2]))
    )
    at = next(index for index, node in enumerate(graph.node) if node.name == "dense")
    graph.node[at].input[0] = "scaled"
    for node in reversed(
        (
            helper.make_node("Slice", ["d", "begin", "end"], ["square"], "square"),
            helper.make_node("Det", ["square"], ["factor"], "det"),
            helper.make_node("Mul", ["h", "factor"], ["scaled"], "scale"),
        )
    ):
        graph.node.insert(at, node)
    return model


def with_computed_constants():
    """Gemm, whose bias ConstantOfShape makes from an initializer, and a Reshape to the shape of a tensor."""
    rng = np.random.default_rng(8)
    fill = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.25])
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["bias"], "fill", value=fill),
        helper.make_node("Gemm", ["x", "w", "bias"], ["a"], "dense"),
        helper.make_node("Shape", ["a"], ["as_before"], "shape"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Reshape", ["b", "as_before"], ["y"], "reshape"),
    ]
    initializers = [
        numpy_helper.from_array(np.array([4], np.int64), "size"),
        numpy_helper.from_array(rng.normal(0, 0.4, (6, 4)).astype(np.float32), "w"),
    ]
    graph = helper.make_graph(
        nodes,
        "computed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_operators_without_a_rule_are_supported_where_they_compute_constants():
    model = with_computed_constants()
    calibration = np.random.default_rng(9).normal(size=(16, 6)).astype(np.float32)
    graph = import_model(model, {"x": calibration})
    assert {node.op_type for node in graph.nodes} <= {"Gemm", "Reshape"}
    x, y = graph.tensors["x"], graph.tensors["y"]
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for sample in calibration[:4]:
        codes = np.clip(np.rint(sample[None] / x.scale) + x.zero_point, -128, 127).astype(np.int8)
        ours = (graph.run({"x": codes})["y"].astype(float) - y.zero_point) * y.scale
        assert np.abs(ours - session.run(None, {"x": sample[None]})[0]).max() < 0.06


def test_a_batch_normalization_on_its_own_becomes_a_depthwise_convolution():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=3), rng.normal(size=3), rng.normal(size=3), rng.uniform(0.5, 2, 3)]
    initializers = [
        numpy_helper.from_array(array.astype(np.float32), f"p{index}") for index, array in enumerate(arrays)
    ]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 12, 12]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("BatchNormalization", ["x", "p0", "p1", "p2", "p3"], ["y"], "bn")],
        "g",
        value[:1],
        value[1:],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    qgraph = import_model(model, {"x": samples()})
    (node,) = qgraph.nodes
    assert isinstance(node.op, Conv) and node.op.group == 3
    x, y, data = qgraph.tensors["x"], qgraph.tensors["y"], samples(1)
    codes = np.clip(np.rint(data / x.scale) + x.zero_point, -128, 127).astype(np.int8)
    ours = (qgraph.run({"x": codes})["y"].astype(float) - y.zero_point) * y.scale
    factor = np.abs(arrays[0] / np.sqrt(arrays[3])).max()
    real = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": data})[0]
    assert np.abs(ours - real).max() < y.scale + 0.6 * x.scale * factor


def test_a_percentile_lets_outliers_saturate():
    """One value a hundred times the others: covered, it takes all but two steps from them."""
    model = cnn()
    data = samples()
    data[3, 0, 0, 0] = 100 * np.abs(data).max()
    scales = {
        percentile: partition_model(model, {"x": data}, percentile=percentile).graph.tensors["x"].scale
        for percentile in (100.0, 99.9)
    }
    assert scales[99.9] < scales[100.0] / 20
