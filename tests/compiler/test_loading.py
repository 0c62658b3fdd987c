"""Loading: what files leave open, what they say in old or other words, and what is known before they run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from systolith.compiler.base.errors import CompileError, InputError
from systolith.compiler.loading import Given, Loaded, load

Arrays = Mapping[str, np.ndarray]
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def info(name: str, shape: Sequence[int | str | None] | None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Arrays | None = None,
    opset: int = 18,
    ir: int = 10,
) -> onnx.ModelProto:
    held = [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def results(model: onnx.ModelProto, feeds: Arrays) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    read = {value.name for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    given = {name: array for name, array in feeds.items() if name in read}
    return dict(zip(names, session.run(None, given), strict=True))


def same(model: onnx.ModelProto, feeds: Arrays, loaded: Loaded, tolerance: float = 1e-6) -> None:
    """ONNX Runtime gives for the loaded model what it gives for the file."""
    expected, got = results(model, feeds), results(loaded.model.to_proto(), feeds)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        assert (got[name].dtype, got[name].shape) == (value.dtype, value.shape), name
        np.testing.assert_allclose(got[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


def kinds(loaded: Loaded) -> list[str]:
    return [node.op_type for node in loaded.model.nodes]


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Shapes.


def open_net() -> onnx.ModelProto:
    return build([helper.make_node("Relu", ["x"], ["y"])], [info("x", ["n", 3, "h", "w"])], [info("y", None)])


@pytest.mark.parametrize(
    ("given", "samples", "shape"),
    [
        (Given(shapes={"x": (2, 3, 4, 5)}), None, (2, 3, 4, 5)),
        (Given(shapes={"x": (None, None, 4, 5)}), None, (1, 3, 4, 5)),
        (Given(), (6, 1, 3, 7, 8), (1, 3, 7, 8)),
        (Given(), (6, 2, 3, 7, 8), (2, 3, 7, 8)),
        (Given(), (6, 3, 7, 8), (1, 3, 7, 8)),
        (Given(batch=4), (8, 3, 7, 8), (4, 3, 7, 8)),
        (Given(batch=4, shapes={"x": (2, 3, 4, 5)}), None, (2, 3, 4, 5)),
    ],
)
def test_open_extents_are_taken_from_the_caller_then_from_the_samples(
    given: Given, samples: tuple[int, ...] | None, shape: tuple[int, ...]
) -> None:
    data = None if samples is None else {"x": np.zeros(samples, np.float32)}
    loaded = load(open_net(), given, data)
    assert loaded.model.shape_of("x") == shape and loaded.model.shape_of("y") == shape
    assert len(loaded.notes) == 3 and all("'x' is " in note for note in loaded.notes)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Given(), r"'x': axis 2 of the input is dynamic \(h\); give its extent with --shape"),
        (Given(shapes={"z": (1,)}), "'z': the model has no input of this name.*its inputs are x"),
        (Given(shapes={"x": (1, 3)}), "with 2 axes, and the input has 4"),
        (Given(shapes={"x": (1, 5, 4, 4)}), "axis 1 is 3 in the model, and 5 was given"),
        (Given(shapes={"x": (0, 3, 4, 4)}), "an extent of 0 was given; give 1 or more"),
    ],
)
def test_what_cannot_be_a_shape_is_refused(given: Given, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        load(open_net(), given)
    assert "\n" not in str(caught.value)


def two(first: str, second: str) -> onnx.ModelProto:
    nodes = [helper.make_node("Add", ["a", "b"], ["y"])]
    return build(nodes, [info("a", [1, first]), info("b", [1, second])], [info("y", None)])


def test_a_symbol_has_one_extent_in_all_inputs_and_a_question_mark_is_no_symbol() -> None:
    loaded = load(two("k", "k"), Given(shapes={"a": (1, 5)}))
    assert loaded.model.shape_of("b") == (1, 5) and "as 'k' of 'a'" in loaded.notes[-1]
    with pytest.raises(InputError, match=r"'b': axis 1 \('k'\) is 1, as given, but 'k' is 5 in 'a'"):
        load(two("k", "k"), Given(shapes={"a": (1, 5), "b": (1, 1)}))
    loaded = load(two("?", "?"), Given(shapes={"a": (1, 5), "b": (1, 1)}))
    assert loaded.model.shape_of("y") == (1, 5)


def test_an_open_time_axis_is_not_taken_for_a_batch() -> None:
    weights = {"w": drawn(1, 8, 3), "r": drawn(1, 8, 2)}
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=2)
    model = build([node], [info("x", ["t", 1, 3])], [info("y", None)], weights)
    assert load(model, None, {"x": drawn(5, 9, 1, 3)}).model.shape_of("x") == (9, 1, 3)
    with pytest.raises(InputError, match="'x': its first axis is time, and is open"):
        load(model, None, {"x": drawn(9, 1, 3)})


def test_a_constant_takes_the_place_of_an_input() -> None:
    nodes = [helper.make_node("Mul", ["x", "gain"], ["y"])]
    model = build(nodes, [info("x", [2, 3]), info("gain", [1])], [info("y", None)])
    loaded = load(model, Given(constants={"gain": 2.5}))
    assert loaded.model.inputs == ("x",) and loaded.notes == ("input 'gain' is constant: 2.5",)
    x = drawn(2, 3)
    np.testing.assert_allclose(results(loaded.model.to_proto(), {"x": x})["y"], 2.5 * x)
    for constants, words in (
        ({"z": 1}, "'z': the model has no input of this name to fix"),
        ({"x": [1.0, 2.0]}, "its constant has shape"),
        ({"gain": "loud"}, "its constant has type"),
    ):
        with pytest.raises(InputError, match=words):
            load(model, Given(constants=constants))


# Old files, and other floats.


@pytest.mark.parametrize("ir", [3, 10])
def test_constants_of_old_files_are_no_inputs(ir: int) -> None:
    inputs = [info("x", [1, 4]), info("w", [4, 2])]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = build(nodes, inputs, [info("y", [1, 2])], {"w": drawn(4, 2)}, opset=9, ir=ir)
    loaded = load(model)
    assert loaded.model.inputs == ("x",)
    same(model, {"x": drawn(1, 4, seed=1)}, loaded)


def test_an_operator_of_opset_6_keeps_its_meaning() -> None:
    """The channel axis of `b` is named by attributes, which opset 7 dropped."""
    node = helper.make_node("Add", ["x", "b"], ["y"], broadcast=1, axis=1)
    shape = [2, 3, 4, 5]
    bias = drawn(3)
    loaded = load(build([node], [info("x", shape)], [info("y", shape)], {"b": bias}, opset=6))
    x = drawn(*shape, seed=2)
    got = results(loaded.model.to_proto(), {"x": x})["y"]
    np.testing.assert_allclose(got, x + bias[:, None, None], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_float32_inside_and_themselves_at_the_ends(dtype: type) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = build(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        [info("x", [2, 4], kind)],
        [info("y", [2, 3], kind)],
        {"w": drawn(4, 3).astype(dtype)},
    )
    loaded = load(model)
    assert kinds(loaded) == ["Cast", "MatMul", "Relu", "Cast"]
    assert loaded.model.constants["w"].dtype == np.float32
    same(model, {"x": drawn(2, 4, seed=1).astype(dtype)}, loaded, 2e-3 if dtype is np.float16 else 1e-5)


# What is known before the model runs.


def test_shape_chains_and_what_does_nothing_vanish() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axes"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["target"], axis=0),
        helper.make_node("Identity", ["x"], ["i"]),
        helper.make_node("Dropout", ["i"], ["d"]),
        helper.make_node("Cast", ["d"], ["c"], to=FLOAT),
        helper.make_node("Slice", ["c", "from", "to"], ["whole"]),
        helper.make_node("Reshape", ["whole", "target"], ["y"]),
    ]
    constants = {
        "zero": np.int64(0),
        "axes": np.array([0]),
        "rest": np.array([12]),
        "from": np.array([0, 0, 0]),
        "to": np.array([2, 3, 4]),
    }
    model = build(nodes, [info("x", [2, 3, 4])], [info("y", None)], constants)
    loaded = load(model)
    assert kinds(loaded) == ["Reshape"] and loaded.model.nodes[0].inputs[0] == "x"
    same(model, {"x": drawn(2, 3, 4)}, loaded)


@pytest.mark.parametrize(
    ("op_type", "constants", "attributes"),
    [
        (
            "Slice",
            {"a": np.array([3, 2]), "b": np.array([-9, -9]), "c": np.array([0, 1]), "d": np.array([-1, -1])},
            {},
        ),
        ("Transpose", {}, {"perm": [1, 0]}),
        ("Pad", {"p": np.array([1, 0, -1, 0])}, {}),
    ],
)
def test_what_keeps_a_shape_and_moves_elements_stays(
    op_type: str, constants: Arrays, attributes: dict[str, Any]
) -> None:
    node = helper.make_node(op_type, ["x", *constants], ["h"], **attributes)
    last = helper.make_node("Relu", ["h"], ["y"])
    shape = [4, 4] if op_type == "Transpose" else [4, 3]
    model = build([node, last], [info("x", shape)], [info("y", None)], constants)
    loaded = load(model)
    assert op_type in kinds(loaded)
    same(model, {"x": drawn(*shape)}, loaded)


def test_outputs_keep_their_names_whatever_vanishes() -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["y"]),
        helper.make_node("Identity", ["k"], ["fixed"]),
        helper.make_node("Relu", ["x"], ["z"]),
    ]
    outputs = [info("y", [2]), info("fixed", [3]), info("z", [2])]
    model = build(nodes, [info("x", [2]), info("unused", [5])], outputs, {"k": drawn(3)})
    loaded = load(model)
    assert loaded.model.outputs == ("y", "fixed", "z") and loaded.model.inputs == ("x", "unused")
    same(model, {"x": drawn(2, seed=1), "unused": drawn(5)}, loaded)


def branch(op_type: str, *operands: str) -> onnx.GraphProto:
    nodes = [helper.make_node(op_type, list(operands), ["inner"]), helper.make_node("Neg", ["inner"], ["r"])]
    return helper.make_graph(nodes, op_type, [], [info("r", None)])


@pytest.mark.parametrize("taken", [True, False])
def test_an_if_on_a_constant_is_the_branch_that_it_takes(taken: bool) -> None:
    """Both branches use the same names inside, and read tensors from outside."""
    nodes = [
        helper.make_node("Relu", ["x"], ["inner_outside"]),
        helper.make_node(
            "If",
            ["c"],
            ["a"],
            then_branch=branch("Add", "x", "inner_outside"),
            else_branch=branch("Mul", "x", "x"),
        ),
        helper.make_node(
            "If", ["c"], ["b"], then_branch=branch("Mul", "a", "x"), else_branch=branch("Add", "a", "x")
        ),
        helper.make_node("Sub", ["a", "b"], ["y"]),
    ]
    model = build(nodes, [info("x", [2, 3])], [info("y", None)], {"c": np.array(taken)})
    loaded = load(model)
    assert "If" not in kinds(loaded)
    assert len({node.name for node in loaded.model.nodes}) == len(loaded.model.nodes)
    same(model, {"x": drawn(2, 3)}, loaded)


def test_an_if_on_an_input_stays_unless_the_input_is_fixed() -> None:
    nodes = [
        helper.make_node("Equal", ["rate", "k"], ["c"]),
        helper.make_node(
            "If", ["c"], ["y"], then_branch=branch("Add", "x", "x"), else_branch=branch("Mul", "x", "x")
        ),
    ]
    inputs = [info("x", [2, 3]), info("rate", [], INT64)]
    model = build(nodes, inputs, [info("y", None)], {"k": np.int64(16000)})
    assert "If" in kinds(load(model))
    loaded = load(model, Given(constants={"rate": 16000}))
    assert kinds(loaded) == ["Add", "Neg", "Identity"] or kinds(loaded) == ["Add", "Neg"]
    x = drawn(2, 3)
    expected = results(model, {"x": x, "rate": np.array(16000)})["y"]
    np.testing.assert_allclose(results(loaded.model.to_proto(), {"x": x})["y"], expected)


def loop(condition: str = "go_on", opset: int = 18, trips: int = 3) -> onnx.ModelProto:
    """state = state * w + x[i]; also gives each state squared. `condition` is what the body hands on."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["same"]),
            helper.make_node("Gather", ["x", "i"], ["row"]),
            helper.make_node("Mul", ["state", "w"], ["scaled"]),
            helper.make_node("Add", ["scaled", "row"], ["next"]),
            helper.make_node("Mul", ["next", "next"], ["square"]),
            helper.make_node("Less", ["i", "limit"], ["less"]),
        ],
        "body",
        [info("i", [], INT64), info("go_on", [], BOOL), info("state", [4])],
        [
            info("same" if condition == "go_on" else condition, [], BOOL),
            info("next", [4]),
            info("square", [4]),
        ],
        [numpy_helper.from_array(np.float32(0.5), "w"), numpy_helper.from_array(np.int64(1), "limit")],
    )
    nodes = [
        helper.make_node("Loop", ["trips", "", "first"], ["last", "squares"], "turns", body=body),
        helper.make_node("Relu", ["last"], ["y"]),
    ]
    outputs = [info("y", None), info("squares", None)]
    constants = {"trips": np.int64(trips), "first": drawn(4, seed=7)}
    return build(nodes, [info("x", [3, 4])], outputs, constants, opset)


