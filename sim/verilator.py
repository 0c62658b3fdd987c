"""Verilog and C++ to a shared library, by Verilator: hides its quirks, caches the results.

Verilator's makefile is not used: its generated C++ is compiled as two translation units (hot code optimised,
constructors not) and the runtime library once per machine, which takes about half the time and avoids the
precompiled headers that the PyPI wheel's makefile cannot build.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from systolith.hw.build import core_key
from systolith.spec.arch import ArchConfig
from systolith.spec.errors import SystolithError
from systolith.tooling.cache import Cache, digest
from systolith.tooling.process import Job, run_tool, run_tools
from systolith.tooling.tools import Tool, ask, find

__all__ = [
    "WARNINGS_OFF",
    "SimulationError",
    "build",
    "check_sources",
    "compile_library",
    "core_model_key",
    "cpp_name",
    "module_ports",
    "native_source",
]

#: What Amaranth's Verilog triggers, and nothing else: implicit widths, bits of internal signals that nobody
#: reads, modules that share one file.
WARNINGS_OFF = (
    "WIDTH",
    "CMPCONST",
    "UNSIGNED",
    "UNUSED",
    "UNDRIVEN",
    "DECLFILENAME",
    "UNOPTFLAT",
    "CASEINCOMPLETE",
    "CASEOVERLAP",
    "PINCONNECTEMPTY",
    "EOFNEWLINE",
    "VARHIDDEN",
)
_VERILATE = ("--cc", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--no-assert", "--output-split", "0")
_CXX = (
    "-std=gnu++17",
    "-fPIC",
    "-pthread",
    "-faligned-new",
    "-w",
    "-DVERILATOR=1",
    "-DVM_COVERAGE=0",
    "-DVM_SC=0",
    "-DVM_TIMING=0",
    "-DVM_TRACE_SAIF=0",
)
_NATIVE = Path(__file__).parent / "native"
#: Headers of ours for the two libraries that Verilator's FST writer includes.
_FST = _NATIVE / "fst"


class SimulationError(SystolithError):
    """A simulation that cannot be built, or that broke a rule while it ran."""


def native_source(*names: str) -> str:
    """C++ of the project's own files, one after another. What they include of each other must be among them,
    in order."""
    text = "".join((_NATIVE / name).read_text(encoding="utf-8") for name in names)
    return re.sub(r'^#(pragma once|include ".*")\n', "", text, flags=re.MULTILINE)


_PORT = re.compile(r"\b(input|output)\s+(?:wire\s+|reg\s+)?(?:\[(\d+):0\]\s*)?(\w+)\s*[;,]")


def module_ports(sources: dict[str, str], top: str) -> tuple[tuple[str, str, int], ...]:
    """Ports of a module in generated Verilog: name, 'input' or 'output', bits.

    Raises
    ------
    SimulationError   If no source holds the module.
    """
    match = re.search(
        rf"^module\s+\\?{re.escape(top)}\s*\(.*?^endmodule",
        "\n".join(sources.values()),
        re.MULTILINE | re.DOTALL,
    )
    if match is None:
        raise SimulationError(f"the Verilog holds no module {top!r}")
    return tuple((name, direction, int(high or 0) + 1) for direction, high, name in _PORT.findall(match[0]))


def cpp_name(port: str) -> str:
    """How Verilator spells a port in C++."""
    return port.replace("__", "___05F")


def build(
    sources: dict[str, str],
    top: str,
    cpp: str,
    cache_dir: Path | None = None,
    *,
    trace: str | None = None,
    optimise: str = "-O1",
) -> Path:
    """Compile a design and its C++ harness into a shared library, or find it in the cache.

    Parameters
    ----------
    sources : dict     file name to Verilog text
    top : str          top module; the C++ class is ``V<top>``, its header ``V<top>.h``
    cpp : str          the harness, C++17; its ``extern "C"`` functions are the library's interface
    cache_dir : Path   see `tooling.cache.Cache`
    trace : str        the waveforms to compile in: 'vcd' or 'fst'; None: none
    optimise : str     flag for the hot code

    Returns
    -------
    path : Path   path of the library; its cache entry stays as long as this process

    Raises
    ------
    ToolError         If Verilator, perl or g++ is missing or too old.
    SimulationError   If a tool refuses its input, with its first message.
    CacheError        If the library has to be made, and the cache cannot be written.
    """
    check_sources(sources)
    find("perl")
    tools, cache = _Tools.found(trace), Cache(cache_dir)
    verilate = (*_VERILATE, *(f"-Wno-{w}" for w in WARNINGS_OFF), *([f"--trace-{trace}"] if trace else []))
    key = digest(sorted(sources.items()), top, cpp, verilate, optimise, tools.identity)

    def make(work: Path) -> dict[str, Path]:
        out = work / "obj"
        out.mkdir()
        for name, text in sources.items():
            (work / name).write_text(text, encoding="utf-8")
        names = ("--top-module", top, "--prefix", f"V{top}", "--Mdir", str(out))
        command = [str(tools.verilator.path), *verilate, *names, *(str(work / name) for name in sources)]
        run_tool(command, "Verilator", work, failure=SimulationError)
        (out / "harness.cpp").write_text(cpp, encoding="utf-8")
        slow = {path for path in out.glob("*.cpp") if "Slow" in path.name or path.name.endswith("__Syms.cpp")}
        jobs = []
        for name, parts, level in (("slow", slow, "-O0"), ("fast", {*out.glob("*.cpp")} - slow, optimise)):
            unit = out / f"unit_{name}.cc"
            unit.write_text("".join(f'#include "{path.name}"\n' for path in sorted(parts)))
            jobs.append(tools.compile(unit, level, out))
        name = f"runtime-{digest(tools.identity)}"
        with cache.entry(name, lambda folder: _runtime(folder, tools)) as runtime:
            run_tools(jobs, work, failure=SimulationError)
            objects = [str(path) for path in (*sorted(out.glob("unit_*.o")), *sorted(runtime.glob("*.o")))]
            command = [str(tools.gxx.path), "-shared", "-pthread", *objects, "-o", "out.so"]
            run_tool(command, "linking", work, failure=SimulationError)
        return {f"{top}.so": work / "out.so"}

    return cache.keep(f"model-{top}-{key}", make) / f"{top}.so"


def compile_library(cpp: str, name: str, cache_dir: Path | None = None) -> Path:
    """Compile C++ without a design into a shared library, or find it in the cache; see `build`.

    Raises
    ------
    ToolError, SimulationError, CacheError   see `build`
    """
    gxx = find("g++")
    key = digest(cpp, _CXX, gxx.identity, _machine())

    def make(work: Path) -> dict[str, Path]:
        (work / f"{name}.cpp").write_text(cpp, encoding="utf-8")
        command = [*_launcher(gxx), *_CXX, "-O2", "-shared", f"{name}.cpp", "-o", "out.so"]
        run_tool(command, f"g++ ({name})", work, failure=SimulationError)
        return {f"{name}.so": work / "out.so"}

    return Cache(cache_dir).keep(f"library-{name}-{key}", make) / f"{name}.so"


_INCLUDE = re.compile(r'`include\b\s*(?:"([^"\n]*)")?')


def check_sources(sources: dict[str, str]) -> None:
    """Refuse Verilog that includes what is not among its files: a build reads nothing else.

    Raises
    ------
    SimulationError   With the file and what it includes; or if a file's name is no plain one.
    """
    for name, text in sources.items():
        if not re.fullmatch(r"[\w.][\w.+-]*", name):
            raise SimulationError(
                f"a Verilog file cannot be called {name!r}: use letters, digits and the signs _ . + -"
            )
        for match in _INCLUDE.finditer(text):
            if match[1] not in sources:
                what = f"{match[1]!r}, which" if match[1] else "a file whose name is a macro, so that it"
                raise SimulationError(
                    f"{name} includes {what} is not among the Verilog files given: give it too, or put its "
                    "text in its place"
                )


def core_model_key(arch: ArchConfig) -> str:
    """Names all that a core's model on RTL is built from, without building anything: sources of the hardware
    and the simulation, flags, tools, machine.

    Raises
    ------
    ToolError   see `build`
    """
    folder = Path(__file__).parent
    files = [(path.name, path.read_bytes()) for path in sorted([*folder.glob("*.py"), *_NATIVE.rglob("*.*")])]
    return digest(core_key(arch), files, _Tools.found(None).identity)


def _machine() -> tuple[str, ...]:
    """What compiled code runs on. No flag asks for more than the least processor of its kind."""
    return (platform.system(), platform.machine(), *platform.libc_ver())


def _launcher(gxx: Tool) -> list[str]:
    """g++, behind ccache where that is present."""
    ccache = shutil.which("ccache")
    return [os.path.abspath(ccache), str(gxx.path)] if ccache else [str(gxx.path)]


@dataclass(frozen=True, slots=True)
class _Tools:
    """Verilator and g++ with all that they read beside the design."""

    verilator: Tool
    gxx: Tool
    include: Path
    trace: str | None

    @classmethod
    def found(cls, trace: str | None) -> _Tools:
        verilator = find("verilator")
        return cls(verilator, find("g++"), _include(verilator.path), trace)

    @property
    def flags(self) -> tuple[str, ...]:
        traces = [f"-DVM_TRACE_{kind.upper()}={int(self.trace == kind)}" for kind in ("vcd", "fst")]
        return (*_CXX, f"-DVM_TRACE={int(self.trace is not None)}", *traces)

    @property
    def identity(self) -> tuple[object, ...]:
        """All that the tools read beside the design: their versions, Verilator's headers, ours, the flags."""
        ours = [(path.name, path.read_bytes()) for path in sorted(_FST.glob("*.h"))]
        return (
            *(self.verilator.identity, self.gxx.identity, _headers(self.include)),
            *(self.flags, ours if self.trace == "fst" else None, _machine()),
        )

    def compile(self, source: Path, level: str, *folders: Path, what: str | None = None) -> Job:
        """The job that makes an object file: beside its source, or, under the name `what`, in the working
        folder."""
        target = source.with_suffix(".o") if what is None else f"{source.stem}.o"
        includes = [f"-I{folder}" for folder in (self.include, self.include / "vltstd", *folders)]
        command = [*_launcher(self.gxx), *self.flags, *includes, level, "-c", source, "-o", target]
        return Job(tuple(map(str, command)), what or f"g++ ({source.stem.removeprefix('unit_')} unit)")


@functools.lru_cache(maxsize=8)
def _include(verilator: Path) -> Path:
    """Verilator's folder of headers and of the sources of its own library."""
    root = verilator.parent.parent
    if not (root / "include" / "verilated.cpp").is_file():
        root = Path(ask(verilator, "--getenv", "VERILATOR_ROOT"))
    return root / "include"


@functools.lru_cache(maxsize=8)
def _headers(include: Path) -> str:
    """Digest of what lies in Verilator's folder of headers."""
    files = sorted(path for path in include.rglob("*") if path.is_file())
    return digest([(path.relative_to(include).as_posix(), path.read_bytes()) for path in files])


def _runtime(work: Path, tools: _Tools) -> dict[str, Path]:
    """Objects of Verilator's own library, compiled once for all designs."""
    kinds = [f"verilated_{tools.trace}_c.cpp"] if tools.trace else []
    sources = [tools.include / name for name in ("verilated.cpp", "verilated_threads.cpp", *kinds)]
    jobs = [tools.compile(source, "-O1", _FST, what=f"g++ ({source.name})") for source in sources]
    run_tools(jobs, work, failure=SimulationError)
    return {f"{source.stem}.o": work / f"{source.stem}.o" for source in sources}
