"""Models that contradict themselves, ONNX or ONNX Runtime: one sentence each, which names the culprit."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from systolith.compiler.base.errors import CompileError
from systolith.compiler.base.limits import MAX_ELEMENTS, MAX_TOTAL
from systolith.compiler.checks.shapes import known_shape, typed_values
from systolith.compiler.driver import compile_levels
from systolith.compiler.loading import load
from systolith.compiler.ops.lookup import evaluate
from systolith.compiler.partition import partition_model
from systolith.spec.arch import load_arch
from tests.compiler.qdq import QdqModel
from tests.fuzz.onnx_seeds import seeds


def net() -> onnx.ModelProto:
    """A quantised Conv, Relu and Gemm."""
    m = QdqModel(0)
    y = m.quantise(m.node("Conv", m.input(1, 2, 5, 5), m.weights(3, 2, 3, 3), pads=[1, 1, 1, 1]), 0.3)
    flat = m.node("Reshape", m.quantise(m.node("Relu", y), 0.2), m.const(np.array([1, -1])))
    return m.build(m.quantise(m.node("Gemm", flat, m.weights(4, 75), transB=1), 0.5))


def node(model: onnx.ModelProto, kind: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == kind)


def constant(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def shape_of_two_axes(model: onnx.ModelProto) -> None:
    replaced(constant(model, node(model, "Reshape").input[1]), np.array([[1], [-1]]))


def weights(model: onnx.ModelProto, kind: str) -> onnx.TensorProto:
    """The int8 weights of a layer."""
    made = {name: node for node in model.graph.node for name in node.output}
    return constant(model, made[node(model, kind).input[1]].input[0])


def replaced(tensor: onnx.TensorProto, array: np.ndarray | np.generic) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(array), tensor.name))


def attribute(model: onnx.ModelProto, kind: str, name: str, value: object) -> None:
    found = node(model, kind)
    kept = [entry for entry in found.attribute if entry.name != name]
    del found.attribute[:]
    found.attribute.extend([*kept, helper.make_attribute(name, value)])


def extent(value: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = value

    return change


def set_attribute(kind: str, name: str, value: object) -> Callable[[onnx.ModelProto], None]:
    return lambda model: attribute(model, kind, name, value)


def declared(kind: int, shape: list[int] | None) -> Callable[[onnx.ModelProto], None]:
    """The output, declared anew."""

    def change(model: onnx.ModelProto) -> None:
        value = model.graph.output[0]
        value.CopyFrom(helper.make_tensor_value_info(value.name, kind, shape))

    return change


def zero_point(array: np.ndarray | np.generic) -> Callable[[onnx.ModelProto], None]:
    """Another zero point for the input."""
    return lambda model: replaced(constant(model, node(model, "QuantizeLinear").input[2]), array)


def short_constant(model: onnx.ModelProto) -> None:
    tensor = weights(model, "Conv")
    tensor.raw_data = tensor.raw_data[:-1]


def few_numbers(model: onnx.ModelProto) -> None:
    tensor = constant(model, node(model, "QuantizeLinear").input[1])
    tensor.CopyFrom(TensorProto(name=tensor.name, data_type=TensorProto.FLOAT, dims=[2], float_data=[1.0]))


def rank_one(model: onnx.ModelProto) -> None:
    replaced(weights(model, "Conv"), np.ones(3, np.int8))


def strange_type(model: onnx.ModelProto) -> None:
    weights(model, "Conv").data_type = 77


def complex_weights(model: onnx.ModelProto) -> None:
    replaced(weights(model, "Conv"), np.ones((3, 2, 3, 3), np.complex64))


def negative_extent(model: onnx.ModelProto) -> None:
    weights(model, "Conv").dims[0] = -3


def made_twice(model: onnx.ModelProto) -> None:
    model.graph.node[4].output[0] = model.graph.node[0].output[0]


def cycle(model: onnx.ModelProto) -> None:
    node(model, "Conv").input[0] = model.graph.node[-1].output[0]


def nobody_gives_it(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "nothing"


def two_opsets(model: onnx.ModelProto) -> None:
    model.opset_import.add(domain="", version=11)


def opset(version: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = version

    return change


def sparse(model: onnx.ModelProto) -> None:
    entry = model.graph.sparse_initializer.add()
    entry.values.name = "thin"


def external_without_file(model: onnx.ModelProto) -> None:
    weights(model, "Conv").data_location = TensorProto.EXTERNAL


CASES = {
    # What is done: the words that the sentence has, the name of the node or tensor among them.
    "extent of 2^31": (extent(1 << 31), ["x1", str(1 << 31)]),
    "extents that are too many together": (extent(MAX_ELEMENTS // 2), ["x1", "elements"]),
    "shape of the output": (declared(TensorProto.FLOAT, [1, 5]), ["[1, 5]", "[1, 4]"]),
    "rank of the output": (declared(TensorProto.FLOAT, [4]), ["[4]", "[1, 4]"]),
    "output in complex64": (declared(TensorProto.COMPLEX64, None), ["COMPLEX64", "dequantizelinear"]),
    "output in float8": (declared(TensorProto.FLOAT8E4M3FN, None), ["FLOAT8E4M3FN", "FLOAT"]),
    "output in int8": (declared(TensorProto.INT8, None), ["INT8", "FLOAT"]),
    "type without a name": (declared(99, None), ["number 99"]),
    "short constant": (short_constant, ["53 bytes", "takes 54"]),
    "few numbers": (few_numbers, ["1 numbers", "takes 2"]),
    "weights of rank 1": (rank_one, ["node_"]),
    "constant of no type": (strange_type, ["number 77"]),
    "constant in complex64": (complex_weights, ["COMPLEX64"]),
    "negative extent": (negative_extent, ["[-3, 2, 3, 3]"]),
    "group 0": (set_attribute("Conv", "group", 0), ["node_conv", "'group' holds 0"]),
    "group -1": (set_attribute("Conv", "group", -1), ["node_conv", "'group' holds -1"]),
    "group 7": (set_attribute("Conv", "group", 7), ["node_conv", "group 7"]),
    "shape of two axes": (shape_of_two_axes, ["node_reshape", "[2, 1]"]),
    "stride 0": (set_attribute("Conv", "strides", [0, 1]), ["node_conv", "'strides' holds 0"]),
    "dilation -1": (set_attribute("Conv", "dilations", [1, -1]), ["node_conv", "'dilations' holds -1"]),
    "kernel that is not the weights'": (
        set_attribute("Conv", "kernel_shape", [5, 5]),
        ["node_conv", "[5, 5]", "[3, 3]"],
    ),
    "pads of 2^31": (set_attribute("Conv", "pads", [1 << 31] * 4), ["node_conv", "'pads' holds"]),
    "pads of 2^26": (set_attribute("Conv", "pads", [1 << 26] * 4), ["elements"]),
    "three pads": (set_attribute("Conv", "pads", [1, 1, 1]), ["node_conv"]),
    "pads of another type": (set_attribute("Conv", "pads", "wide"), ["node_conv", "pads"]),
    "attribute that Relu does not have": (set_attribute("Relu", "alpha", 1.0), ["node_relu", "alpha"]),
    "zero points that do not broadcast": (zero_point(np.zeros(3, np.int8)), ["node_quantizelinear", "[3]"]),
    "zero point of int32": (zero_point(np.int32(0)), ["node_quantizelinear", "zero_point", "int32"]),
    "zero point of float": (zero_point(np.float32(0)), ["node_quantizelinear", "zero_point", "float"]),
    "zero point of bool": (zero_point(np.bool_(False)), ["node_quantizelinear", "zero_point", "bool"]),
    "name given twice": (made_twice, ["quantizelinear"]),
    "cycle": (cycle, ["node_conv"]),
    "output that nobody gives": (nobody_gives_it, ["'nothing'"]),
    "two opsets": (two_opsets, ["opset 21", "opset 11"]),
    "opset 999": (opset(999), ["999"]),
    "opset -1": (opset(-1), ["opset"]),
    "sparse constant": (sparse, ["'thin'", "sparse"]),
    "external data of a model without a folder": (external_without_file, ["external data"]),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_by_name(case: str) -> None:
    change, words = CASES[case]
    model = net()
    change(model)
    with pytest.raises(CompileError) as caught:
        partition_model(model)
    text = str(caught.value)
    assert "\n" not in text and all(word in text for word in words), text


@pytest.mark.parametrize("value", [[1, 0, 0, 1], "one"], ids=["list", "text"])
def test_attributes_of_microsoft_have_the_type_of_onnx(value: object) -> None:
    model = onnx.ModelProto.FromString(next(seed.model for seed in seeds() if seed.name == "qlinear"))
    attribute(model, "QGemm", "beta", value)
    with pytest.raises(CompileError, match="'gemm'.*'beta' of QGemm must be of type FLOAT"):
        partition_model(model)


def test_tensors_that_are_too_many_together_are_refused() -> None:
    width = 1 << 24
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [width])
    names = ["x", *(f"y{index}" for index in range(MAX_TOTAL // width + 1))]
    nodes = [helper.make_node("Relu", [a], [b]) for a, b in zip(names, names[1:], strict=False)]
    y = helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, [width])
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), ir_version=10)
    with pytest.raises(CompileError, match="together"):
        load(model)


def test_a_program_that_gets_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, arch = partition_model(net()).graph, load_arch("array8")
    length = len(compile_levels(graph, arch).part.lowering.instrs)
    monkeypatch.setattr("systolith.compiler.lower.context.MAX_INSTRUCTIONS", length)
    compile_levels(graph, arch)
    monkeypatch.setattr("systolith.compiler.lower.context.MAX_INSTRUCTIONS", length - 1)
    with pytest.raises(CompileError, match="more than .* instructions"):
        compile_levels(graph, arch)


@pytest.mark.parametrize("place", ["node", "operator", "output", "input", "dimension", "metadata"])
def test_names_that_are_no_utf8(place: str, tmp_path: Path) -> None:
    model, mark = net(), "NOT_UTF8"
    if place == "node":
        model.graph.node[1].name = mark
    elif place == "operator":
        model.graph.node[1].op_type = mark
    elif place == "output":
        model.graph.node[-1].output[0] = model.graph.output[0].name = mark
    elif place == "input":
        model.graph.input[0].name = model.graph.node[0].input[0] = mark
    elif place == "dimension":
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = mark
    else:
        model.metadata_props.add(key=mark, value="x")
    data = model.SerializeToString()
    (tmp_path / "m.onnx").write_bytes(data.replace(mark.encode(), b"\xff" * len(mark)))
    with pytest.raises(CompileError, match="UTF-8"):
        load(tmp_path / "m.onnx")


def test_an_output_listed_twice_is_listed_once() -> None:
    """ONNX Runtime runs such a model; results go by name."""
    model = net()
    model.graph.output.append(model.graph.output[0])
    assert partition_model(model).graph.outputs == partition_model(net()).graph.outputs


def test_wrong_shapes_declared_inside_are_hints() -> None:
    """ONNX Runtime overrules them, and so do we."""
    model = net()
    for value in model.graph.value_info:
        value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, [7, 7]))
    given, right = (partition_model(each).graph for each in (model, net()))
    assert {name: tensor.shape for name, tensor in given.tensors.items()} == {
        name: tensor.shape for name, tensor in right.tensors.items()
    }


def test_what_onnx_cannot_infer_is_taken_from_the_model() -> None:
    """Behind an operator that onnx does not know, the declaration is all there is."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.INT32, [1, 4]) for name in "xy")
    nodes = [
        helper.make_node("Unheard", ["x"], ["t"], domain="com.microsoft"),
        helper.make_node("Abs", ["t"], ["y"]),
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=opsets, ir_version=9)
    value = typed_values(model)["y"]
    assert value.type.tensor_type.elem_type == TensorProto.INT32 and known_shape(value) == (1, 4)


