"""Signal to noise against the float model: what is measured, printed and written."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from systolith import api
from systolith.evidence.fidelity import decibels, signal_to_noise
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
    partition = api.import_model(path, {"x": samples})
    found = signal_to_noise(path, partition, {"x": samples[:8]})
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for name in ("z", "Y_h"):
        expected = np.concatenate([session.run([name], {"x": sample})[0].ravel() for sample in samples[:8]])
        got = np.concatenate(
            [api.run_reference(partition, {"x": sample}).outputs[name].ravel() for sample in samples[:8]]
        )
        assert found["outputs"][name] == pytest.approx(
            decibels(np.square(expected).sum(), np.square(expected - got).sum()), abs=1e-3
        )
    assert list(found["recurrent"]) == ["cell"] and 25 < found["recurrent"]["cell"] < 60
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
