"""Figures of boards from the reports of their builds: a table, and a record for the docs.

    make bitstreams MODELS=FOLDER
    .venv/bin/python benchmarks/boards.py build/*.json [--record]

FOLDER has models of MLPerf Tiny, as NAME_int8_qdq.onnx; each board runs those of `MODELS` in simulation. A
report is what `systolith build --board NAME --json FILE` wrote.
"""

import argparse
import json
import sys
from pathlib import Path

from record import record

from systolith.boards.board import BOARDS
from systolith.report import Reporter

#: Models of MLPerf Tiny that each board runs: those that its memory holds; none on the Arty, whose clock is
#: not known, because nothing routes it here.
MODELS: dict[str, tuple[str, ...]] = {
    "icebreaker": ("kws",),
    "tang_nano_20k": ("kws", "vww", "ad", "sww"),
    "ulx3s_85f": ("kws", "resnet8", "vww", "ad", "sww"),
    "arty_a7_100t": (),
}
COLUMNS = ("board", "clock", "wanted", "resources", "models")


def core(name: str) -> str:
    """Size and kind of a board's core."""
    arch = BOARDS[name].arch
    return f"{arch.rows} x {arch.cols}{', compact' if arch.compact else ''}"


def build_options(board: str, folder: Path) -> list[str]:
    """What `systolith build` is told beside the board: its models in a folder."""
    return [word for name in MODELS[board] for word in ("--model", str(folder / f"{name}_int8_qdq.onnx"))]


def main(arguments: list[str] | None = None) -> int:
    """Print the table, or the options of a build."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reports", nargs="*", type=Path)
    parser.add_argument(
        "--options",
        nargs=2,
        metavar=("BOARD", "FOLDER"),
        help="print what `make bitstreams` adds to a build",
    )
    parser.add_argument("--record", action="store_true", help="write results/boards.json, for the docs")
    given = parser.parse_args(arguments)
    if given.options:
        board, folder = given.options
        print(*build_options(board, Path(folder)))
        return 0
    if not given.reports:
        parser.error("name the reports, as in build/*.json")
    reports = {}
    for path in given.reports:
        report = json.loads(path.read_text(encoding="utf-8"))
        kept = ("used", "clock_hz", "wanted_hz", "path_ns", "seed", "models")
        # Where a tool lay on this machine is nobody's business.
        tools = {
            name: {key: value for key, value in tool.items() if key != "path"}
            for name, tool in report["tools"].items()
        }
        chosen = {key: report[key] for key in kept}
        reports[report["board"]] = {"core": core(report["board"]), **chosen, "tools": tools}
    Reporter().table(
        "boards",
        COLUMNS,
        [
            (
                name,
                f"{report['clock_hz'] / 1e6:.1f} MHz" if report["clock_hz"] else "-",
                f"{report['wanted_hz'] / 1e6:g} MHz",
                ", ".join(f"{entry['used']:,} {kind}" for kind, entry in report["used"].items()),
                ", ".join(f"{entry['model']} {entry['cycles']:,}" for entry in report["models"]),
            )
            for name, report in reports.items()
        ],
    )
    if given.record:
        depends = [f"board:{name}" for name in reports]
        record("boards", "make bitstreams MODELS=FOLDER, then python benchmarks/boards.py", reports, depends)
    return 0


if __name__ == "__main__":
    sys.exit(main())
