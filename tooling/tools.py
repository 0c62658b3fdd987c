"""Finds the programs that build, on PATH or in PyPI packages, none older than its floor.

Which are taken is the user's choice, `--tools` or SYSTOLITH_TOOLS: `native`, `pypi`, or `auto`, which takes a
native one that is new enough and else PyPI's. The compiler, make and perl are native always.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from systolith.tooling.kinds import TOOLS, Kind
from systolith.tooling.policy import policy
from systolith.tooling.process import ToolError, tool_environment

__all__ = [
    "Tool",
    "ask",
    "describe",
    "find",
    "package_version",
    "recorded",
]

#: Seconds that a program may take to state its version.
_PATIENCE = 60
_log = logging.getLogger("systolith")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A program that is taken.

    Parameters
    ----------
    name : str       one of `TOOLS`
    path : Path      absolute
    origin : str     'native' or 'pypi'
    version : str    '' where it states none
    text : str       its first line about itself, or PyPI's package and version
    """

    name: str
    path: Path
    origin: str
    version: str
    text: str

    @property
    def identity(self) -> tuple[str, str]:
        """Distinguishes builds of the same tool in the key of a cache entry; equal on equal machines."""
        return (self.name, self.text)

    def as_dict(self) -> dict[str, str]:
        """As plain values, for reports."""
        return {"version": self.version, "origin": self.origin, "path": str(self.path), "text": self.text}


#: Programs found, by all that decides what is found: what is said of them is said once.
_found: dict[tuple[str | None, ...], Tool] = {}
_records: list[dict[str, dict[str, str]]] = []


@contextlib.contextmanager
def recorded() -> Iterator[dict[str, dict[str, str]]]:
    """Collects the tools that are found during a `with` block, by name; see `Tool.as_dict`."""
    taken: dict[str, dict[str, str]] = {}
    _records.append(taken)
    try:
        yield taken
    finally:
        _records[:] = [other for other in _records if other is not taken]


def find(name: str) -> Tool:
    """A program, checked against its floor.

    Raises
    ------
    ToolError   If it is missing or too old where the policy looks for it.
    """
    which = policy()
    key = (name, which, os.environ.get("PATH"), os.environ.get("CXX"))
    # What raises is not kept: a tool may be installed meanwhile.
    if key not in _found:
        _found[key] = _search(name, which)
    tool = _found[key]
    for record in _records:
        record[name] = tool.as_dict()
    return tool