@pytest.mark.parametrize("opset", [11, 18])
def test_a_loop_with_a_constant_count_is_its_turns(opset: int) -> None:
    model = loop(opset=opset)
    loaded = load(model)
    assert "Loop" not in kinds(loaded)
    assert loaded.model.shape_of("squares") == (3, 4)
    assert len({node.name for node in loaded.model.nodes}) == len(loaded.model.nodes)
    same(model, {"x": drawn(3, 4)}, loaded)


def test_a_loop_that_may_end_early_or_has_no_turn_stays() -> None:
    model = loop(condition="less")
    loaded = load(model)
    assert "Loop" in kinds(loaded)
    same(model, {"x": drawn(3, 4)}, loaded)
    assert "Loop" in kinds(load(loop(trips=0)))


def test_functions_of_the_file_are_inlined() -> None:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    twice = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], opsets[:1]
    )
    graph = helper.make_graph(
        [helper.make_node("Twice", ["x"], ["h"], domain="own"), helper.make_node("Relu", ["h"], ["y"])],
        "g",
        [info("x", [3])],
        [info("y", [3])],
    )
    model = helper.make_model(graph, opset_imports=opsets, functions=[twice], ir_version=10)
    loaded = load(model)
    assert kinds(loaded) == ["Add", "Relu"]
    same(model, {"x": drawn(3)}, loaded)


