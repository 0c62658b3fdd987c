"""Accuracy of models on the core: against ONNX Runtime layer by layer, against TensorFlow Lite Micro, and
beside the float models.

    .venv/bin/python benchmarks/accuracy.py FOLDER [--on machine|rtl|reference] [--arch A] [--limit N]
    [--layers] [--json FILE] [--record]

FOLDER holds models and real inputs under the names of `mlperf_tiny.json` (or of --table); docs/mlperf-tiny.md
describes it. The benchmark fails where a layer has less than 99.5 % of its elements equal to ONNX Runtime's
or one that is further off than one step, or where the answers of less than 99 % of the samples agree.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from record import record

from systolith import api
from systolith.evidence.layerwise import OrtLayers, literal_session
from systolith.host.codes import dequantise, quantise
from systolith.reference.graph import QTensor
from systolith.reference.plan import Plan
from systolith.report import Reporter, shortened, write_json

TABLE = Path(__file__).with_name("mlperf_tiny.json")
LEAST_EQUAL, LEAST_TOP1 = 0.995, 0.99
#: Every second sample calibrates; the others measure what came of it.
CALIBRATE_EVERY = 2
NO_TFLITE = (
    "tflite-micro is not installed, so nothing is compared with the .tflite files: "
    "pip install 'systolith[bench]'"
)
AGREEMENT = (
    "model",
    "worst layer",
    "samples",
    "equal",
    "furthest",
    "ties",
    "through all layers",
    "furthest",
    "top-1 as ORT",
    "top-1 as TFLite",
    "from TFLite, steps",
    "holds",
)
ACCURACY = (
    "model",
    "metric",
    "samples",
    "float",
    "int8 in ORT",
    "int8 on core",
    "int8 in TFLite",
    "of these",
    "float",
    "own calibration",
)
LAYERS = ("layer", "op", "elements", "equal", "furthest", "ties", "through all layers", "furthest")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model of the table: files by name, and what the samples mean."""

    name: str
    qdq: str
    inputs: str
    metric: str
    float: str | None = None
    tflite: str | None = None
    key: str | None = None
    stored: str = "real"
    divide: float = 1
    float_axes: tuple[int, ...] | None = None
    labels: str | tuple[int, ...] | None = None
    labels_are: str = ""


class FolderError(ValueError):
    """A folder or table that cannot be measured; one sentence."""


def entries(table: Path) -> list[Entry]:
    """The models of a table."""
    return [Entry(**entry) for entry in json.loads(table.read_text(encoding="utf-8"))["models"]]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Inputs of one model, one sample per entry of the first axis, in the quantised model's axis order,
    without the batch."""

    real: np.ndarray
    codes: np.ndarray
    labels: np.ndarray | None


def load_samples(folder: Path, entry: Entry, tensor: QTensor, limit: int | None) -> Samples:
    """The samples, as numbers and as the codes of the quantised model's input."""
    path = folder / entry.inputs
    if not path.is_file():
        raise FolderError(f"{entry.name} needs its inputs {entry.inputs!r}, which the folder does not hold")
    loaded = np.load(path, allow_pickle=False)
    raw = loaded[entry.key] if entry.key is not None else loaded
    shape = tensor.shape[1:]
    raw = raw.reshape(-1, *shape)[:limit]
    real_tensor = replace(tensor, dtype="float32")
    if entry.stored == "codes":
        codes = raw.astype(np.int8)
        real = dequantise(codes, real_tensor)
    else:
        real = raw.astype(np.float32) / np.float32(entry.divide)
        codes = quantise(real, real_tensor)
    labels = None
    if entry.labels is not None:
        named = loaded[entry.labels] if isinstance(entry.labels, str) else np.array(entry.labels)
        labels = named.astype(np.int64)[: len(raw)]
    return Samples(real=real, codes=codes, labels=labels)


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """Input and output of a quantised model; the output's scale and zero point where it is made of
    integers."""

    input: str
    output: str
    input_dtype: str
    scale: float | None
    zero_point: int

    def given(self, samples: Samples, index: int) -> np.ndarray:
        """One sample as the model takes it."""
        codes = samples.codes[index : index + 1]
        if self.input_dtype == "int8":
            return codes
        return (
            (codes.astype(np.int16) + 128).astype(np.uint8)
            if self.input_dtype == "uint8"
            else samples.real[index : index + 1]
        )

    def real(self, output: np.ndarray) -> np.ndarray:
        """One output as numbers."""
        return (
            output
            if self.scale is None
            else (output.astype(np.int32) - self.zero_point).astype(np.float32) * np.float32(self.scale)
        )


