"""A board's bitstream: Verilog of the system, a top with clocks and pins, synthesis, placement, routing,
packing."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from systolith.boards.board import Board
from systolith.boards.report import BuildReport, from_nextpnr, from_yosys
from systolith.boards.tools import FLOW_TOOLS, ToolError, environment, version
from systolith.hw.soc.system import generate_system
from systolith.spec.errors import SystolithError

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
#: How often a running tool is looked at, in seconds.
_POLL = 0.5


class BitstreamError(SystolithError):
    """A design that a tool refuses; one sentence."""


def build_board(
    board: Board, out: Path, *, seed: int | None = None, progress: Progress | None = None
) -> BuildReport:
    """Build a board's bitstream in a folder of its own, with the report beside it.

    A design that does not reach the board's clock leaves no bitstream.

    Parameters
    ----------
    out : path      made where it is missing
    seed : int      of nextpnr's placement; None: the board's own

    Raises
    ------
    ToolError        If a tool or package is missing.
    BitstreamError   If a tool fails.
    """
    tell = progress or (lambda text: None)
    seed = board.seed if seed is None else seed
    flow = board.part.flow
    env = environment(flow)
    try:
        top = board.top()
    except ModuleNotFoundError as error:
        raise ToolError(
            f"the package {error.name!r} was not found: pip install 'systolith[boards]' brings it from PyPI"
        ) from error
    out.mkdir(parents=True, exist_ok=True)
    tell(f"generating the system for {board.title}")
    files = generate_system(
        board.arch,
        board.memory,
        divisor=board.divisor,
        pin_cycles=board.pin_cycles,
        build_dir=out / "verilog",
        device=board.part.name,
    )
    options = {
        key: value.format(name=board.name, seed=seed, mhz=board.clock_hz / 1e6)
        for key, value in _OPTIONS.get(flow, {}).items()
    }
    design = top.Top(board, files)
    if sites := design.sites():
        options["script_after_synth"] = placement_script(sites)
    plan = top.Platform().build(design, name=board.name, do_build=False, debug_verilog=False, **options)
    plan.extract(str(out))
    begin = time.monotonic()
    if flow == "xilinx":
        tell(
            "synthesising with yosys, for the resources; Vivado makes the bitstream from the project in "
            + str(out)
        )
        _run(
            [env["YOSYS"], "-q", "-l", f"{board.name}.rpt", "-p", _xilinx_script(board, files)],
            out,
            env,
            board,
        )
        report = from_yosys(board, (out / f"{board.name}.stat.json").read_text(encoding="utf-8"))
    else:
        stages = [
            (f"{board.name}{_NETLIST[flow]}", "placing and routing"),
            (f"{board.name}.report.json", "packing"),
        ]
        tell("synthesising")
        _run(["sh", f"build_{board.name}.sh"], out, env, board, stages, tell)
        report = from_nextpnr(
            board, json.loads((out / f"{board.name}.report.json").read_text(encoding="utf-8"))
        )
    report = report.with_build(
        seconds=time.monotonic() - begin,
        seed=seed,
        tools={name: version(name, flow) for name in FLOW_TOOLS[flow] if "pack" not in name},
    )
    bitstream = out / f"{board.name}{_BITSTREAM.get(flow, '.none')}"
    if report.clock_hz is not None and report.clock_hz < board.clock_hz:
        bitstream.unlink(missing_ok=True)
    elif bitstream.is_file():
        report = report.with_bitstream(bitstream)
    (out / "report.json").write_text(json.dumps(report.as_dict(), indent=1) + "\n", encoding="utf-8")
    return report


def placement_script(sites: dict[str, str]) -> str:
    """Commands of yosys that fix cells to their sites for nextpnr; it stops at one that is not there."""
    return "\n".join(
        f'select -assert-count 1 c:{cell}\nsetattr -set BEL "{site}" c:{cell}' for cell, site in sites.items()
    )


def _xilinx_script(board: Board, files) -> str:
    reads = "; ".join(f"read_verilog {name}" for name in files.sources)
    return (
        f"{reads}; synth_xilinx -family xc7 -top system -flatten; tee -q -o {board.name}.stat.json stat -json"
    )


def _run(
    command: list[str],
    out: Path,
    env: dict[str, str],
    board: Board,
    stages: list[tuple[str, str]] | None = None,
    tell: Progress | None = None,
) -> None:
    """One program, its output to a log; `stages` are announced when their file appears."""
    waiting = list(stages or [])
    for name, _ in waiting:
        (out / name).unlink(missing_ok=True)
    log = out / "build.log"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, cwd=out, env=env, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        try:
            while process.poll() is None:
                while waiting and (out / waiting[0][0]).is_file():
                    tell(waiting.pop(0)[1])
                time.sleep(_POLL)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode:
        raise BitstreamError(
            f"the tools stopped on {board.title}: {_reason(out, board)}; the logs are in {out}"
        )


def _reason(out: Path, board: Board) -> str:
    """The last error in the logs."""
    for name in ("build.log", f"{board.name}.tim", f"{board.name}.rpt"):
        if (out / name).is_file():
            errors = re.findall(
                r"^.*ERROR:?\s*(.*)$",
                (out / name).read_text(encoding="utf-8", errors="replace"),
                re.MULTILINE,
            )
            if errors:
                return errors[-1].strip()[:300]
    lines = (out / "build.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "without a message"
