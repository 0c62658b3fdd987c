"""The command `build`: a board's bitstream, and what it is good for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from systolith.cli.options import EXIT_REFUSED, json_option, tools_option
from systolith.report import Reporter, reporter_for, write_json
from systolith.tooling.tools import describe

if TYPE_CHECKING:
    from systolith.boards.board import Board
    from systolith.boards.report import BuildReport
from systolith.spec.outputs import check_folder, check_outputs

__all__ = ["build"]


@click.command()
@click.option("--board", "name", required=True, metavar="NAME", help="Which board.")
@click.option("--out", metavar="DIR", help="Where the files go; default: build/NAME.")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="MODEL.onnx",
    help="Run it on the board in simulation, and say how often per second the board would; may be given "
    "more than once.",
)
@click.option("--calib", metavar="DATA.npz", help="Calibration data, where a model is in float.")
@click.option(
    "--seed", type=int, help="Seed of the placement; default: one with which the board reaches its clock."
)
@tools_option
@json_option
@click.pass_context
def build(
    context: click.Context,
    name: str,
    out: str | None,
    models: tuple[str, ...],
    calib: str | None,
    seed: int | None,
    json_path: str | None,
) -> None:
    """Build the bitstream of a board with open tools, and report resources, clock and critical path."""
    from systolith.boards.build import build_board
    from systolith.device_port import find_board

    board = find_board(name, "--board")
    folder = Path(out) if out is not None else Path("build") / name
    check_folder("the build", folder)
    check_outputs({"--json": json_path}, inputs=(*models, calib))
    reporter = reporter_for(json_path)
    with reporter.progress() as progress:
        # What is wrong with a model is said before the minutes of a build.
        cycles = {Path(model).stem: _cycles(model, board, calib, progress) for model in models}
        report = build_board(board, folder, seed=seed, models=cycles, progress=progress)
    _print(reporter, board, report, folder)
    write_json(json_path, report.as_dict())
    if report.excess:
        click.echo(
            f"systolith: the design does not fit {board.title}: it needs more {' and '.join(report.excess)} "
            f"than {report.part} has; give the board a smaller architecture",
            err=True,
        )
        context.exit(EXIT_REFUSED)
    if not report.reaches_clock:
        click.echo(
            f"systolith: the design reaches {report.clock_hz / 1e6:.1f} MHz on {board.title}, not the "
            f"{board.clock_hz / 1e6:g} MHz of its clock, so there is no "
            "bitstream: try another --seed",
            err=True,
        )
        context.exit(EXIT_REFUSED)


def _cycles(model: str, board: Board, calib: str | None, progress) -> int:
    """Cycles of one inference on the board in simulation, memory included."""
    from systolith import api
    from systolith.spec.memory import MemoryTiming

    memory = MemoryTiming(bytes_per_cycle=board.memory_bytes_per_cycle)
    partition = api.import_model(model, calib)
    image = api.compile(partition, board.arch, memory=memory, progress=progress)
    arrays = api.random_inputs(partition, 0)
    return api.run(image, arrays, on="board", port=f"sim:{board.name}", progress=progress).cycles


def _print(reporter: Reporter, board: Board, report: BuildReport, folder: Path) -> None:
    reporter.table(
        f"{board.title}, {report.part}",
        ("resource", "used", "of", "share"),
        [
            (
                label,
                f"{used:,}",
                "-" if available is None else f"{available:,}",
                "-" if not available else f"{used / available:.0%}",
            )
            for label, (used, available) in report.used.items()
        ],
        left=1,
    )
    if report.clock_hz is not None:
        reporter.line(f"{report.clock_hz / 1e6:.1f} MHz reached, {report.wanted_hz / 1e6:g} MHz wanted")
        reporter.table(
            "critical path",
            ("kind", "ns", "net"),
            [(step.kind, f"{step.delay:.2f}", step.name) for step in report.path],
            left=1,
        )
    if report.models:
        reporter.table(
            f"models at {report.wanted_hz / 1e6:g} MHz",
            ("model", "cycles", "inferences/s"),
            [
                (entry["model"], f"{entry['cycles']:,}", f"{entry['inferences_per_second']:,}")
                for entry in report.models
            ],
            left=1,
        )
    reporter.line(f"tools: {describe(report.tools)}")
    if report.bitstream:
        reporter.line(
            f"wrote {report.bitstream}, built in {report.seconds:.0f} s; it has not run on a board here"
        )
    elif report.clock_hz is None:
        reporter.line(
            f"wrote a Vivado project to {folder}: bash build_{board.name}.sh runs it where Vivado is "
            f"installed; it was not run here"
        )