def ask(path: Path, *arguments: str) -> str:
    """What a program prints when it is asked something.

    Raises
    ------
    ToolError   If it does not run.
    """
    try:
        # Not in the caller's folder; '/' is there always.
        done = subprocess.run(
            [str(path), *arguments],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            cwd="/",
            env=tool_environment(),
            errors="replace",
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolError(
            f"{path} does not run ({getattr(error, 'strerror', None) or type(error).__name__})"
        ) from error
    if done.returncode:
        raise ToolError(f"{path} does not run (status {done.returncode})")
    return (done.stdout + done.stderr).strip()


def package_version(name: str) -> str:
    """Version of an installed Python package that builds; it counts as a tool that was taken.

    Raises
    ------
    ToolError   If it is not installed.
    """
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise ToolError(f"the package {name} was not found: pip install 'systolith' brings it") from error
    tool = Tool(
        name=name,
        path=Path(str(distribution.locate_file(""))),
        origin="pypi",
        version=distribution.version,
        text=f"{name} {distribution.version}",
    )
    for record in _records:
        record[name] = tool.as_dict()
    return distribution.version


def describe(taken: Mapping[str, Mapping[str, str]]) -> str:
    """Tools on one line, given by name as `Tool.as_dict` has them; those without a version are left out."""
    return ", ".join(
        f"{name} {tool['version']} ({'PyPI' if tool['origin'] == 'pypi' else tool['path']})"
        for name, tool in taken.items()
        if tool["version"]
    )


def _search(name: str, which: str) -> Tool:
    kind = TOOLS[name]
    if kind.partner is not None and which == "auto" and find(kind.partner).origin == "pypi":
        which = "pypi"
    problems = []
    if which != "pypi" or kind.package is None:
        native = _native(name, kind)
        if isinstance(native, Tool):
            return native
        problems.append(native)
        if which == "native" or kind.package is None:
            raise ToolError(_refusal(name, kind, native))
    packaged = _packaged(name, kind)
    if isinstance(packaged, Tool):
        if problems and shutil.which(name):
            _log.warning("systolith: %s: %s from PyPI is taken instead", problems[0], packaged.text)
        return packaged
    raise ToolError(
        "; ".join([*problems, packaged]) + f": pip install -U 'systolith[{kind.extra}]' brings it from PyPI"
    )


def _refusal(name: str, kind: Kind, problem: str) -> str:
    """The sentence where a native program is needed."""
    if kind.package is None:
        return (
            f"{problem}: install it with the system's package manager (Debian: apt-get install {kind.system})"
        )
    return f"{problem}: install it, or take PyPI's with --tools pypi (or SYSTOLITH_TOOLS=pypi)"


def _native(name: str, kind: Kind) -> Tool | str:
    """The first on PATH, or what is wrong with it."""
    called = os.environ.get("CXX") or name if name == "g++" else name
    found = shutil.which(called)
    if found is None or (kind.package and _is_script(Path(found), kind)):
        return f"{called} was not found" + (" on PATH" if kind.package else "")
    path = Path(os.path.abspath(found))
    if not kind.floor:
        return Tool(name=name, path=path, origin="native", version="", text=name)
    try:
        said = ask(path, *kind.ask)
    except ToolError as error:
        return str(error)
    if (match := re.search(kind.version, said)) is None:
        return f"{path} does not state a version, and {_written(kind.floor, kind)} or later is needed"
    return _judged(name, kind, path, "native", match, said.splitlines()[0])


def _packaged(name: str, kind: Kind) -> Tool | str:
    """The PyPI package's program, or what is wrong with it."""
    assert kind.package is not None
    try:
        distribution = importlib.metadata.distribution(kind.package)
    except importlib.metadata.PackageNotFoundError:
        return f"{name} was not found"
    path = _script(distribution, kind)
    if path is None:
        return f"{name} was not found in the package {kind.package}"
    match = re.match(r"(\d+)\.(\d+)", distribution.version)
    if match is None:
        return f"the package {kind.package} has the version {distribution.version!r}"
    text = f"{kind.package} {distribution.version}"
    if kind.partner is not None:
        return Tool(name=name, path=path, origin="pypi", version="", text=text)
    return _judged(name, kind, path, "pypi", match, text)


def _judged(name: str, kind: Kind, path: Path, origin: str, match: re.Match[str], text: str) -> Tool | str:
    """The tool, or a sentence where it is older than the floor."""
    version = (int(match[1]), int(match[2]))
    if version < kind.floor:
        what = str(path) if origin == "native" else f"the package {kind.package}"
        has, needed = _written(version, kind), _written(kind.floor, kind)
        return f"{what} has version {has}, and {needed} or later is needed"
    return Tool(name=name, path=path, origin=origin, version=_written(version, kind), text=text)


def _written(version: tuple[int, ...], kind: Kind) -> str:
    return f"{version[0]}.{version[1]:0{kind.minor}}"


def _script(distribution: importlib.metadata.Distribution, kind: Kind) -> Path | None:
    """The program of an installed package."""
    for file in distribution.files or ():
        if file.name == kind.script and "bin" in file.parts:
            path = Path(os.path.abspath(str(distribution.locate_file(file))))
            if os.access(path, os.X_OK):
                return path
    return None


def _is_script(path: Path, kind: Kind) -> bool:
    """Whether a program on PATH is the one that the PyPI package put there."""
    assert kind.package is not None
    try:
        script = _script(importlib.metadata.distribution(kind.package), kind)
    except importlib.metadata.PackageNotFoundError:
        return False
    return script is not None and script.exists() and script.samefile(path)