def calling(*bodies: str) -> onnx.ModelProto:
    """Function F0 calls what `bodies` say of each, as "F1 F1"; the model calls F0."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    functions = []
    for at, body in enumerate(bodies):
        nodes, last = [], "a"
        for step, name in enumerate(body.split()):
            domain = "own" if name.startswith("F") else ""
            nodes.append(helper.make_node(name, [last], [f"t{step}"], domain=domain))
            last = f"t{step}"
        functions.append(helper.make_function("own", f"F{at}", ["a"], [last], nodes, opsets))
    graph = helper.make_graph(
        [helper.make_node("F0", ["x"], ["y"], domain="own")], "g", [info("x", [3])], [info("y", [3])]
    )
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)


def test_functions_that_never_end_or_grow_without_bound_are_refused() -> None:
    assert kinds(load(calling("F1 Relu", "Neg Neg"))) == ["Neg", "Neg", "Relu"]
    with pytest.raises(CompileError, match="'F0': this function calls itself"):
        load(calling("F1", "Relu F0"))
    doubling = [f"F{at + 1} F{at + 1}" for at in range(30)]
    with pytest.raises(CompileError, match="more than 200,000 nodes"):
        load(calling(*doubling, "Relu"))


def test_draws_are_not_constants() -> None:
    nodes = [
        helper.make_node("RandomNormal", [], ["noise"], shape=[2, 3]),
        helper.make_node("Add", ["x", "noise"], ["y"]),
    ]
    loaded = load(build(nodes, [info("x", [2, 3])], [info("y", None)]))
    assert kinds(loaded) == ["RandomNormal", "Add"]


def test_a_model_whose_weights_alone_are_quantised_is_in_float() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    constants = {"q": np.ones((4, 2), np.int8), "s": np.float32(0.1), "z": np.int8(0)}
    model = build(nodes, [info("x", [1, 4])], [info("y", None)], constants)
    assert not load(model).quantised
    nodes.insert(0, helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]))
    nodes.insert(1, helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]))
    nodes[-1].input[0] = "xd"
    assert load(build(nodes, [info("x", [1, 4])], [info("y", None)], constants)).quantised


def test_a_file_that_is_no_model_is_refused_in_one_sentence() -> None:
    model = build([helper.make_node("Add", ["x", "nothing"], ["y"])], [info("x", [1])], [info("y", [1])])
    with pytest.raises(CompileError, match="nothing") as caught:
        load(model)
    assert "\n" not in str(caught.value)
