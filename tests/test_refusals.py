"""Models that the numbers or the memories cannot carry are refused at the command line, and nothing is
written."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

SCALE, ZERO = np.float32(0.1), np.int8(0)


def save(path, nodes, x, y, **constants):
    """A QDQ model from int8 x to int8 y, with the given shapes."""
    constants = {"scale": SCALE, "zero": ZERO, **constants}
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["x_real"]),
        *nodes,
        helper.make_node("QuantizeLinear", ["y_real", "scale", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "refused",
        [helper.make_tensor_value_info("x", TensorProto.INT8, x)],
        [helper.make_tensor_value_info("y", TensorProto.INT8, y)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def overflow(path):
    inputs = 200_000
    save(
        path,
        [
            helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["w_real"]),
            helper.make_node("MatMul", ["x_real", "w_real"], ["y_real"], name="big"),
        ],
        [1, inputs],
        [1, 2],
        w=np.full((inputs, 2), 127, np.int8),
    )


def too_large(path):
    """One row of a matrix product is needed whole."""
    inputs = 300_000
    save(
        path,
        [
            helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["w_real"]),
            helper.make_node("MatMul", ["x_real", "w_real"], ["y_real"], name="long"),
        ],
        [1, inputs],
        [1, 2],
        w=np.ones((inputs, 2), np.int8),
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [(overflow, ["'big'", "3251200000", "32 bits"]), (too_large, ["'long'", "300002", "activation SRAM"])],
)
def test_one_sentence_and_status_2(tmp_path, make, words):
    make(tmp_path / "m.onnx")
    command = [
        sys.executable,
        "-m",
        "systolith",
        "compile",
        str(tmp_path / "m.onnx"),
        "--arch",
        "array8",
        "-o",
        str(tmp_path / "m.sysl"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2, result.stderr
    sentence = result.stderr.strip().splitlines()[-1]
    assert all(word in sentence for word in words), sentence
    assert "Traceback" not in result.stderr and not (tmp_path / "m.sysl").exists()
