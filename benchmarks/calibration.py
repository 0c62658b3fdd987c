"""Distance of our int8 models' outputs from the float ones, by the share of the calibration data that int8
covers.

    .venv/bin/python benchmarks/calibration.py FOLDER [--limit N] [--json FILE] [--record]

FOLDER is that of `accuracy.py`. Every second sample calibrates, the others measure, on the reference: the RTL
gives the same bits.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx
from accuracy import (
    CALIBRATE_EVERY,
    TABLE,
    Entry,
    FolderError,
    boundary,
    entries,
    load_samples,
    on_core,
    on_ort,
    top1,
)
from record import record

from systolith import api
from systolith.report import Reporter, write_json

#: Percentiles of the values, tensor by tensor; 100 is the default.
SHARES = (100.0, 99.999, 99.99, 99.9)
#: Samples below which a model says nothing.
LEAST_SAMPLES = 10
COLUMNS = ("model", "calibration", "samples", "distance from float", "answers as float")


def measure(folder: Path, entry: Entry, limit: int | None) -> list[dict]:
    """Root mean square distance from the float model, and share of equal answers, for each choice.

    The last choice is the published int8 model. Empty where there are fewer than LEAST_SAMPLES samples.
    """
    quantised, path = folder / entry.qdq, folder / entry.float
    published, ends = boundary(onnx.load(quantised), entry.qdq), boundary(onnx.load(path), entry.float)
    tensor = api.import_model(quantised).graph.tensors[published.input]
    samples = load_samples(folder, entry, tensor, limit)
    axes = entry.float_axes or tuple(range(samples.real.ndim - 1))
    given = samples.real.transpose(0, *(axis + 1 for axis in axes))
    if len(given) < LEAST_SAMPLES:
        return []
    others = [index for index in range(len(given)) if index % CALIBRATE_EVERY]
    exact = on_ort(path, ends.input, [given[i : i + 1] for i in others])
    found = []
    for share in SHARES:
        partition = api.import_model(path, {ends.input: given[::CALIBRATE_EVERY]}, percentile=share)
        ours = on_core(partition, "array8", "reference", ends.input, [given[i : i + 1] for i in others])
        found.append((f"{share:g}th percentile" if share < 100 else "least and greatest value", ours))
    codes = on_ort(quantised, published.input, [published.given(samples, i) for i in others])
    found.append(("the published int8 model", [published.real(value) for value in codes]))
    return [
        {
            "model": entry.name,
            "choice": choice,
            "samples": len(others),
            "distance": float(np.sqrt(np.mean((np.stack(ours).ravel() - np.stack(exact).ravel()) ** 2))),
            "same_answers": float(np.mean(top1(ours) == top1(exact))) if entry.metric == "top1" else None,
        }
        for choice, ours in found
    ]


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, default=None, help="samples per model; default: all")
    parser.add_argument("--table", type=Path, default=TABLE, help="which files belong together")
    parser.add_argument("--json", default=None)
    parser.add_argument("--record", action="store_true", help="write results/calibration.json, for the docs")
    given = parser.parse_args(arguments)
    reporter, results = Reporter(), []
    try:
        for entry in entries(given.table):
            if (
                entry.float
                and (given.folder / entry.qdq).is_file()
                and (given.folder / entry.float).is_file()
            ):
                with reporter.progress() as progress:
                    progress(f"measuring {entry.name}")
                    results += measure(given.folder, entry, given.limit)
    except (FolderError, api.ApiError) as error:
        print(f"calibration.py: {error}", file=sys.stderr)
        return 2
    reporter.table("distance of our int8 models from float", COLUMNS, [row(info) for info in results], left=2)
    write_json(given.json, {"results": results})
    if given.record:
        record(
            "calibration", "python benchmarks/calibration.py FOLDER --record", results, ["programs:array8"]
        )
    return 0


def row(info: dict) -> tuple[str, ...]:
    """Cells of one measurement."""
    same = "-" if info["same_answers"] is None else f"{info['same_answers']:.0%}"
    return info["model"], info["choice"], str(info["samples"]), f"{info['distance']:.4f}", same


if __name__ == "__main__":
    sys.exit(main())
