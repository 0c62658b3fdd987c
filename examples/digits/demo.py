"""The demo: calibrate, compile and run the digits CNN on reference, machine and RTL.

    .venv/bin/python examples/digits/demo.py [--arch NAME_OR_TOML] [--rtl-seconds S] [--limit N] [--json FILE]

Runs every test digit on the reference and the machine, and as many as fit into the given time on the RTL.
Nothing is precomputed. Exit status 1 if a single bit differs anywhere.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from systolith import api
from systolith.compiler.base.errors import CompileError
from systolith.host.device import DeviceError
from systolith.report import LAYER_COLUMNS, Reporter, layer_rows, write_json
from systolith.sim.verilator import SimulationError
from systolith.spec.arch import ArchError, load_arch

sys.path.insert(0, str(Path(__file__).parent))
from data import load_split

MODEL = Path(__file__).with_name("digits_cnn.onnx")
#: Training digits that calibration sees.
CALIBRATION = 256
#: Plain progress lines come this many seconds apart at least.
PLAIN_INTERVAL = 10.0


class Bar:
    """Progress of one backend: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.done, self.last = name, total, 0, time.monotonic()
        console = Console(stderr=True)
        self.progress = (
            Progress(
                TextColumn(f"{name:9s}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=console,
            )
            if console.is_terminal
            else None
        )

    def __enter__(self) -> "Bar":
        if self.progress is not None:
            self.progress.start()
            self.task = self.progress.add_task(self.name, total=self.total)
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress is not None:
            self.progress.stop()

    def advance(self) -> None:
        """One digit is done."""
        self.done += 1
        if self.progress is not None:
            self.progress.advance(self.task)
        elif time.monotonic() - self.last > PLAIN_INTERVAL:
            self.last = time.monotonic()
            print(f"{self.name}: {self.done}/{self.total}", flush=True)


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="array8", help="preset or TOML file")
    parser.add_argument(
        "--rtl-seconds", type=float, default=60.0, help="time for digits on the RTL (at least one runs)"
    )
    parser.add_argument("--limit", type=int, default=None, help="number of test digits")
    parser.add_argument("--json", default=None, help="write the numbers as JSON")
    arguments = parser.parse_args()
    reporter = Reporter()

    arch = load_arch(arguments.arch)
    (train_images, _), (images, labels) = load_split()
    images, labels = images[: arguments.limit], labels[: arguments.limit]
    samples = train_images[:CALIBRATION]

    reporter.line(
        f"calibrating {MODEL.name} on {len(samples)} training digits, compiling for {arch.name} "
        f"({arch.rows} x {arch.cols})"
    )
    # Samples are stacked on a new first axis: each is one input of the model, 1 x 1 x 8 x 8.
    graph = api.import_graph(MODEL, {"image": samples[:, None]})
    image = api.compile(graph, arch)
    info = api.describe(image, image.cycles)
    name_in, name_out = graph.inputs[0], graph.outputs[0]

    session = onnxruntime.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])
    float_answers = np.array([session.run([name_out], {name_in: x[None]})[0].argmax() for x in images])

    raw: dict[str, list[np.ndarray]] = {}
    answers: dict[str, list[int]] = {}
    seconds: dict[str, float] = {}
    cycles: dict[str, list[int]] = {}

    def measure(backend: str, infer, budget: float | None = None) -> None:
        """Run digits until they end or the time is up."""
        raw[backend], answers[backend], cycles[backend] = [], [], []
        begin = time.monotonic()
        with Bar(backend, len(images)) as bar:
            for x in images:
                result = infer({name_in: x[None]})
                raw[backend].append(result.raw[name_out])
                answers[backend].append(int(result.outputs[name_out].argmax()))
                cycles[backend].append(result.cycles)
                bar.advance()
                if budget is not None and time.monotonic() - begin > budget:
                    break
        seconds[backend] = time.monotonic() - begin
        reporter.line(f"{backend}: {len(raw[backend])} digits in {seconds[backend]:.1f} s")

    measure("reference", lambda arrays: api.run_reference(graph, arrays))
    with api.Session("machine", image) as machine:
        measure("machine", machine.run)
    reporter.line("preparing rtl (the first time, its Verilator model is built)")
    with api.Session("rtl", image) as rtl:
        load_cycles = rtl.load_cycles
        measure("rtl", rtl.run, arguments.rtl_seconds)

    wrong = {}
    for backend in ("machine", "rtl"):
        wrong[backend] = sum(
            not np.array_equal(a, b) for a, b in zip(raw["reference"], raw[backend], strict=False)
        )
    rtl_cycles = max(cycles["rtl"])

    info = api.describe(image, rtl_cycles)
    reporter.table(
        f"{info['model']} on {info['arch']}, cycle model", LAYER_COLUMNS, layer_rows(info["layers"])
    )
    done = len(raw["rtl"])
    rows = []
    for title, chosen in (
        ("float (ONNX Runtime)", float_answers),
        ("int8 reference", answers["reference"]),
        ("machine", answers["machine"]),
        ("RTL", answers["rtl"]),
    ):
        hits = np.asarray(chosen) == labels[: len(chosen)]
        rows.append((title, f"{hits.mean():.2%}", f"{len(hits)}", f"{hits[:done].mean():.2%}"))
    reporter.table("accuracy", ("level", "accuracy", "digits", f"on the first {done}"), rows, left=1)
    for backend, count in wrong.items():
        total = len(raw[backend])
        reporter.line(
            f"{backend} = reference: "
            + (f"every bit of {total} results" if not count else f"NO, {count} of {total} results differ")
        )
    reporter.line(
        f"RTL: {rtl_cycles:,} cycles per digit (estimated {image.cycles:,}), {load_cycles:,} to load once, "
        f"{info['macs']:,} MACs, {info['utilisation']:.1%} of {info['peak_macs_per_cycle']} MACs a cycle, "
        f"roofline {info['roofline_cycles']:,}"
    )
    write_json(
        arguments.json,
        {
            **info,
            "load_cycles": load_cycles,
            "seconds": seconds,
            "digits": {name: len(values) for name, values in raw.items()},
            "different": wrong,
            "accuracy": {row[0]: row[1] for row in rows},
        },
    )
    return 1 if any(wrong.values()) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ArchError, CompileError, DeviceError, SimulationError) as error:
        sys.exit(f"demo: {error}")