def boundary(model: onnx.ModelProto, name: str) -> Boundary:
    """The boundary of a model with one input and one output."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise FolderError(
            f"{name} has {len(inputs)} inputs and {len(model.graph.output)} outputs: only models with one "
            f"of each are measured"
        )
    output = model.graph.output[0].name
    producer = next(node for node in model.graph.node if output in node.output)
    scale = zero = None
    if producer.op_type == "QuantizeLinear":
        scale, zero = (constants[name].item() for name in producer.input[1:3])
    dtype = onnx.helper.tensor_dtype_to_np_dtype(inputs[0].type.tensor_type.elem_type).name
    return Boundary(input=inputs[0].name, output=output, input_dtype=dtype, scale=scale, zero_point=zero or 0)


# -- what gives the outputs
# ------------------------------------------------------------------------------------
def on_ort(path: Path, name: str, feeds: Iterable[np.ndarray]) -> list[np.ndarray]:
    """A model's one output, per sample, in ONNX Runtime without optimisations."""
    session = literal_session(str(path))
    return [session.run(None, {name: feed})[0] for feed in feeds]


def on_core(
    partition: Plan, arch: str, backend: str, name: str, feeds: Iterable[np.ndarray]
) -> list[np.ndarray]:
    """A model's one output, per sample, with its core's part on a backend."""
    if backend == "reference":
        return [next(iter(api.run_reference(partition, {name: feed}).outputs.values())) for feed in feeds]
    with api.Session(backend, api.compile(partition, arch)) as session:
        return [next(iter(session.run({name: feed}).outputs.values())) for feed in feeds]


def tflite_runtime():
    """TensorFlow Lite Micro's Python module; None where it is not installed."""
    try:
        from tflite_micro.python.tflite_micro import runtime
    except ImportError:
        return None
    return runtime


def on_tflite(path: Path, feeds: Iterable[np.ndarray]) -> list[np.ndarray] | None:
    """A .tflite model's one output, per sample; None without tflite-micro."""
    runtime = tflite_runtime()
    if runtime is None:
        return None
    interpreter = runtime.Interpreter.from_file(str(path))
    shape = interpreter.get_input_details(0)["shape"]
    outputs = []
    for feed in feeds:
        interpreter.set_input(np.ascontiguousarray(feed).reshape(shape), 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0).copy())
    return outputs


# -- comparisons
# -----------------------------------------------------------------------------------------------
def compare_layers(partition: Plan, samples: Iterable[dict[str, np.ndarray]]) -> list[dict]:
    """Per layer, over all samples: elements that equal ONNX Runtime's, and the furthest."""
    layers = [OrtLayers(onnx.load_model_from_string(part.core), part.graph) for part in partition.cores]
    found: dict[str, Counter] = {}
    for codes in samples:
        for layer in (layer for part in layers for layer in part.compare(codes)):
            counts = found.setdefault(layer.name, Counter(op=layer.op_type))
            counts["elements"] += layer.alone.size
            counts["ties"] += layer.ties
            for kind in ("alone", "chained"):
                difference = getattr(layer, kind)
                counts[f"{kind}_different"] += int(np.count_nonzero(difference))
                counts[f"{kind}_furthest"] = max(
                    counts[f"{kind}_furthest"], int(np.abs(difference).max(initial=0))
                )
    return [
        {
            "layer": name,
            **counts,
            "equal": 1 - (counts["alone_different"] - counts["ties"]) / counts["elements"],
            "chained_equal": 1 - counts["chained_different"] / counts["elements"],
        }
        for name, counts in found.items()
    ]


def worst(layers: list[dict]) -> tuple[dict, dict]:
    """The least equal layer on ONNX Runtime's operands, and the least equal one on our own."""
    return (
        min(layers, key=lambda layer: (layer["alone_furthest"] <= 1, layer["equal"])),
        min(layers, key=lambda layer: layer["chained_equal"]),
    )


def top1(outputs: list[np.ndarray]) -> np.ndarray:
    return np.array([output.argmax() for output in outputs])


def score(metric: str, outputs: list[np.ndarray], samples: Samples, which: Iterable[int]) -> float:
    """Share of right answers, or the mean square error of the reconstruction, of outputs as numbers."""
    which = list(which)
    if metric == "mse":
        return float(
            np.mean(
                [
                    np.mean((output.reshape(-1) - samples.real[i].reshape(-1)) ** 2)
                    for output, i in zip(outputs, which, strict=True)
                ]
            )
        )
    if samples.labels is None:
        raise FolderError("the metric top1 needs labels")
    return float(np.mean(top1(outputs) == samples.labels[which]))


