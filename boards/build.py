"""A board's bitstream: Verilog of the system, a top with clocks and pins, synthesis, placement, routing,
packing."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from systolith.boards.board import Board
from systolith.boards.report import BuildReport, from_nextpnr, from_yosys
from systolith.boards.tools import environment, flow_tools
from systolith.hw.build import VerilogFiles
from systolith.hw.soc.system import generate_system
from systolith.spec.errors import SystolithError
from systolith.tooling.process import ToolError, child

__all__ = ["BitstreamError", "build_board", "placement_script"]

Progress = Callable[[str], None]
#: What nextpnr and yosys are asked for beyond Amaranth's defaults, per flow.
_OPTIONS = {
    # For the ULX3S's core the default placer's result has more wire, and the default router came to no end;
    # the last option has router2 keep to the clock.
    "ecp5": {
        "nextpnr_opts": "--report {name}.report.json --timing-allow-fail --seed {seed} --placer static "
        "--router router2 --tmg-ripup",
        "ecppack_opts": "--compress",
    },
    "ice40": {
        "nextpnr_opts": "--report {name}.report.json --timing-allow-fail --seed {seed}",
        "synth_opts": "-no-rw-check",
    },
    # nextpnr-himbaechel does not carry the oscillator's constraint through the PLL.
    "gowin": {"nextpnr_opts": "--report {name}.report.json --timing-allow-fail --seed {seed} --freq {mhz:g}"},
}
_BITSTREAM = {"ecp5": ".bit", "ice40": ".bin", "gowin": ".fs"}
#: What Amaranth calls the synthesised netlist.
_NETLIST = {"ecp5": ".json", "ice40": ".json", "gowin": ".syn.json"}
#: What the tools print, and the suffixes of what they log.
_LOG, _LOGS = "build.log", (".tim", ".rpt")
#: How often a running tool is looked at, in seconds.
_POLL = 0.5


class BitstreamError(SystolithError):
    """A design that a tool refuses; one sentence."""


def build_board(
    board: Board,
    out: Path,
    *,
    seed: int | None = None,
    models: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Build a board's bitstream, with the report and all that the tools write beside it.

    The tools run in an empty folder inside `out`, from which the files are moved when all are done; where the
    build fails, only the logs. A design that does not reach the board's clock leaves no bitstream.

    Parameters
    ----------
    out : path      made where it is missing
    seed : int      of nextpnr's placement; None: the board's own
    models : dict   see `BuildReport.with_models`

    Raises
    ------
    ToolError        If a tool or package is missing.
    BitstreamError   If a tool fails, or `out` cannot be written.
    """
    tell = progress or (lambda text: None)
    seed = board.seed if seed is None else seed
    tools = flow_tools(board.part.flow)
    try:
        top = board.top()
    except ModuleNotFoundError as error:
        raise ToolError(
            f"the package {error.name!r} was not found: pip install 'systolith[boards]' brings it from PyPI"
        ) from error
    with _working_folder(out) as work:
        tell(f"generating the system for {board.title}")
        files = generate_system(
            board.arch,
            board.memory,
            divisor=board.divisor,
            pin_cycles=board.pin_cycles,
            device=board.part.name,
        )
        options = {
            key: value.format(name=board.name, seed=seed, mhz=board.clock_hz / 1e6)
            for key, value in _OPTIONS.get(board.part.flow, {}).items()
        }
        design = top.Top(board, files)
        if sites := design.sites():
            options["script_after_synth"] = placement_script(sites)
        plan = top.Platform().build(design, name=board.name, do_build=False, debug_verilog=False, **options)
        plan.extract(str(work))
        begin = time.monotonic()
        report = _run_flow(board, files, work, tell)
        report = report.with_build(
            seconds=time.monotonic() - begin,
            seed=seed,
            tools={name: tool.as_dict() for name, tool in tools.items()},
        ).with_models(models or {})
        name = f"{board.name}{_BITSTREAM.get(board.part.flow, '.none')}"
        if not report.reaches_clock:
            (work / name).unlink(missing_ok=True)
        elif (work / name).is_file():
            report = report.with_bitstream(out / name)
        (work / "report.json").write_text(json.dumps(report.as_dict(), indent=1) + "\n", encoding="utf-8")
        # A bitstream of an earlier build would stand beside the report of this one.
        (out / name).unlink(missing_ok=True)
        for path in [path for path in work.iterdir() if path.is_file()]:
            os.replace(path, out / path.name)
    return report


