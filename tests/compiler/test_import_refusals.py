"""What is refused, each by one sentence with the culprit's name."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from systolith.compiler.base.errors import InputError, QuantiseError, UnsupportedError
from systolith.compiler.capability import supported_operators, supported_ops_markdown
from systolith.compiler.partition import import_model
from tests.compiler.qdq import QdqModel


def finish(m, y):
    return m.build(m.quantise(y, 0.05))


def two_computed(m):
    return finish(m, m.node("MatMul", m.input(3, 4), m.input(4, 3)))


def unknown(m):
    return finish(m, m.node("CumSum", m.input(3, 4), m.const(np.int64(0))))


def transposed(m):
    return finish(m, m.node("Gemm", m.input(4, 3), m.weights(4, 5, axis=1), transA=1))


def indices(m):
    return finish(m, m.node("MaxPool", m.input(1, 2, 4, 4), outputs=2, kernel_shape=[2, 2]))


def storage(m):
    return finish(m, m.node("MaxPool", m.input(1, 2, 4, 4), kernel_shape=[2, 2], storage_order=1))


def three_dimensions(m):
    return finish(m, m.node("Conv", m.input(1, 2, 4, 4, 4), m.weights(3, 2, 2, 2, 2)))


def wrong_axis(m):
    return finish(m, m.node("MatMul", m.input(2, 4), m.weights(4, 5, axis=0)))


def float_weights(m):
    return finish(m, m.node("Conv", m.input(1, 2, 4, 4), m.const(np.ones((3, 2, 1, 1), np.float32))))


def float_between(m):
    y = m.node("Conv", m.input(1, 2, 4, 4), m.weights(3, 2, 1, 1))
    return finish(m, m.node("Sigmoid", y))


def float_output(m):
    return m.build(m.node("Conv", m.input(1, 2, 4, 4), m.weights(3, 2, 1, 1)))


def sixteen_bits(m):
    parameters = m.const(np.float32(0.1)), m.const(np.int16(0))
    x = m.input(1, 8)
    return m.build(m.node("DequantizeLinear", m.node("QuantizeLinear", x, *parameters), *parameters))


def overflow(m):
    w = m.node("DequantizeLinear", m.const(np.full((2, 70000), 127, np.int8)), m.const(np.float32(1)))
    b = m.node("DequantizeLinear", m.const(np.array([0, 2**30], np.int32)), m.const(np.float32(1)))
    x = m.input(1, 70000, scale=np.float32(1))
    return m.build(m.quantise(m.node("Gemm", x, w, b, transB=1), 1e6))


def large_scale(m):
    return m.build(m.quantise(m.node("Add", m.input(1, 8, scale=1e5), m.input(1, 8, scale=1e5)), 1e-3))


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (two_computed, UnsupportedError, "node 'node_matmul.*one operand must be constant"),
        (unknown, UnsupportedError, "node 'node_cumsum.*operator CumSum is not supported"),
        (indices, UnsupportedError, "Indices"),
        (storage, UnsupportedError, "storage_order must be 0"),
        (three_dimensions, UnsupportedError, "spatial axes"),
        (wrong_axis, QuantiseError, "quantised along axis 0"),
        (float_weights, QuantiseError, "are not quantised to 8 bits"),
        (float_between, QuantiseError, "node 'node_sigmoid.*is not quantised"),
        (
            float_output,
            QuantiseError,
            "node 'node_conv.*output is not quantised, and without calibration data",
        ),
        (sixteen_bits, QuantiseError, "int16"),
        (overflow, QuantiseError, "the sum of output channel 1 can reach .* passes 32 bits"),
        (large_scale, QuantiseError, "node 'node_add.*too large"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_refused_by_name(build, error, words):
    with pytest.raises(error, match=words) as caught:
        import_model(build(QdqModel(0)))
    assert "\n" not in str(caught.value)


def test_an_attribute_that_is_not_honoured_is_refused_by_name():
    m = QdqModel(0)
    model = finish(m, m.node("QuickGelu", m.input(1, 4), domain="com.microsoft", alpha=1.0, beta=2.0))
    with pytest.raises(
        UnsupportedError, match="node 'node_quickgelu.*attribute 'beta' of QuickGelu is not supported"
    ):
        import_model(model)


def test_missing_and_damaged_files_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        import_model(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"\xff\x00 not a model")
    with pytest.raises(InputError):
        import_model(tmp_path / "bad.onnx")


def test_a_symbolic_batch_becomes_one_and_other_axes_are_refused():
    m = QdqModel(0)
    model = finish(m, m.node("Relu", m.input(1, 4)))
    dim = model.graph.input[0].type.tensor_type.shape.dim
    dim[0].dim_param = "batch"
    graph = import_model(model)
    assert graph.tensors[graph.inputs[0]].shape == (1, 4)
    dim[1].dim_param = "time"
    with pytest.raises(InputError, match="axis 1 of the input is dynamic .time."):
        import_model(model)


def test_an_input_of_another_type_is_refused_where_the_core_would_read_it():
    m = QdqModel(0)
    m.inputs.append(helper.make_tensor_value_info("indices", TensorProto.INT64, [1, 4]))
    model = finish(m, m.node("Cast", "indices", to=TensorProto.FLOAT))
    with pytest.raises(UnsupportedError, match="'indices' has type int64, which the core does not read"):
        import_model(model)


def test_an_input_that_nobody_reads_is_no_obstacle():
    m = QdqModel(0)
    y = m.node("Relu", m.input(1, 4))
    m.inputs.append(helper.make_tensor_value_info("indices", TensorProto.INT64, [1]))
    graph = import_model(finish(m, y))
    assert "indices" not in graph.inputs and [node.op_type for node in graph.nodes] == ["Relu"]


def test_the_table_of_operators_has_a_row_with_constraints_for_each():
    rows = {row.name: row for row in supported_operators()}
    assert {
        "Conv",
        "Gemm",
        "MatMul",
        "MaxPool",
        "AveragePool",
        "Add",
        "Sub",
        "Mul",
        "Concat",
        "Sigmoid",
        "Reshape",
    } <= set(rows)
    assert any("Indices" in text for text in rows["MaxPool"].constraints)
    assert supported_ops_markdown().count("\n") == len(rows) + 2