def measure(
    folder: Path,
    entry: Entry,
    on: str = "machine",
    arch: str = "array8",
    limit: int | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict:
    """One model of the table: every comparison whose files the folder holds."""
    if entry.metric not in ("top1", "mse"):
        raise FolderError(f"{entry.name} has the metric {entry.metric!r}; choose top1 or mse")
    progress(f"{entry.name}: importing {entry.qdq}")
    path = folder / entry.qdq
    partition = api.import_model(path)
    ends = boundary(onnx.load(str(path)), entry.qdq)
    if ends.input not in partition.graph.inputs:
        raise FolderError(f"{entry.qdq}: the core does not read the model's input {ends.input!r} as it is")
    samples = load_samples(folder, entry, partition.graph.tensors[ends.input], limit)
    count = len(samples.codes)
    every = range(count)
    feeds = [ends.given(samples, index) for index in every]
    result = {
        "name": entry.name,
        "samples": count,
        "on": on,
        "arch": arch,
        "metric": entry.metric,
        "labels_are": entry.labels_are,
    }
    progress(f"{entry.name}: {count} samples in ONNX Runtime, layer by layer")
    result["layers"] = compare_layers(
        partition, ({ends.input: samples.codes[index : index + 1]} for index in every)
    )
    outputs = {"qdq_ort": on_ort(path, ends.input, feeds)}
    progress(f"{entry.name}: {count} samples on {on}")
    outputs["core"] = on_core(partition, arch, on, ends.input, feeds)
    if entry.tflite is not None and (folder / entry.tflite).is_file():
        progress(f"{entry.name}: {count} samples in TensorFlow Lite Micro")
        tflite = on_tflite(folder / entry.tflite, samples.codes)
        if tflite is not None:
            if tflite[0].dtype != outputs["core"][0].dtype:
                raise FolderError(
                    f"{entry.tflite} gives {tflite[0].dtype}, {entry.qdq} {outputs['core'][0].dtype}: give "
                    f"models with the same type of output"
                )
            outputs["tflite"] = tflite
            steps = [
                np.abs(a.astype(np.float64).reshape(-1) - b.reshape(-1))
                for a, b in zip(outputs["core"], tflite, strict=True)
            ]
            result["tflite_steps"] = {"mean": float(np.mean(steps)), "furthest": float(np.max(steps))}
    if entry.metric == "top1":
        answers = {name: top1(values) for name, values in outputs.items()}
        result["top1_agreement"] = {
            name: float(np.mean(answers["core"] == answers[name])) for name in answers if name != "core"
        }
    result["score"] = {
        name: score(entry.metric, [ends.real(value) for value in values], samples, every)
        for name, values in outputs.items()
    }
    if entry.float is not None and (folder / entry.float).is_file():
        progress(f"{entry.name}: {entry.float}, and what our calibration makes of it")
        result["score"]["float"], result["own"] = measure_float(
            folder / entry.float, entry, samples, on, arch
        )
    result["holds"] = (
        all(layer["equal"] >= LEAST_EQUAL and layer["alone_furthest"] <= 1 for layer in result["layers"])
        and result.get("top1_agreement", {}).get("qdq_ort", 1) >= LEAST_TOP1
    )
    return result


def measure_float(path: Path, entry: Entry, samples: Samples, on: str, arch: str) -> tuple[float, dict]:
    """Score of the float model on every sample; and on those that did not calibrate it, of the float model
    and of our int8 one."""
    ends = boundary(onnx.load(str(path)), path.name)
    axes = entry.float_axes or tuple(range(samples.real.ndim - 1))
    given = samples.real.transpose(0, *(axis + 1 for axis in axes))
    every = range(len(given))
    exact = on_ort(path, ends.input, [given[i : i + 1] for i in every])
    calibrating = [i for i in every if i % CALIBRATE_EVERY == 0]
    # A single sample has to do both.
    others = [i for i in every if i % CALIBRATE_EVERY] or list(every)
    partition = api.import_model(path, {ends.input: given[calibrating]})
    ours = on_core(partition, arch, on, ends.input, [given[i : i + 1] for i in others])
    own = {
        "calibration_samples": len(calibrating),
        "samples": len(others),
        "float": score(entry.metric, [exact[i] for i in others], samples, others),
        "int8": score(entry.metric, ours, samples, others),
    }
    return score(entry.metric, exact, samples, every), own


def measure_folder(folder: Path, table: Path = TABLE, **options) -> list[dict]:
    """Every model of the table whose quantised file the folder holds; `options` as of `measure`.

    Raises
    ------
    FolderError   If the folder holds none, or lacks a model's inputs.
    """
    known = entries(table)
    present = [entry for entry in known if (folder / entry.qdq).is_file()]
    if not present:
        raise FolderError(
            f"{str(folder)!r} holds none of {', '.join(dict.fromkeys(entry.qdq for entry in known))}"
        )
    return [measure(folder, entry, **options) for entry in present]


# -- tables
# ----------------------------------------------------------------------------------------------------
def agreement_row(result: dict) -> tuple[str, ...]:
    """Cells under `AGREEMENT`: of the layers, the worst."""
    alone, chained = worst(result["layers"])
    agreement, steps = result.get("top1_agreement", {}), result.get("tflite_steps")
    return (
        result["name"],
        f"{shortened(alone['layer'], 40)} ({alone['op']})",
        str(result["samples"]),
        f"{alone['equal']:.3%}",
        str(max(layer["alone_furthest"] for layer in result["layers"])),
        str(sum(layer["ties"] for layer in result["layers"])),
        f"{chained['chained_equal']:.2%}",
        str(max(layer["chained_furthest"] for layer in result["layers"])),
        *(f"{agreement[name]:.1%}" if name in agreement else "-" for name in ("qdq_ort", "tflite")),
        f"{steps['mean']:.3f} (up to {steps['furthest']:.0f})" if steps else "-",
        "yes" if result["holds"] else "NO",
    )


def accuracy_row(result: dict) -> tuple[str, ...]:
    """Cells under `ACCURACY`."""

    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.4g}" if result["metric"] == "mse" else f"{value:.1%}"

    own, metric = (
        result.get("own", {}),
        f"{result['metric']}: {result['labels_are']}" if result["labels_are"] else result["metric"],
    )
    return (
        result["name"],
        metric,
        str(result["samples"]),
        *(cell(result["score"].get(name)) for name in ("float", "qdq_ort", "core", "tflite")),
        str(own.get("samples", "-")),
        cell(own.get("float")),
        cell(own.get("int8")),
    )


