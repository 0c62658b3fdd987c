"""Two trained recurrent networks on float, reference, machine and RTL: accuracy, bit equality, cycles.

    .venv/bin/python examples/recurrent_digits/demo.py [--arch NAME_OR_TOML] [--limit N] [--json FILE]

Every test digit runs on every level. Nothing is precomputed. Exit status 1 if a single bit differs anywhere.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from systolith import api
from systolith.compiler.base.errors import CompileError
from systolith.host.device import DeviceError
from systolith.report import Reporter, write_json
from systolith.sim.verilator import SimulationError
from systolith.spec.arch import ArchError

sys.path.insert(0, str(Path(__file__).parent))
from train_recurrent import NETWORKS, load_split

#: Training digits that calibration sees.
CALIBRATION = 256


def evaluate(name: str, arch: str, limit: int | None, progress) -> dict:
    """Answers and raw results of one network on all levels."""
    path, shape = Path(__file__).with_name(f"{name}.onnx"), NETWORKS[name].shape
    (train_images, _), (images, labels) = load_split()
    images, labels = images[:limit].reshape(-1, *shape), labels[:limit]
    partition = api.import_model(path, {"image": train_images[:CALIBRATION].reshape(-1, *shape)})
    image = api.compile(partition, arch)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    answers = {"float": [session.run(None, {"image": x})[0].argmax() for x in images]}
    results = {"reference": [api.run_reference(partition, {"image": x}) for x in images]}
    for backend in ("machine", "rtl"):
        progress(f"{name} on {backend}")
        with api.Session(backend, image) as device:
            results[backend] = [device.run({"image": x}) for x in images]
    answers.update(
        (level, [result.outputs["logits"].argmax() for result in values]) for level, values in results.items()
    )
    different = sum(
        not np.array_equal(right.raw[key], got.raw[key])
        for level in ("machine", "rtl")
        for right, got in zip(results["reference"], results[level], strict=True)
        for key in right.raw
    )
    return {
        "model": name,
        "arch": image.arch.name,
        "digits": len(labels),
        "different": different,
        "cycles": max(result.cycles for result in results["rtl"]),
        "estimated_cycles": image.cycles,
        "macs": sum(layer.macs for layer in image.layers),
        "accuracy": {level: float(np.mean(np.array(values) == labels)) for level, values in answers.items()},
    }


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="array8", help="preset or TOML file")
    parser.add_argument("--limit", type=int, default=None, help="number of test digits")
    parser.add_argument("--json", default=None, help="write the numbers as JSON")
    arguments = parser.parse_args()
    reporter = Reporter()
    with reporter.progress() as progress:
        results = [evaluate(name, arguments.arch, arguments.limit, progress) for name in NETWORKS]
    reporter.table(
        "accuracy, and cycles of one digit in RTL",
        (
            "model",
            "arch",
            "digits",
            "float",
            "int8 reference",
            "machine",
            "RTL",
            "bits",
            "MACs",
            "RTL cycles",
            "estimated",
        ),
        [
            (
                info["model"],
                info["arch"],
                str(info["digits"]),
                *(f"{value:.2%}" for value in info["accuracy"].values()),
                "DIFFER" if info["different"] else "equal",
                f"{info['macs']:,}",
                f"{info['cycles']:,}",
                f"{info['estimated_cycles']:,}",
            )
            for info in results
        ],
    )
    write_json(arguments.json, {"results": results})
    return 1 if any(info["different"] for info in results) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ArchError, CompileError, DeviceError, SimulationError) as error:
        sys.exit(f"demo: {error}")
