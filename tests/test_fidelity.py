"""Signal to noise against the float model: what is measured, printed and written."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from systolith import api
from systolith.compiler.partition import prepare
from systolith.evidence.fidelity import Fidelity, compare, decibels
from systolith.evidence.precision import accurate_plan
from systolith.spec.arch import load_arch
from tests.compiler.test_recurrent import float_model
from tests.test_cli import invoke


@pytest.fixture
def stacked(tmp_path):
    """A bidirectional LSTM, and a GRU on the host behind it; path, samples."""
    model, samples = float_model("LSTM", "bidirectional", units=6, steps=5, batch=1, outputs=("Y", "Y_h"))
    rng = np.random.default_rng(1)
    graph = model.graph
    for name, shape in (("w2", (1, 12, 12)), ("r2", (1, 12, 4))):
        graph.initializer.append(numpy_helper.from_array(rng.normal(0, 0.4, shape).astype(np.float32), name))
    graph.initializer.append(numpy_helper.from_array(np.array([5, 1, 12]), "flat"))
    graph.node.extend(
        [
            helper.make_node("Transpose", ["Y"], ["t"], name="side_by_side", perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", ["t", "flat"], ["joined"], name="join"),
            helper.make_node("GRU", ["joined", "w2", "r2"], ["", "z"], name="behind", hidden_size=4),
        ]
    )
    del graph.output[:]
    graph.output.extend(
        [
            helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, (1, 1, 4)),
            helper.make_tensor_value_info("Y_h", onnx.TensorProto.FLOAT, (2, 1, 6)),
        ]
    )
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    return path, samples


def test_it_is_the_energy_of_the_difference(stacked):
    path, samples = stacked
    prepared = prepare(path, {"x": samples[:8]})
    partition = prepared.plan(None, 8)
    found = compare(prepared, partition)
    assert found is not None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for name in ("z", "Y_h"):
        expected = np.concatenate([session.run([name], {"x": sample})[0].ravel() for sample in samples[:8]])
        got = np.concatenate(
            [api.run_reference(partition, {"x": sample}).outputs[name].ravel() for sample in samples[:8]]
        )
        assert found.outputs[name] == pytest.approx(
            decibels(np.square(expected).sum(), np.square(expected - got).sum()), abs=1e-3
        )
    assert list(found.recurrent) == ["cell"] and 25 < found.recurrent["cell"] < 60
    assert decibels(1.0, 0.0) is None


def test_verify_prints_and_writes_it(stacked, tmp_path, capsys):
    path, samples = stacked
    np.savez(tmp_path / "c.npz", x=samples)
    status, out, _ = invoke(
        capsys,
        "verify",
        path,
        "--arch",
        "tiny",
        "--calib",
        tmp_path / "c.npz",
        "--on",
        "machine",
        "--json",
        tmp_path / "r.json",
    )
    assert status == 0
    found = json.loads((tmp_path / "r.json").read_text())["snr_db"]
    assert set(found["outputs"]) == {"z", "Y_h"} and set(found["recurrent"]) == {"cell"}
    assert out.splitlines()[-1].startswith("bit-exact: reference = machine; outputs are ")
    assert (
        f"output 'z': {found['outputs']['z']:.1f} dB from float on the calibration data" in out.splitlines()
    )
    assert (
        f"recurrent layer 'cell': {found['recurrent']['cell']:.1f} dB from float on the calibration data"
        in out.splitlines()
    )


def test_a_quantised_graph_has_nothing_to_compare_with(stacked):
    path, samples = stacked
    partition = api.import_model(path, {"x": samples})
    assert api.verify(partition, "tiny", {"x": samples[0]}, on=("machine",)).as_dict()["snr_db"] == {}


def gemm(first, second):
    """Two products in a row; path-less model, 16 samples."""
    rng = np.random.default_rng(2)
    constants = {
        "a": rng.normal(0, first, (8, 16)),
        "b": rng.normal(0, second, (16, 4)),
    }
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "a"], ["h"], name="one"),
            helper.make_node("MatMul", ["h", "b"], ["y"], name="two"),
        ],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, 8))],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (1, 4))],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    samples = rng.normal(0, 1, (16, 1, 8)).astype(np.float32)
    return model, samples


def test_every_layer_is_compared_and_a_loss_is_what_it_adds():
    model, samples = gemm(0.3, 0.3)
    prepared = prepare(model, {"x": samples})
    found = compare(prepared, prepared.plan())
    assert found is not None and list(found.layers) == ["h", "y"]
    assert found.losses["y"] == pytest.approx(max(0.0, found.layers["h"] - found.layers["y"]))
    assert found.lowest == found.outputs["y"] and not found.far
    assert found.summary().startswith("output 'y' is ")
    assert json.loads(json.dumps(found.account()))["layers"].keys() == {"h", "y"}


def outlier():
    """A network that int8 ruins: one value is a thousand times the others, and its product cancels it."""
    model, samples = gemm(0.3, 0.3)
    samples[:, :, 0] *= 1000
    weights = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weights[0] = 0
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "a"))
    return model, samples


def test_far_outputs_warn_or_are_refused(tmp_path, capsys):
    model, samples = outlier()
    path = tmp_path / "far.onnx"
    onnx.save(model, path)
    with pytest.warns(api.FarFromFloatWarning, match="output 'y' is .* dB from float"):
        api.compile(path, "tiny", {"x": samples})
    with pytest.raises(api.AccuracyError, match="output 'y' is .* and 25 dB are wanted"):
        api.compile(path, "tiny", {"x": samples}, min_snr=25)
    np.savez(tmp_path / "c.npz", x=samples)
    common = ("--arch", "tiny", "--calib", tmp_path / "c.npz")
    status, _, err = invoke(capsys, "compile", path, *common, "-o", tmp_path / "f.sysl", "--min-snr", "25")
    assert status == 2 and "25 dB are wanted" in err and not (tmp_path / "f.sysl").exists()
    status, _, err = invoke(capsys, "explain", path, *common)
    assert status == 0 and "systolith: warning: output 'y' is" in err


def test_a_layer_that_ruins_an_output_moves_to_the_host_if_the_work_stays():
    """The first layer is small beside the second, and reads a ruined input."""
    model, samples = outlier()
    weights = np.random.default_rng(5).normal(0, 0.3, (16, 4000)).astype(np.float32)
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(weights, "b"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4000
    prepared = prepare(model, {"x": samples})
    before = compare(prepared, prepared.plan(load_arch("array8")))
    said = []
    plan, found = accurate_plan(prepared, load_arch("array8"), None, 20.0, said.append)
    assert before is not None and found is not None
    assert found.lowest >= before.lowest + 6 and said
    assert [node.name for node in plan.host_nodes] == ["one"]
    assert "--float-below 0" in plan.host_nodes[0].reason
    stayed, same = accurate_plan(prepared, load_arch("array8"), None, 0.0, said.append)
    assert not stayed.host_nodes and same.lowest == before.lowest


def test_no_noise_at_all_is_equal_to_float():
    assert Fidelity(outputs={"y": None}).summary() == "the outputs are equal to float on the samples"
    assert Fidelity().summary().startswith("no output of the model is in float")