def layer_row(layer: dict) -> tuple[str, ...]:
    """Cells under `LAYERS`."""
    return (
        layer["layer"],
        layer["op"],
        f"{layer['elements']:,}",
        f"{layer['equal']:.3%}",
        str(layer["alone_furthest"]),
        str(layer["ties"]),
        f"{layer['chained_equal']:.2%}",
        str(layer["chained_furthest"]),
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--on", choices=api.BACKENDS, default="machine")
    parser.add_argument("--arch", default="array8")
    parser.add_argument("--limit", type=int, default=None, help="samples per model; default: all")
    parser.add_argument(
        "--table", type=Path, default=TABLE, help="which files belong together; default: mlperf_tiny.json"
    )
    parser.add_argument("--layers", action="store_true", help="print every layer, too")
    parser.add_argument("--json", default=None)
    parser.add_argument("--record", action="store_true", help="write results/accuracy.json, for the docs")
    given = parser.parse_args(arguments)
    reporter = Reporter()
    try:
        with reporter.progress() as progress:
            results = measure_folder(
                given.folder, given.table, on=given.on, arch=given.arch, limit=given.limit, progress=progress
            )
    except (FolderError, api.ApiError) as error:
        print(f"accuracy.py: {error}", file=sys.stderr)
        return 2
    if given.layers:
        for result in results:
            reporter.table(result["name"], LAYERS, [layer_row(layer) for layer in result["layers"]])
    reporter.table(
        f"against ONNX Runtime, and TensorFlow Lite Micro; on {given.on}, {given.arch}",
        AGREEMENT,
        [agreement_row(result) for result in results],
    )
    reporter.table(
        "accuracy, and our own calibration on the samples that did not calibrate",
        ACCURACY,
        [accuracy_row(result) for result in results],
    )
    if tflite_runtime() is None:
        reporter.line(NO_TFLITE)
    write_json(given.json, {"results": results})
    if given.record:
        command = f"python benchmarks/accuracy.py FOLDER --on {given.on} --arch {given.arch} --record"
        record("accuracy", command, results, [f"core:{given.arch}", f"programs:{given.arch}"])
    return 0 if all(result["holds"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
