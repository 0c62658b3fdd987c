"""Models with nodes on the host, at the command line: what is printed, written, refused, and the same on
every path."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from systolith import api, verifying
from systolith.spec.image import Image
from tests.compiler.qdq import QdqModel
from tests.test_cli import invoke, refused


@pytest.fixture
def model(tmp_path):
    """Acosh, a layer, Softmax: a node on each side of the core."""
    m = QdqModel(0)
    m.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6]))
    x = m.quantise(m.node("Acosh", "x"), 0.01)
    y = m.quantise(m.node("Gemm", x, m.weights(5, 6), transB=1), 0.05)
    path = tmp_path / "m.onnx"
    onnx.save(m.build(m.node("Softmax", y)), path)
    return path


@pytest.fixture
def inputs(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.linspace(1, 3, 6, dtype=np.float32)[None])
    return tmp_path / "x.npz"


def outputs_of(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("command", ["explain", "compile"])
def test_nodes_on_the_host_are_listed_with_reason_and_cost(command, model, tmp_path, capsys):
    status, out, _ = invoke(capsys, command, model, "--arch", "tiny", "--json", tmp_path / "r.json")
    assert status == 0
    nodes = json.loads((tmp_path / "r.json").read_text())["host_nodes"]
    assert [(node["op"], node["step"]) for node in nodes] == [("Acosh", 1), ("Softmax", 3)]
    assert nodes[1]["reason"] == "operator Softmax is not supported"
    assert (nodes[0]["elements"], nodes[0]["bytes"], nodes[1]["elements"], nodes[1]["bytes"]) == (6, 6, 5, 5)
    reason = "operator Acosh is not supported"
    assert "\t".join((nodes[0]["name"], "Acosh", reason, "1", "0", "6", "6")) in out.splitlines()
    assert "step_seconds" not in nodes[0] and "ms" not in out
    steps = json.loads((tmp_path / "r.json").read_text())["steps"]
    assert [(step["step"], step["where"], step["macs"], step["bytes"]) for step in steps] == [
        (1, "host", 0, 6),
        (2, "core", 30, 11),
        (3, "host", 0, 5),
    ]
    assert steps[0]["reasons"][0] == reason and steps[1]["cycles"] == steps[1]["estimated_cycles"] > 0
    names = steps[0]["nodes"]
    assert "\t".join(("1", "host", *names, reason, "0", "6", "-")) in out.splitlines()


def test_verify_and_run_measure_the_host(model, inputs, tmp_path, capsys):
    report = tmp_path / "r.json"
    arguments = ("--arch", "tiny", "--inputs", inputs, "--json", report)
    status, out, err = invoke(capsys, "verify", model, *arguments, "--on", "reference,machine")
    assert status == 0 and "systolith: " not in err
    assert "bit-exact: reference = machine" in out
    assert "the host's step 1 (node" in out and "the host's step 3 (node" in out
    info = json.loads(report.read_text())
    assert info["bit_exact"] is True
    assert all(0 < node["step_seconds"] < 1 for node in info["host_nodes"])
    status, out, _ = invoke(capsys, "run", model, *arguments)
    assert status == 0 and "the host's step 3 (node" in out
    assert all(0 < node["step_seconds"] < 1 for node in json.loads(report.read_text())["host_nodes"])


def test_random_inputs_of_a_model_that_needs_others_are_refused_with_the_reason(model, capsys):
    # Acosh has no value below 1, and random values lie from 0 to 1.
    sentence = refused(capsys, "verify", model, "--arch", "tiny", "--on", "reference")
    assert "NaN in 'acosh1'" in sentence and "give inputs for which it is a number" in sentence


def test_a_difference_on_the_core_is_found_behind_a_first_host_step(model, inputs, monkeypatch, capsys):
    class Wrong(api.Session):
        def run(self, arrays, **options):
            result = super().run(arrays, **options)
            # The device's own arrays are read-only.
            raw = {name: value.copy() for name, value in result.raw.items()}
            for value in raw.values():
                value[0, -1] ^= 1
            return dataclasses.replace(result, raw=raw)

    monkeypatch.setattr(verifying, "Session", Wrong)
    status, out, err = invoke(
        capsys, "verify", model, "--arch", "tiny", "--inputs", inputs, "--on", "machine"
    )
    assert status == 1 and "differs from the reference on machine" in err
    assert (
        "machine: 1 of 5 elements of output 'dequantizelinear" in out
        and " of step 2 differ; first at [0, 4]" in out
    )


def test_image_model_and_reference_give_the_same(model, inputs, tmp_path, capsys):
    image = tmp_path / "m.sysl"
    assert invoke(capsys, "compile", model, "--arch", "tiny", "-o", image)[0] == 0
    results = []
    for arguments in (
        (image, "--on", "machine"),
        (model, "--arch", "tiny", "--on", "machine"),
        (model, "--on", "reference"),
    ):
        path = tmp_path / "y.npz"
        assert invoke(capsys, "run", *arguments, "--inputs", inputs, "--outputs", path)[0] == 0
        results.append(outputs_of(path))
    (name,) = results[0]
    assert results[0][name].sum() == pytest.approx(1)
    for other in results[1:]:
        assert list(other) == [name]
        np.testing.assert_array_equal(results[0][name], other[name])


@pytest.mark.parametrize("number", [1, 3])
def test_an_image_whose_host_step_is_no_model_is_refused(number, model, inputs, tmp_path, capsys):
    image = api.compile(model, "tiny")
    # Stored by a program at fault, with a checksum that is right.
    steps = list(image.steps)
    steps[number - 1] = dataclasses.replace(steps[number - 1], model=b"\x00no model")
    image = dataclasses.replace(image, steps=tuple(steps))
    image.save(tmp_path / "m.sysl")
    assert Image.load(tmp_path / "m.sysl") == image
    sentence = refused(capsys, "run", tmp_path / "m.sysl", "--inputs", inputs)
    assert f"does not accept the host's step {number} (node" in sentence
    assert "compile the model again" in sentence


def test_what_onnxruntime_refuses_to_run_is_one_sentence(tmp_path, capsys):
    m = QdqModel(1)
    m.inputs.append(helper.make_tensor_value_info("token", TensorProto.INT64, [1]))
    table = m.const(np.zeros((2, 6), np.float32))
    x = m.quantise(m.node("Gather", table, "token"), 0.03)
    onnx.save(m.build(m.quantise(m.node("Gemm", x, m.weights(5, 6), transB=1), 0.05)), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", token=np.array([7]))
    sentence = refused(
        capsys, "run", tmp_path / "m.onnx", "--inputs", tmp_path / "x.npz", "--on", "reference"
    )
    assert "stopped in the host's step 1 (node" in sentence and "give inputs that they accept" in sentence
