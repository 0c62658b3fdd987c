"""The benchmarks on a folder made here, so that they do not rot: the digits CNN, quantised by our own
calibration."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from systolith import api
from systolith.boards.board import BOARDS
from systolith.compiler.partition import import_model, partition_model
from systolith.evidence.layerwise import OrtLayers
from systolith.reference.conv import Conv
from tests.compiler.qdq import QdqModel
from tests.scripts import script

ROOT = Path(__file__).resolve().parent.parent
FLOAT = ROOT / "examples" / "digits" / "digits_cnn.onnx"
SAMPLES = 12


accuracy, boards, models, recurrent = map(script, ("accuracy", "boards", "models", "recurrent"))
calibration, fuzz = map(script, ("calibration", "fuzz"))


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Test images, 0 to 1, [N, 1, 8, 8], and labels."""
    with np.load(FLOAT.with_name("digits.npz")) as file:
        images, labels = file["images"][-SAMPLES:], file["labels"][-SAMPLES:].astype(np.int64)
    return images[:, None].astype(np.float32) / 16, labels


@pytest.fixture(scope="module")
def folder(digits: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantised model, the float one, a .tflite that is only a name, samples four times as large as the
    model's, a table."""
    path = tmp_path_factory.mktemp("models")
    images, labels = digits
    (path / "digits_int8_qdq.onnx").write_bytes(partition_model(FLOAT, {"image": images}).core.core)
    (path / "digits_float.onnx").write_bytes(FLOAT.read_bytes())
    (path / "digits.tflite").write_bytes(b"")
    np.savez(path / "digits.npz", x=4 * images, y=labels)
    entry = {
        "name": "digits",
        "qdq": "digits_int8_qdq.onnx",
        "float": "digits_float.onnx",
        "tflite": "digits.tflite",
        "inputs": "digits.npz",
        "key": "x",
        "divide": 4,
        "metric": "top1",
        "labels": "y",
        "labels_are": "the digit",
    }
    absent = {"name": "another", "qdq": "another_int8_qdq.onnx", "inputs": "another.npy", "metric": "mse"}
    (path / "table.json").write_text(json.dumps({"models": [entry, absent]}))
    return path


@pytest.mark.parametrize("on", ["reference", "machine"])
def test_accuracy_of_a_folder(on: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "tflite_runtime", lambda: None)
    (result,) = accuracy.measure_folder(folder, folder / "table.json", on=on, arch="tiny")
    assert result["holds"] and result["samples"] == SAMPLES
    assert {"Conv", "Gemm"} <= {layer["op"] for layer in result["layers"]}
    for layer in result["layers"]:
        assert layer["equal"] >= accuracy.LEAST_EQUAL and layer["alone_furthest"] <= 1, layer
        assert layer["elements"] % SAMPLES == 0
    assert result["top1_agreement"] == {"qdq_ort": 1.0}
    # The images are the model's own kind: an error in scaling or in the labels would leave guesses.
    assert set(result["score"]) == {"qdq_ort", "core", "float"} and min(result["score"].values()) >= 0.9
    assert result["own"]["samples"] == result["own"]["calibration_samples"] == SAMPLES // 2
    assert result["own"]["int8"] >= 0.8


def test_the_limit_and_the_tables(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy, "tflite_runtime", lambda: None)
    report = tmp_path / "report.json"
    arguments = [
        str(folder),
        "--table",
        str(folder / "table.json"),
        "--on",
        "reference",
        "--limit",
        "3",
        "--layers",
        "--json",
        str(report),
    ]
    assert accuracy.main(arguments) == 0
    (result,) = json.loads(report.read_text())["results"]
    assert result["samples"] == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == accuracy.NO_TFLITE
    for columns in (accuracy.AGREEMENT, accuracy.ACCURACY):
        header, cells = (lines[lines.index("\t".join(columns)) + i].split("\t") for i in (0, 1))
        row = dict(zip(header, cells, strict=True))
        assert row["model"] == "digits" and row["samples"] == "3"
        assert row.get("top-1 as TFLite", "-") == row.get("int8 in TFLite", "-") == "-"
    assert sum(line.count("\t") == len(accuracy.LAYERS) - 1 for line in lines) > len(result["layers"])


def test_tflite_is_compared_in_steps_and_answers(
    folder: Path, digits: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    # In the interpreter's place, our reference: two steps off everywhere, and another answer to the first
    # image.
    graph = api.import_graph(folder / "digits_int8_qdq.onnx")
    (output,) = graph.outputs
    asked = []

    class Interpreter:
        @classmethod
        def from_file(cls, path):
            assert path == str(folder / "digits.tflite")
            return cls()

        def get_input_details(self, index):
            return {"shape": np.array([1, 8, 8, 1])}

        def set_input(self, value, index):
            assert value.shape == (1, 8, 8, 1) and value.dtype == np.int8
            asked.append(value.reshape(1, 1, 8, 8))

        def invoke(self):
            tensor = graph.tensors[output]
            codes = graph.run({"image": asked[-1]})[output].astype(np.float32)
            self.result = (codes - tensor.zero_point) * np.float32(tensor.scale) + 2
            if len(asked) == 1:
                self.result = -self.result

        def get_output(self, index):
            return self.result

    monkeypatch.setattr(accuracy, "tflite_runtime", lambda: SimpleNamespace(Interpreter=Interpreter))
    (entry, _) = accuracy.entries(folder / "table.json")
    result = accuracy.measure(folder, replace(entry, float=None), on="reference")
    assert len(asked) == SAMPLES
    assert result["top1_agreement"] == {"qdq_ort": 1.0, "tflite": pytest.approx(1 - 1 / SAMPLES)}
    assert result["tflite_steps"]["mean"] > 2 and result["tflite_steps"]["furthest"] > 2
    assert "float" not in result["score"] and "own" not in result


def test_a_wrong_layer_does_not_hold(folder: Path, digits: tuple[np.ndarray, np.ndarray]) -> None:
    partition = api.import_model(folder / "digits_int8_qdq.onnx")
    graph = partition.graph
    first = next(i for i, node in enumerate(graph.nodes) if isinstance(node.op, Conv))
    node = graph.nodes[first]
    wrong = replace(
        node, op=replace(node.op, requant=replace(node.op.requant, zero=node.op.requant.zero + 2))
    )
    nodes = (*graph.nodes[:first], wrong, *graph.nodes[first + 1 :])
    codes = np.random.default_rng(1).integers(-128, 128, (1, 1, 8, 8)).astype(np.int8)
    layers = accuracy.compare_layers(
        replace(partition, steps=(replace(partition.core, graph=replace(graph, nodes=nodes)),)),
        [{"image": codes}],
    )
    bad = [layer for layer in layers if layer["equal"] < accuracy.LEAST_EQUAL or layer["alone_furthest"] > 1]
    # Each layer is judged on ONNX Runtime's operands: only the wrong one is to blame, though the error goes
    # on from it.
    assert [layer["layer"] for layer in bad] == [node.name]
    assert bad[0]["alone_furthest"] == 2
    after = layers[[layer["layer"] for layer in layers].index(node.name) + 1 :]
    assert any(layer["chained_furthest"] > 1 for layer in after)


def test_ties_of_a_mean_are_told_from_errors() -> None:
    ties = 0
    for seed in range(8):
        m = QdqModel(seed)
        parameters = m.parameters(m.scale())
        m.inputs.append(onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, 6, 12, 12)))
        model = m.build(
            m.qdq(m.node("AveragePool", m.qdq("x", *parameters), kernel_shape=[2, 5]), *parameters)
        )
        graph = import_model(model)
        codes = m.rng.integers(-128, 128, (1, 6, 12, 12)).astype(np.int8)
        (layer,) = OrtLayers(model, graph).compare({"x": codes})
        assert layer.ties == np.count_nonzero(layer.alone)
        ties += layer.ties
        (node,) = graph.nodes
        op = replace(node.op, x_zero=node.op.x_zero + 1)
        (layer,) = OrtLayers(model, replace(graph, nodes=(replace(node, op=op),))).compare({"x": codes})
        assert layer.ties < np.count_nonzero(layer.alone)
    assert ties


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": "none.npz"}, "needs its inputs 'none.npz'"),
        ({"metric": "bleu"}, "the metric 'bleu'"),
        ({"labels": None}, "needs labels"),
    ],
    ids=["inputs", "metric", "labels"],
)
def test_a_wrong_table_is_refused_in_one_sentence(
    change: dict, words: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.json"
    (entry, _) = json.loads((folder / "table.json").read_text())["models"]
    table.write_text(json.dumps({"models": [{**entry, "tflite": None, **change}]}))
    assert accuracy.main([str(folder), "--table", str(table), "--on", "reference", "--limit", "1"]) == 2
    error = capsys.readouterr().err
    # Progress goes to standard error too, before the refusal.
    *_, sentence = error.splitlines()
    assert words in sentence and "Traceback" not in error


def test_a_folder_without_models_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert accuracy.main([str(tmp_path)]) == 2
    assert "resnet8_int8_qdq.onnx" in capsys.readouterr().err


def test_models_on_rtl(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report.json"
    assert (
        models.main(
            [
                str(folder),
                "--arch",
                "tiny",
                "--memory",
                "4:",
                "--memory",
                "20:1",
                "--layers",
                "--json",
                str(report),
            ]
        )
        == 0
    )
    fast, slow = json.loads(report.read_text())["results"]
    assert fast["bit_exact"] and slow["bit_exact"] and 0 < fast["cycles"] < slow["cycles"]
    assert [info["memory"]["latency"] for info in (fast, slow)] == [4, 20] and slow["memory"][
        "bytes_per_cycle"
    ] == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("digits_int8_qdq\ttiny\t") for line in lines) == 2
    assert "\t".join(models.COLUMNS) in lines and lines.count("\t".join(models.LAYER_COLUMNS)) == 2


def test_depthwise_convolutions_are_told_apart() -> None:
    # Six output channels in groups: depthwise, grouped, dense, and dense with one input channel.
    shapes = {6: (6, 1, 3, 3), 2: (6, 3, 3, 3), 1: (6, 6, 3, 3), 0: (6, 1, 3, 3)}
    fields = {"bias": None, "strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 0, 0), "x_zero": 0}
    nodes = [
        SimpleNamespace(
            name=str(key),
            op=Conv(weights=np.zeros(shape, np.int8), group=max(key, 1), requant=None, **fields),
        )
        for key, shape in shapes.items()
    ]
    assert models.depthwise(SimpleNamespace(nodes=nodes)) == {"6"}


def test_calibration_measures_every_choice(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    assert calibration.main([str(folder), "--table", str(folder / "table.json"), "--json", str(path)]) == 0
    results = json.loads(path.read_text())["results"]
    assert [info["choice"] for info in results] == [
        "least and greatest value",
        *("99.999th percentile", "99.99th percentile", "99.9th percentile"),
        "the published int8 model",
    ]
    for info in results:
        assert info["samples"] == SAMPLES // 2 and info["same_answers"] >= 0.8
    # Logits: int8 is near to float, and never equal to it. Choices are measured apart.
    assert all(0 < info["distance"] < 2 for info in results)
    assert len({info["distance"] for info in results}) >= 3


def test_few_samples_say_nothing_of_calibration(folder: Path) -> None:
    (entry, _) = accuracy.entries(folder / "table.json")
    assert calibration.measure(folder, entry, limit=3) == []


def test_runs_of_the_fuzzer_add_up() -> None:
    run = {"seed": 1, "cases": 3, "failed": 0, "seconds": 3600.0, "slowest_seconds": 2.0, "peak_megabytes": 5}
    first = {**run, "commands": {"run": {"ok": 1, "refused": 2}}}
    second = {**first, "seed": 2, "slowest_seconds": 1.0, "generators": {"images": {"ok": 1, "refused": 2}}}
    found = fuzz.added([first, second])
    assert (found["cases"], found["hours"], found["slowest_seconds"], found["seeds"]) == (6, 2.0, 2.0, [1, 2])
    assert found["commands"] == {"run": {"ok": 2, "refused": 4}}
    assert found["generators"] == {"images": {"ok": 1, "refused": 2}}


def test_recurrent_layers_are_measured_step_by_step(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    assert (
        recurrent.main(
            ["--arch", "tiny", "--units", "6", "--inputs", "4", "--steps", "3", "--json", str(path)]
        )
        == 0
    )
    results = json.loads(path.read_text())["results"]
    assert [info["model"] for info in results] == ["lstm_4_6", "gru_4_6", "rnn_4_6"]
    for info in results:
        assert (
            info["bit_exact"]
            and info["product_cycles"] < info["step_cycles"] < info["frame_cycles"] < info["cycles"]
        )


def test_a_wrong_recurrent_layer_fails_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    correct = recurrent.Session.run

    def wrong(self, arrays):
        result = correct(self, arrays)
        result.raw["y"] = result.raw["y"] ^ 1
        return result

    monkeypatch.setattr(recurrent.Session, "run", wrong)
    assert recurrent.main(["--arch", "tiny", "--units", "2", "--inputs", "2", "--steps", "2"]) == 1


def test_bitstreams_run_the_models_that_are_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    recorded = json.loads((ROOT / "benchmarks" / "results" / "boards.json").read_text())["results"]
    for board in BOARDS:
        assert boards.main(["--options", board, "models"]) == 0
        said = capsys.readouterr().out.split()
        assert said[::2] == ["--model"] * len(recorded[board]["models"])
        assert [Path(name).stem for name in said[1::2]] == [run["model"] for run in recorded[board]["models"]]
        assert all(Path(name).parent == Path("models") for name in said[1::2])
