"""The digits example from ONNX file to answers, through the public API."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from systolith import api, cli
from systolith.reference.graph import QGraph

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "digits"
MODEL = EXAMPLE / "digits_cnn.onnx"


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Calibration samples, test images, test labels."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        from data import load_split
    finally:
        sys.path.remove(str(EXAMPLE))
    (train_images, _), (images, labels) = load_split()
    return train_images[:128, None], images, labels


@pytest.fixture(scope="module")
def graph(digits: tuple[np.ndarray, ...]) -> QGraph:
    """The calibrated model."""
    return api.import_graph(MODEL, {"image": digits[0]})


def test_gradients_are_the_derivative() -> None:
    sys.path.insert(0, str(EXAMPLE))
    try:
        import train
    finally:
        sys.path.remove(str(EXAMPLE))
    seed = 5
    rng = np.random.default_rng(seed)
    params = {name: value.astype(np.float64) for name, value in train.initial(rng).items()}
    x = rng.random((2, 8, 8, 1))
    weight = rng.standard_normal((2, 10))
    grads = train.backward(params, train.forward(params, x)[1], weight)
    for name, value in params.items():
        index = tuple(int(rng.integers(extent)) for extent in value.shape)
        step = 1e-6
        change = []
        for sign in (1, -1):
            moved = value.copy()
            moved[index] += sign * step
            change.append(float((train.forward({**params, name: moved}, x)[0] * weight).sum()))
        slope = (change[0] - change[1]) / (2 * step)
        assert grads[name][index] == pytest.approx(slope, rel=1e-4, abs=1e-6), f"{name}{index}, seed {seed}"


def test_float_accuracy(digits: tuple[np.ndarray, ...]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    _, images, labels = digits
    session = onnxruntime.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])
    answers = [session.run(None, {"image": x[None]})[0].argmax() for x in images]
    assert np.mean(np.array(answers) == labels) >= 0.97
    assert MODEL.stat().st_size < 200_000


def test_int8_keeps_the_accuracy(digits: tuple[np.ndarray, ...], graph: QGraph) -> None:
    _, images, labels = digits
    answers = [api.run_reference(graph, {"image": x[None]}).outputs["logits"].argmax() for x in images[:200]]
    assert np.mean(np.array(answers) == labels[:200]) >= 0.96


@pytest.mark.parametrize("arch", ["tiny", "array8", "array16"])
def test_machine_equals_reference(arch: str, digits: tuple[np.ndarray, ...], graph: QGraph) -> None:
    image = api.compile(graph, arch)
    with api.Session("machine", image) as machine:
        for x in digits[1][:3]:
            expected = api.run_reference(graph, {"image": x[None]})
            got = machine.run({"image": x[None]})
            assert np.array_equal(got.raw["logits"], expected.raw["logits"])
            assert np.array_equal(got.outputs["logits"], expected.outputs["logits"])


def test_every_layer_is_equal(digits: tuple[np.ndarray, ...], graph: QGraph) -> None:
    # Every layer's result as an output.
    every = replace(graph, outputs=tuple(layer.tensor for layer in api.compile(graph, "array8").layers))
    result = api.verify(every, "array8", {"image": digits[1][:1]}, on=("machine",))
    assert len(every.outputs) > 5
    assert result.bit_exact, [str(difference) for difference in result.differences]


def test_command_line_from_model_to_answer(
    digits: tuple[np.ndarray, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calib, x, image, y, report = (tmp_path / name for name in ("c.npz", "x.npz", "m.sysl", "y.npz", "r.json"))
    np.savez(calib, image=digits[0][:32])
    np.savez(x, image=digits[1][:1])
    assert cli.main(["compile", str(MODEL), "--arch", "array8", "--calib", str(calib), "-o", str(image)]) == 0
    assert cli.main(["run", str(image), "--inputs", str(x), "--outputs", str(y), "--on", "machine"]) == 0
    with np.load(y) as file:
        assert file["logits"].argmax() == digits[2][0]
    assert (
        cli.main(
            [
                "verify",
                str(MODEL),
                "--arch",
                "array8",
                "--calib",
                str(calib),
                "--on",
                "reference,machine",
                "--json",
                str(report),
            ]
        )
        == 0
    )
    written = json.loads(report.read_text())
    assert written["bit_exact"] is True
    assert written["macs"] > 0
    assert {layer["limit"] for layer in written["layers"]} <= {"array", "weights", "memory", "vector"}
    capsys.readouterr()


@pytest.mark.slow
def test_rtl_equals_reference(digits: tuple[np.ndarray, ...], graph: QGraph) -> None:
    result = api.verify(graph, "array8", {"image": digits[1][:1]})
    assert result.bit_exact, [str(difference) for difference in result.differences]
    assert result.backends["rtl"].cycles > 0