@contextlib.contextmanager
def _working_folder(out: Path) -> Iterator[Path]:
    """An empty folder inside `out`, removed at the end; the logs are moved to `out`.

    Raises
    ------
    BitstreamError   If `out` cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=out, ignore_cleanup_errors=True) as folder:
            work = Path(folder).absolute()
            try:
                yield work
            finally:
                for path in [path for path in work.iterdir() if path.name == _LOG or path.suffix in _LOGS]:
                    os.replace(path, out / path.name)
    except OSError as error:
        raise BitstreamError(
            f"cannot write to {str(out)!r}: {error.strerror or error}; give another folder with --out"
        ) from error


def _run_flow(board: Board, files: VerilogFiles, work: Path, tell: Progress) -> BuildReport:
    """Run the tools; what they report."""
    flow = board.part.flow
    env = environment(flow, work)
    if flow == "xilinx":
        tell(
            "synthesising with yosys, for the resources; Vivado makes the bitstream from the project in "
            + str(work.parent)
        )
        command = [env["YOSYS"], "-q", "-l", f"{board.name}.rpt", "-p", _xilinx_script(board, files)]
        _run(command, work, env, board)
        return from_yosys(board, (work / f"{board.name}.stat.json").read_text(encoding="utf-8"))
    stages = [
        (f"{board.name}{_NETLIST[flow]}", "placing and routing"),
        (f"{board.name}.report.json", "packing"),
    ]
    tell("synthesising")
    _run(["sh", f"build_{board.name}.sh"], work, env, board, stages, tell)
    return from_nextpnr(board, json.loads((work / f"{board.name}.report.json").read_text(encoding="utf-8")))


def placement_script(sites: dict[str, str]) -> str:
    """Commands of yosys that fix cells to their sites for nextpnr; it stops at one that is not there."""
    return "\n".join(
        f'select -assert-count 1 c:{cell}\nsetattr -set BEL "{site}" c:{cell}' for cell, site in sites.items()
    )


def _xilinx_script(board: Board, files: VerilogFiles) -> str:
    reads = "; ".join(f"read_verilog {name}" for name in files.sources)
    return (
        f"{reads}; synth_xilinx -family xc7 -top system -flatten; tee -q -o {board.name}.stat.json stat -json"
    )


def _run(
    command: list[str],
    work: Path,
    env: dict[str, str],
    board: Board,
    stages: list[tuple[str, str]] | None = None,
    tell: Progress | None = None,
) -> None:
    """One program, its output to a log; `stages` are announced when their file appears."""
    waiting = list(stages or [])
    with (
        (work / _LOG).open("w", encoding="utf-8") as file,
        child(command, work, file, env=env) as process,
    ):
        while process.poll() is None:
            while waiting and tell is not None and (work / waiting[0][0]).is_file():
                tell(waiting.pop(0)[1])
            time.sleep(_POLL)
    if process.returncode:
        raise BitstreamError(
            f"the tools stopped on {board.title}: {_reason(work, board)}; the logs are in {work.parent}"
        )


def _reason(work: Path, board: Board) -> str:
    """The last error in the logs."""
    for name in (_LOG, f"{board.name}.tim", f"{board.name}.rpt"):
        if (work / name).is_file():
            errors: list[str] = re.findall(
                r"^.*ERROR:?\s*(.*)$",
                (work / name).read_text(encoding="utf-8", errors="replace"),
                re.MULTILINE,
            )
            if errors:
                return errors[-1].strip()[:300]
    lines = (work / _LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "without a message"
