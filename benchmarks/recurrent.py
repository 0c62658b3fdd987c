"""Cycles of recurrent layers on RTL: a table, and JSON for comparing revisions.

    .venv/bin/python benchmarks/recurrent.py [--arch A]... [--units H] [--inputs I] [--steps T] [--json FILE]
    [--record]

One layer of each kind with random int8 weights. `step` is the time from the last cell of one step to that of
the next, the input's share of all steps being computed before; `product` is what the array needs for it
alone: the tiles of the state's share (of a GRU also those of its new gate's input) times the cycles in which
a tile is read. `frame` is a program of one step, with the input's share, transfers of input and result, and
the layer's state coming from memory and going back. `sequence` is the program of all steps; its roofline is
MACs / (R * C) or the bytes over the bus. Without `--arch`: the presets with the array of 16 x 16 and 8 x 8,
each with a weight port of a whole tile and of one row.
"""

import argparse
import dataclasses
import sys

import numpy as np
from networks import layer
from record import record

from systolith import api
from systolith.evidence.profile import step_cycles
from systolith.reference.plan import Plan
from systolith.report import Reporter, write_json
from systolith.session import Session
from systolith.spec.arch import PRESETS, ArchConfig, load_arch
from systolith.spec.isa import Cell

#: What the figures hold for.
CURRENT = ["core:array8", "core:array16", "programs:array8", "programs:array16"]
KEPT = (
    "model",
    "arch",
    "weight_rows_per_cycle",
    "bit_exact",
    "product_cycles",
    "step_cycles",
    "frame_cycles",
    "cycles",
    "estimated_cycles",
    "roofline_cycles",
    "utilisation",
)
COLUMNS = (
    "layer",
    "arch",
    "weight rows / cycle",
    "bits",
    "product",
    "step",
    "beyond",
    "frame",
    "sequence",
    "estimated",
    "roofline",
    "of peak",
)


def product(kind: Cell, arch: ArchConfig, inputs: int, units: int) -> int:
    """Cycles of the array for one step: three gates of a GRU see the state, and one the input alone."""
    of_state, of_input = (4, 0) if kind is Cell.LSTM else (3, 1) if kind is Cell.GRU else (1, 0)
    tiles = -(-units // arch.cols) * (of_state * -(-units // arch.rows) + of_input * -(-inputs // arch.rows))
    return tiles * arch.weight_load_cycles


def measure(kind: Cell, arch: ArchConfig, steps: int, inputs: int, units: int) -> dict:
    """One layer on one core."""
    graph = layer(kind, steps, inputs, units)
    x = np.random.default_rng(1).integers(-128, 128, (steps, 1, inputs)).astype(np.int8)
    image = api.compile(graph, arch)
    with Session("rtl", image) as session:
        result = session.run({"x": x})
        every = step_cycles(image, session.ends[0])
    expected = graph.run({"x": x})["y"]
    frame = api.compile(Plan.of(layer(kind, 1, inputs, units)), arch, streaming=True)
    with Session("rtl", frame) as session:
        frames = [session.run({"x": x[t : t + 1]}) for t in range(steps)]
    info = api.describe(image, result.cycles)
    equal = np.array_equal(result.raw["y"], expected) and all(
        np.array_equal(got.raw["y"][0], right) for got, right in zip(frames, expected, strict=True)
    )
    return {
        **info,
        "model": graph.name,
        "weight_rows_per_cycle": arch.weight_rows_per_cycle,
        "bit_exact": equal,
        "product_cycles": product(kind, arch, inputs, units),
        "step_cycles": max(every, default=0),
        "frame_cycles": max(got.cycles for got in frames),
        "estimated_cycles": image.cycles,
    }


def row(info: dict) -> tuple[str, ...]:
    """Cells of one measurement."""
    return (
        info["model"],
        info["arch"],
        str(info["weight_rows_per_cycle"]),
        "equal" if info["bit_exact"] else "DIFFER",
        f"{info['product_cycles']:,}",
        f"{info['step_cycles']:,}",
        f"{info['step_cycles'] - info['product_cycles']:,}",
        f"{info['frame_cycles']:,}",
        f"{info['cycles']:,}",
        f"{info['estimated_cycles']:,}",
        f"{info['roofline_cycles']:,}",
        f"{info['utilisation']:.1%}",
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", action="append", help="preset or TOML file; may be repeated")
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--inputs", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8, help="at least 2")
    parser.add_argument("--json", default=None)
    parser.add_argument("--record", action="store_true", help="write results/recurrent.json, for the docs")
    given = parser.parse_args(arguments)
    if min(given.units, given.inputs) < 1 or given.steps < 2:
        parser.error("--units and --inputs must be at least 1, --steps at least 2")
    archs = (
        [load_arch(arch) for arch in given.arch]
        if given.arch
        else [
            arch
            for preset in ("array16", "array8")
            for arch in (PRESETS[preset], dataclasses.replace(PRESETS[preset], weight_rows_per_cycle=1))
        ]
    )
    reporter = Reporter()
    results = []
    with reporter.progress() as progress:
        for arch in archs:
            for kind in Cell:
                progress(f"measuring {kind.name} on {arch.name}")
                results.append(measure(kind, arch, given.steps, given.inputs, given.units))
    reporter.table(
        f"recurrent layers on RTL, {given.steps} steps", COLUMNS, [row(info) for info in results], left=4
    )
    write_json(given.json, {"results": results})
    if given.record:
        kept = [{key: info[key] for key in KEPT} for info in results]
        record("recurrent", "python benchmarks/recurrent.py --record", kept, CURRENT)
    return 0 if all(info["bit_exact"] for info in results) else 1


if __name__ == "__main__":
    sys.exit(main())