@pytest.mark.parametrize("kind", [seed.name for seed in seeds()])
def test_the_models_that_the_fuzzer_damages_are_accepted(kind: str) -> None:
    (seed,) = (seed for seed in seeds() if seed.name == kind)
    load(onnx.ModelProto.FromString(seed.model))


# Other files.
OTHERS = {
    "nothing": (b"", "empty"),
    "tflite": (b"\x1c\0\0\0TFL3" + b"\0" * 100, "tf2onnx"),
    "zip": (b"PK\x03\x04" + b"\0" * 100, "torch.onnx.export"),
    "pickle": (b"\x80\x02}q\0.", "pickle"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "Keras"),
    "safetensors": ((10).to_bytes(8, "little") + b'{"a":1}   ', "safetensors"),
    "web page": (b"\n<!DOCTYPE html><html></html>", "web page"),
    "JSON": (b'{"irVersion": "7"}', "JSON"),
    "text": (b"ir_version: 7\n", "text"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "GGUF": (b"GGUF\3\0\0\0", "GGUF"),
    "image": (b"SYSLIMG\0" + b"\0" * 50, "systolith run"),
    "noise": (b"\xff\x00 not a model", "not an ONNX model"),
    "cut": (None, "not an ONNX model|no graph|export it again"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_files_are_recognised(kind: str, tmp_path: Path) -> None:
    data, words = OTHERS[kind]
    path = tmp_path / "m.onnx"
    path.write_bytes(net().SerializeToString()[:700] if data is None else data)
    with pytest.raises(CompileError, match=words) as caught:
        load(path)
    assert "\n" not in str(caught.value)


# External data.
def external(tmp_path: Path, **entries: str) -> Path:
    """The model in a folder, its weights beside it; `entries` replace what the model says of them."""
    model, folder = net(), tmp_path / "model"
    folder.mkdir()
    tensor = weights(model, "Conv")
    (folder / "w.bin").write_bytes(b"\0" * 8 + tensor.raw_data)
    (tmp_path / "outside.bin").write_bytes(b"\0" * 8 + tensor.raw_data)
    said = {"location": "w.bin", "offset": "8", "length": str(len(tensor.raw_data)), **entries}
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in said.items():
        tensor.external_data.add(key=key, value=value)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    loaded = load(external(tmp_path))
    held = weights(net(), "Conv")
    assert loaded.model.constants[held.name].tobytes() == held.raw_data


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"location": "none.bin"}, "'none.bin' is not beside the model"),
        ({"location": "../outside.bin"}, "not inside the model's folder"),
        ({"location": "/etc/passwd"}, "not inside the model's folder"),
        ({"location": "link.bin"}, "not inside the model's folder"),
        ({"location": "fifo"}, "not beside the model"),
        ({"location": ""}, "not inside the model's folder"),
        ({"location": "a\0b"}, "not inside the model's folder"),
        ({"offset": "9"}, "takes 54 bytes"),
        ({"offset": "-1"}, "offset of its external data is '-1'"),
        ({"offset": "9" * 30}, "offset"),
        ({"length": "53"}, "takes 54 bytes, and its external data has 53"),
        ({"length": "many"}, "length of its external data is 'many'"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else "",
)
def test_external_data_that_is_wrong_is_refused(entries: dict[str, str], words: str, tmp_path: Path) -> None:
    path = external(tmp_path, **entries)
    (path.parent / "link.bin").symlink_to(tmp_path / "outside.bin")
    os.mkfifo(path.parent / "fifo")
    with pytest.raises(CompileError, match=words) as caught:
        load(path)
    assert "'c" in str(caught.value)


# What is computed at the import.
@pytest.mark.parametrize(
    ("kind", "operands"),
    [
        ("ConstantOfShape", [np.array([40000, 60000])]),
        ("Range", [np.int64(0), np.int64(1 << 40), np.int64(1)]),
        ("Expand", [np.zeros(1, np.int8), np.array([1 << 31, 4])]),
        ("Tile", [np.zeros((1, 2), np.int8), np.array([1 << 20, 1 << 20])]),
        ("Pad", [np.zeros(3, np.float32), np.array([1 << 31, 1 << 31])]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_constants_that_would_be_huge_are_not_computed(kind: str, operands: list[np.ndarray]) -> None:
    names = [f"c{index}" for index in range(len(operands))]
    with pytest.raises(CompileError, match=f"'big'.*{kind}.*elements"):
        evaluate(helper.make_node(kind, names, ["y"], "big"), 17, [*operands])


def test_a_loop_over_constants_is_not_computed() -> None:
    m = QdqModel(0)
    y = m.quantise(m.node("Relu", m.input(1, 4)), 0.1)
    scalar = [helper.make_tensor_value_info(name, kind, []) for name, kind in (("i", 7), ("go", 9), ("v", 1))]
    results = [helper.make_tensor_value_info(name, kind, []) for name, kind in (("on", 9), ("w", 1))]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Neg", ["v"], ["w"])],
        "body",
        scalar,
        results,
    )
    trips, start = m.const(np.int64(1 << 62)), m.const(np.float32(1))
    looped = m.node("Loop", trips, "", start, body=body)
    plan = partition_model(m.build(m.quantise(m.node("Mul", y, looped), 0.1)))
    loop = next(node for node in plan.host_nodes if node.op == "Loop")
    assert (loop.name, loop.reason) == (f"node_{looped}", "operator Loop is not supported")
    assert [node.op_type for node in plan.graph.nodes] == ["Relu"]
