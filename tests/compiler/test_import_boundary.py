"""Inputs and outputs: names, types, aliases, and values that several nodes quantise."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from systolith.compiler.partition import import_model
from systolith.reference.conv import Conv
from systolith.reference.lookup import Lookup
from tests.compiler.qdq import QdqModel, layer_differences


def with_outputs(model, **types):
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, kind, None) for name, kind in types.items())
    return model


def test_a_tensor_that_leaves_as_integers_and_as_floats_is_copied():
    for order in (1, -1):
        m = QdqModel(0, unsigned=True)
        model = m.build(m.quantise(m.node("Relu", m.input(1, 6)), 0.02))
        real = model.graph.output[0].name
        code = next(node for node in model.graph.node if node.output[0] == real).input[0]
        names = dict([(real, TensorProto.FLOAT), (code, TensorProto.UINT8)][::order])
        graph = import_model(with_outputs(model, **names))
        assert graph.outputs == tuple(names)
        assert {name: graph.tensors[name].dtype for name in names} == {real: "float32", code: "uint8"}
        values = graph.run({graph.inputs[0]: np.arange(-3, 3).astype(np.int8).reshape(1, 6)})
        np.testing.assert_array_equal(values[real], values[code])
        assert all(not difference.any() for difference in layer_differences(model, graph, 0).values())


def test_an_input_that_is_also_the_output_is_copied():
    m = QdqModel(0)
    graph = import_model(m.build(m.input(1, 6)))
    assert graph.inputs != graph.outputs
    values = graph.run({graph.inputs[0]: np.arange(6).astype(np.int8).reshape(1, 6)})
    np.testing.assert_array_equal(values[graph.outputs[0]], values[graph.inputs[0]])


def test_integer_inputs_take_their_scale_from_behind_a_reshape():
    m = QdqModel(0)
    m.inputs.append(helper.make_tensor_value_info("codes", TensorProto.UINT8, [1, 12]))
    moved = m.node("Reshape", "codes", m.const(np.array([3, 4])))
    real = m.node("DequantizeLinear", moved, m.const(np.float32(0.25)), m.const(np.uint8(5)))
    model = m.build(m.quantise(m.node("Tanh", real), 0.01))
    graph = import_model(model)
    tensor = graph.tensors["codes"]
    assert (tensor.dtype, tensor.scale, tensor.zero_point) == ("uint8", 0.25, 5 - 128)
    assert all(np.abs(difference).max() <= 1 for difference in layer_differences(model, graph, 0).values())


def test_a_value_quantised_once_per_reader_is_computed_once():
    m = QdqModel(0)
    y = m.node("Conv", m.input(1, 3, 5, 5), m.weights(4, 3, 3, 3))
    scale, zero = m.const(np.float32(0.3)), m.const(np.int8(3))
    readers = [
        m.node("DequantizeLinear", m.node("QuantizeLinear", y, scale, zero), scale, zero) for _ in range(2)
    ]
    graph = import_model(m.build(m.quantise(m.node("Mul", *readers), 2.0)))
    assert sum(isinstance(node.op, Conv) for node in graph.nodes) == 1


def test_nodes_that_no_output_needs_are_left_out_and_sources_are_kept():
    m = QdqModel(0)
    x = m.input(1, 3, 5, 5)
    m.quantise(m.node("Neg", x), 0.1)
    y = m.quantise(m.node("Relu", m.node("Conv", x, m.weights(4, 3, 3, 3))), 0.3)
    (node,) = import_model(m.build(y)).nodes
    assert [source.split("_")[1][:4] for source in node.sources] == ["conv", "relu", "quan"]


def test_requantisation_alone_is_a_table_and_disappears_where_nothing_changes():
    m = QdqModel(0)
    x = m.input(1, 256)
    graph = import_model(m.build(m.quantise(x, 0.2)))
    assert [type(node.op) for node in graph.nodes] == [Lookup]


def test_channels_without_weights_give_their_bias():
    m = QdqModel(0)
    data = m.rng.integers(-127, 128, (3, 2, 1, 1)).astype(np.int8)
    data[1] = 0
    w = m.node("DequantizeLinear", m.const(data), m.const(np.array([0.01, 1e-30, 0.02], np.float32)), axis=0)
    model = m.build(
        m.quantise(m.node("Conv", m.input(1, 2, 6, 6), w, m.const(np.array([1, 1.5, -2], np.float32))), 0.05)
    )
    graph = import_model(model)
    assert all(not difference[:, 1].any() for difference in layer_differences(model, graph, 0).values())


def test_constant_subgraphs_are_computed():
    m = QdqModel(0)
    x = m.input(2, 3, 4)
    shape = m.node(
        "Concat",
        m.node("Gather", m.node("Shape", x), m.const(np.array([0]))),
        m.const(np.array([-1])),
        axis=0,
    )
    w = m.node("Transpose", m.weights(5, 12, axis=0), perm=[1, 0])
    model = m.build(m.quantise(m.node("MatMul", m.node("Reshape", x, shape), w), 0.4))
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(model))
    graph = import_model(model)
    assert graph.tensors[graph.outputs[0]].shape == (2, 5)
    assert all(np.abs(difference).max() <= 1 for difference in layer_differences(model, graph, 0).values())
