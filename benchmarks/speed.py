"""Speed of the simulation: the native harness beside the bare Verilator model, and what a build costs.

    .venv/bin/python benchmarks/speed.py [--arch A]... [--seconds S] [--builds] [--json FILE]
    [--record]

`bare` evaluates the model in a C++ loop with all inputs frozen: no memory, no bus, no Python. `harness` runs
inferences of the digits CNN, with external memory, protocol checks and CSR polling. `--builds` also times a
build from nothing. Processor time is counted, not wall time, so that other jobs on the machine matter less.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from record import record

from systolith import api
from systolith.hw.build import generate
from systolith.report import Reporter, write_json
from systolith.session import Session
from systolith.sim.native import RtlDevice
from systolith.spec.arch import load_arch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples" / "digits"))
from data import load_split

MODEL = Path(__file__).resolve().parent.parent / "examples" / "digits" / "digits_cnn.onnx"
COLUMNS = (
    "arch",
    "bare, cycles/s",
    "harness, cycles/s",
    "bare / harness",
    "Verilog, s",
    "verilate and compile, s",
)


def rate(step, seconds: float) -> float:
    """Cycles per second of processor time; ``step()`` runs some cycles and returns how many."""
    step()
    cycles, begin = 0, time.process_time()
    while (spent := time.process_time() - begin) < seconds:
        cycles += step()
    return cycles / spent


def measure(arch: str, seconds: float, builds: bool, images: np.ndarray) -> dict:
    """All figures of one architecture."""
    config = load_arch(arch)
    image = api.compile(MODEL, config, {"image": images[:256, None]})
    result = {"arch": config.name}
    with Session("rtl", image) as session:
        inputs = {"image": images[:1, None].reshape(1, 1, 8, 8)}

        def infer() -> int:
            return session.run(inputs).cycles

        result["harness_cycles_per_second"] = rate(infer, seconds)
    with RtlDevice(config) as device:

        def spin() -> int:
            device.spin(20_000)
            return 20_000

        result["bare_cycles_per_second"] = rate(spin, seconds)
    result["factor"] = result["bare_cycles_per_second"] / result["harness_cycles_per_second"]
    if builds:
        with tempfile.TemporaryDirectory() as directory:
            begin = time.monotonic()
            generate(config, cache_dir=Path(directory))
            result["verilog_seconds"] = time.monotonic() - begin
            begin = time.monotonic()
            RtlDevice(config, cache_dir=Path(directory)).close()
            result["build_seconds"] = time.monotonic() - begin
    return result


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", action="append", help="may be repeated; default: array8 and array16")
    parser.add_argument("--seconds", type=float, default=3.0, help="processor time of each measurement")
    parser.add_argument("--builds", action="store_true", help="time builds from nothing, too")
    parser.add_argument("--json", default=None)
    parser.add_argument("--record", action="store_true", help="write results/speed.json, for the docs")
    arguments = parser.parse_args()
    reporter = Reporter()
    (images, _), _ = load_split()
    results = []
    with reporter.progress() as progress:
        for arch in arguments.arch or ["array8", "array16"]:
            progress(f"measuring {arch}")
            results.append(measure(arch, arguments.seconds, arguments.builds, images))
    reporter.table(
        "simulation speed",
        COLUMNS,
        [
            (
                info["arch"],
                f"{info['bare_cycles_per_second']:,.0f}",
                f"{info['harness_cycles_per_second']:,.0f}",
                f"{info['factor']:.2f}",
                f"{info['verilog_seconds']:.1f}" if "verilog_seconds" in info else "-",
                f"{info['build_seconds']:.1f}" if "build_seconds" in info else "-",
            )
            for info in results
        ],
        left=1,
    )
    write_json(arguments.json, {"results": results})
    if arguments.record:
        kept = {info["arch"]: info for info in results}
        command = f"python benchmarks/speed.py{' --builds' if arguments.builds else ''} --record"
        record("speed", command, kept, ["core:array8", "core:array16"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
