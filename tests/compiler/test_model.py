"""The typed model: there and back, its indexes, and its edits."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from systolith.compiler.base.errors import ModelError
from systolith.compiler.base.proto import serialised
from systolith.compiler.model import Model, TensorType, array_type, make_node


def proto() -> onnx.ModelProto:
    """Two layers, a branch in a subgraph that captures a tensor, and a dead node."""

    def value(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    then = helper.make_graph(
        [helper.make_node("Relu", ["h"], ["t"], "inner")], "then", [], [value("t", [1, 3])]
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["h"], ["e"], "other")], "else", [], [value("e", [1, 3])]
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "product"),
        helper.make_node("If", ["yes"], ["y"], "branch", then_branch=then, else_branch=other),
        helper.make_node("Abs", ["h"], ["unused"], "dead"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", ["batch", 2])],
        [value("y", [1, 3])],
        [
            numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "w"),
            numpy_helper.from_array(np.array(False), "yes"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=3)


def test_indexes_know_operands_and_captured_tensors() -> None:
    model = Model.from_proto(proto())
    assert model.inputs == ("x",) and model.outputs == ("y",)
    assert [node.name for node in model.readers["h"]] == ["branch", "dead"]
    assert model.producer["y"].name == "branch" and model.captured == {"h"}
    assert model.type_of("x") == TensorType(TensorProto.FLOAT, (None, 2)) and model.shape_of("x") is None
    assert model.shape_of("w") == (2, 3) and model.reader_count("y") == 1


def test_what_comes_in_goes_out_and_runs() -> None:
    model = Model.from_proto(proto()).without_dead_nodes()
    assert [node.name for node in model.nodes] == ["product", "branch"]
    session = onnxruntime.InferenceSession(model.to_proto().SerializeToString())
    (found,) = session.run(None, {"x": np.array([[1, 2]], np.float32)})
    np.testing.assert_array_equal(found, [[-6, -9, -12]])


def test_a_part_has_the_constants_that_it_reads() -> None:
    model = Model.from_proto(proto())
    part = model.part([model.by_name["product"]], ["x"], ["h"])
    assert set(part.constants) == {"w"} and part.to_proto().ir_version >= 4
    assert part.to_proto().graph.output[0].name == "h"
    onnxruntime.InferenceSession(part.to_proto().SerializeToString())


def test_added_constants_are_typed_and_unread_ones_go() -> None:
    model = Model.from_proto(proto())
    name = model.fresh("w")
    assert name == "w_1"
    added = model.with_nodes([make_node("Add", ["x", name], ["y"], "sum")], {name: np.ones(2, np.int8)})
    assert set(added.constants) == {name}
    assert added.type_of(name) == array_type(np.ones(2, np.int8)) == TensorType(TensorProto.INT8, (2,))


def test_a_model_larger_than_onnx_can_hold_is_refused(monkeypatch):
    model = Model.from_proto(proto()).to_proto()
    data = serialised(model)
    assert data == model.SerializeToString(deterministic=True)
    monkeypatch.setattr("systolith.compiler.base.proto.LARGEST", len(data) - 1)
    with pytest.raises(
        ModelError,
        match=r"^import: node 'product': this node and those behind it on the host have constants of more "
        r"than [\d,]+ bytes together, which a step of the host cannot hold; divide the model there, or store",
    ):
        serialised(model)
