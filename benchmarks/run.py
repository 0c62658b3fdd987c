"""Cycles and utilisation of models: a table, and JSON for comparing revisions.

    .venv/bin/python benchmarks/run.py [MODEL.onnx ...] [--arch A]... [--on machine,rtl] [--json FILE]

Without models it measures the digits CNN of the examples. Every figure is the run of this moment; a model
whose levels differ is reported as such and fails the benchmark.
"""

import argparse
import sys
from pathlib import Path

from systolith import api
from systolith.report import Reporter, write_json

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
COLUMNS = (
    "model",
    "arch",
    "bits",
    "MACs",
    "cycles",
    "estimate",
    "roofline",
    "of peak",
    "load cycles",
    "RTL cycles/s",
)


def default_models() -> list[tuple[Path, dict | None]]:
    """Models of the examples, with calibration data where they are float."""
    sys.path.insert(0, str(EXAMPLES / "digits"))
    from train import load_split

    (images, _), _ = load_split()
    return [(EXAMPLES / "digits" / "digits_cnn.onnx", {"image": images[:256, None]})]


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--arch", action="append", help="may be repeated; default: array8 and array16")
    parser.add_argument("--on", default="machine,rtl")
    parser.add_argument("--json", default=None)
    arguments = parser.parse_args()
    reporter = Reporter()
    backends = tuple(arguments.on.split(","))
    models = [(path, None) for path in arguments.models] or default_models()
    rows, results = [], []
    for path, calib in models:
        for arch in arguments.arch or ["array8", "array16"]:
            with reporter.progress() as progress:
                result = api.verify(path, arch, on=backends, calib=calib, locate=False, progress=progress)
            info = result.as_dict()
            rtl = info["backends"].get("rtl", {})
            rows.append(
                (
                    info["model"],
                    info["arch"],
                    "equal" if info["bit_exact"] else "DIFFER",
                    f"{info['macs']:,}",
                    f"{info['cycles']:,}",
                    f"{info['estimated_cycles']:,}",
                    f"{info['roofline_cycles']:,}",
                    f"{info['utilisation']:.1%}",
                    f"{info['load_cycles']:,}",
                    f"{rtl['cycles_per_second']:,.0f}" if "cycles_per_second" in rtl else "-",
                )
            )
            results.append(info)
    reporter.table("benchmark", COLUMNS, rows, left=3)
    write_json(arguments.json, {"results": results})
    return 0 if all(info["bit_exact"] for info in results) else 1


if __name__ == "__main__":
    sys.exit(main())
