"""Recurrent cells that the core does not have: as single operators they give what ONNX Runtime gives."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from systolith.compiler.base.model import Model, TensorType
from systolith.compiler.ops import RULES
from systolith.compiler.passes.unroll_cells import MOST_NODES, alike, unroll_cells

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
FUNCTIONS = {"LSTM": 3, "GRU": 2, "RNN": 1}
INPUTS = 5
UNITS = 4


def recurrent(
    op_type,
    seed,
    *,
    steps=6,
    batch=2,
    direction="forward",
    states="",
    peepholes=False,
    bias=True,
    lengths=None,
    computed=(),
    opset=14,
    element=TensorProto.FLOAT,
    units=UNITS,
    **attributes,
):
    """A model of one recurrent node; `states` is '', 'constant' or 'input', `computed` are operands that an
    Identity makes."""
    rng = np.random.default_rng(seed)
    directions = 2 if direction == "bidirectional" else 1
    dtype = helper.tensor_dtype_to_np_dtype(element)
    gates = GATES[op_type] * units
    operands = {
        "W": rng.normal(0, 0.7, (directions, gates, INPUTS)),
        "R": rng.normal(0, 0.7, (directions, gates, units)),
    }
    if bias:
        operands["B"] = rng.normal(0, 0.5, (directions, 2 * gates))
    state = (directions, batch, units)
    inputs = [helper.make_tensor_value_info("x", element, [steps, batch, INPUTS])]
    feeds = {"x": rng.normal(0, 1, (steps, batch, INPUTS)).astype(dtype)}
    names = ["x", "W", "R", "B" if bias else "", "", "", "", ""]
    if lengths is not None:
        names[4] = "lengths"
    for index, name in ((5, "h0"), (6, "c0")) if op_type == "LSTM" else ((5, "h0"),):
        if states:
            names[index] = name
            values = rng.normal(0, 0.6, state).astype(dtype)
            if states == "constant":
                operands[name] = values
            else:
                inputs.append(helper.make_tensor_value_info(name, element, state))
                feeds[name] = values
    if peepholes:
        names[7] = "P"
        operands["P"] = rng.normal(0, 0.8, (directions, 3 * units))
    outputs = {"Y": (steps, directions, batch, units), "Y_h": state}
    if op_type == "LSTM":
        outputs["Y_c"] = state
    while not names[-1]:
        names.pop()
    arrays = [numpy_helper.from_array(value.astype(dtype), name) for name, value in operands.items()]
    if lengths is not None:
        arrays.append(numpy_helper.from_array(np.array(lengths, np.int32), "lengths"))
    nodes = []
    for name in computed:
        nodes.append(helper.make_node("Identity", [name], [f"{name}_same"], name=f"make_{name}"))
        names[names.index(name)] = f"{name}_same"
    nodes.append(
        helper.make_node(
            op_type, names, list(outputs), name="cell", hidden_size=units, direction=direction, **attributes
        )
    )
    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        [helper.make_tensor_value_info(name, element, shape) for name, shape in outputs.items()],
        arrays,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), feeds


def run(proto, feeds):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def unrolled(proto):
    """The unrolled model, checked by onnx with the types that the pass states, and its origins."""
    model, origins = unroll_cells(Model.from_proto(proto))
    result = model.to_proto()
    for name, known in model.types.items():
        if known.element and name not in model.constants and name not in model.inputs:
            result.graph.value_info.append(helper.make_tensor_value_info(name, known.element, known.shape))
    onnx.checker.check_model(result, full_check=True)
    onnx.shape_inference.infer_shapes(result, check_type=True, strict_mode=True)
    return model, result, origins


def assert_same(proto, feeds, tolerance=1e-5):
    model, result, origins = unrolled(proto)
    assert not {"LSTM", "GRU", "RNN"} & {node.op_type for node in model.nodes}
    assert {node.op_type for node in model.nodes} <= set(RULES)
    assert set(origins) == {node.name for node in model.nodes if node.op_type != "Identity"}
    assert set(origins.values()) == {"cell"}
    for got, expected in zip(run(result, feeds), run(proto, feeds), strict=True):
        assert got.shape == expected.shape
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=tolerance)
    return model


#: Attributes and operands that the core's cells do not have.
OTHERS = [
    ("GRU", {"linear_before_reset": 0}),
    ("GRU", {"linear_before_reset": 0, "clip": 0.7}),
    ("GRU", {"linear_before_reset": 1, "activations": ["HardSigmoid", "Softsign"]}),
    ("RNN", {"activations": ["Relu"]}),
    ("RNN", {"clip": 0.5}),
    ("LSTM", {"peepholes": True}),
    ("LSTM", {"peepholes": True, "input_forget": 1}),
    ("LSTM", {"peepholes": True, "clip": 0.8}),
    ("LSTM", {"clip": 0.6, "input_forget": 1}),
    ("LSTM", {"activations": ["HardSigmoid", "Elu", "Softsign"]}),
]


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("states", ["", "constant", "input"])
@pytest.mark.parametrize(("op_type", "options"), OTHERS)
def test_other_cells_become_operators_of_the_core(op_type, options, states, direction):
    options = dict(options)
    if direction == "bidirectional" and "activations" in options:
        options["activations"] = options["activations"] * 2
    for seed in range(3):
        assert_same(*recurrent(op_type, seed, states=states, direction=direction, **options))


@pytest.mark.parametrize(
    "name",
    [
        *("Affine", "ScaledTanh", "Relu", "LeakyRelu", "ThresholdedRelu", "Elu", "HardSigmoid", "Softsign"),
        "Softplus",
    ],
)
@pytest.mark.parametrize("given", [True, False])
def test_every_function_of_onnx(name, given):
    alone = name in ("Affine", "ScaledTanh", "ThresholdedRelu")
    attributes = {"activation_alpha": [0.3], "activation_beta": [0.4]} if given or alone else {}
    assert_same(*recurrent("RNN", 7, activations=[name], **attributes))


def test_parameters_go_to_the_functions_that_have_them_in_their_order():
    names = ["Sigmoid", "LeakyRelu", "Affine", "HardSigmoid", "Tanh", "ScaledTanh"]
    proto, feeds = recurrent(
        "LSTM",
        3,
        direction="bidirectional",
        activations=names,
        activation_alpha=[0.1, 0.7, 0.25, 1.3],
        activation_beta=[0.2, 0.45, 0.6],
    )
    assert_same(proto, feeds)


@pytest.mark.parametrize("name", ["Affine", "ScaledTanh", "ThresholdedRelu"])
def test_a_function_without_its_parameters_stays(name):
    proto, _ = recurrent("RNN", 0, activations=[name])
    assert unroll_cells(Model.from_proto(proto))[1] == {}


@pytest.mark.parametrize("opset", [7, 10, 11, 13, 14, 18, 22])
def test_every_opset(opset):
    assert_same(*recurrent("GRU", 1, direction="bidirectional", clip=0.9, opset=opset))
    assert_same(*recurrent("LSTM", 1, peepholes=True, states="input", opset=opset))


@pytest.mark.parametrize("options", [{"steps": 1}, {"batch": 1}, {"bias": False}, {"units": 1}])
def test_extents_of_one_and_no_bias(options):
    assert_same(*recurrent("GRU", 2, states="input", **options))
    assert_same(*recurrent("LSTM", 2, peepholes=True, direction="bidirectional", **options))


def test_a_peephole_of_one_gate():
    proto, feeds = recurrent("LSTM", 5, peepholes=True, states="constant")
    (tensor,) = [t for t in proto.graph.initializer if t.name == "P"]
    for gate in range(3):
        values = np.zeros((1, 3 * UNITS), np.float32)
        values[:, gate * UNITS : (gate + 1) * UNITS] = 1.5
        tensor.CopyFrom(numpy_helper.from_array(values, "P"))
        assert_same(proto, feeds)


def test_double():
    proto, feeds = recurrent("GRU", 2, element=TensorProto.DOUBLE)
    got = run(unrolled(proto)[1], feeds)
    # ONNX Runtime has recurrent operators in float32 alone.
    expected = ReferenceEvaluator(proto).run(None, feeds)
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.dtype == np.float64
        np.testing.assert_allclose(mine, theirs, atol=1e-12)


def test_the_input_meets_its_weights_once_for_the_whole_sequence():
    model = assert_same(*recurrent("GRU", 0, steps=6, states="input"))
    products = [node for node in model.nodes if node.op_type == "MatMul"]
    of_input = [node for node in products if "step" not in node.name]
    assert [model.shape_of(node.outputs[0])[0] for node in of_input] == [12, 12]
    assert len(products) == 2 + 6 * 2
    assert {"cell/step0/hidden", "cell/step5/hidden"} <= set(model.by_name)


def test_whole_lengths_do_not_matter_and_others_stay():
    assert_same(*recurrent("GRU", 0, lengths=[6, 6]))
    for changes in ({"lengths": [6, 4]}, {"lengths": [6, 6], "computed": ("lengths",)}):
        model = Model.from_proto(recurrent("GRU", 0, **changes)[0])
        assert unroll_cells(model) == (model, {})


@pytest.mark.parametrize("name", ["W", "R", "B", "P"])
def test_computed_weights_stay(name):
    model = Model.from_proto(recurrent("LSTM", 0, peepholes=True, computed=(name,))[0])
    assert unroll_cells(model) == (model, {})


@pytest.mark.parametrize(
    ("op_type", "options"),
    [("GRU", {"linear_before_reset": 1}), ("LSTM", {}), ("LSTM", {"clip": 9.0}), ("RNN", {})],
)
def test_cells_of_the_core_stay(op_type, options):
    model = Model.from_proto(recurrent(op_type, 0, **options)[0])
    assert unroll_cells(model) == (model, {})


def test_what_is_too_long_or_of_unknown_length_stays():
    model = Model.from_proto(recurrent("GRU", 0, steps=64)[0])
    grown = len(unroll_cells(model)[0].nodes)
    assert 64 * 8 < grown <= MOST_NODES
    model = Model.from_proto(recurrent("GRU", 0, steps=300)[0])
    assert unroll_cells(model) == (model, {})
    short = Model.from_proto(recurrent("GRU", 0)[0])
    unknown = short.with_nodes(short.nodes, types={"x": TensorType(TensorProto.FLOAT, (None, 2, INPUTS))})
    assert unroll_cells(unknown) == (unknown, {})


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize(("op_type", "options"), [("GRU", {"clip": 0.9}), ("LSTM", {"peepholes": True})])
def test_what_is_the_same_at_each_step_is_known(op_type, options, direction):
    model, _, origins = unrolled(recurrent(op_type, 0, direction=direction, states="input", **options)[0])
    groups = alike(model, origins)
    assert len({name for group in groups for name in group}) == sum(map(len, groups))
    states = [f"cell/forward/step{at}/hidden" for at in range(6)]
    if direction == "forward":
        states = [name.replace("forward/", "") for name in states]
    assert tuple(states) in groups
    for group in groups:
        assert len(group) == 6
        assert len({model.shape_of(name) for name in group}) == 1
        assert len({model.producer[name].op_type for name in group}) == 1
    in_steps = {name for node in model.nodes if "/step" in node.name for name in node.outputs}
    assert in_steps == {name for group in groups for name in group}


def test_names_that_are_taken_give_way():
    proto, feeds = recurrent("RNN", 0, activations=["Relu"])
    proto.graph.node.append(helper.make_node("Neg", ["Y_h"], ["cell/step0/hidden"], name="cell/step0/hidden"))
    proto.graph.output.append(
        helper.make_tensor_value_info("cell/step0/hidden", TensorProto.FLOAT, [1, 2, UNITS])
    )
    model, result, origins = unrolled(proto)
    assert len(model.by_name) == len(model.nodes) == len(origins) + 1
    for got, expected in zip(run(result, feeds), run(proto, feeds), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)
