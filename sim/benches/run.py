"""Builds a bench's design with Verilator and runs its cocotb tests, in a process of their own."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import sys
from pathlib import Path

import cocotb
from cocotb_tools import config
from cocotb_tools.check_results import get_results
from cocotb_tools.runner import Verilator

from systolith.sim.benches.tops import BENCHES, bench_verilog
from systolith.sim.verilator import WARNINGS_OFF, SimulationError, check_sources
from systolith.spec.arch import ArchConfig
from systolith.tooling.cache import Cache, digest
from systolith.tooling.process import tool_environment
from systolith.tooling.tools import find

__all__ = ["BenchFailure", "BenchSettings", "run_bench"]

#: Where a bench finds its settings inside the simulation.
_SETTINGS = "SYSTOLITH_BENCH"
#: Nothing is optimised: a bench runs for seconds, in which Python does most of the work. All in one unit,
#: which takes less time and needs no precompiled header: the PyPI wheel's makefile cannot build one.
_MAKE = ("VM_PARALLEL_BUILDS=0", "OPT_FAST=-O0", "OPT_SLOW=-O0", "OPT_GLOBAL=-O0")
_ARGUMENTS = (
    "-O3",
    "--x-assign",
    "fast",
    "--x-initial",
    "fast",
    "--no-assert",
    "--output-split",
    "0",
    *(f"-Wno-{w}" for w in WARNINGS_OFF),
)
#: Objects of Verilator's own library, the same for every design.
_RUNTIME = ("verilated.o", "verilated_vpi.o", "verilated_threads.o")


class BenchFailure(AssertionError):
    """A bench that found a difference; the text ends with the simulation's log."""


@dataclasses.dataclass(frozen=True, slots=True)
class BenchSettings:
    """What a bench is told.

    Parameters
    ----------
    arch : ArchConfig   architecture of the design
    seed : int          seed of every random choice
    count : int         instructions per test (`core`: inferences)
    image : str         path of a program image, for `core`
    """

    arch: ArchConfig
    seed: int
    count: int = 24
    image: str | None = None

    def to_json(self) -> str:
        """As text, for the simulation's environment."""
        return json.dumps(dataclasses.asdict(self) | {"arch": self.arch.to_dict()})

    @classmethod
    def current(cls) -> BenchSettings:
        """Those of the simulation that this process is."""
        values = json.loads(os.environ[_SETTINGS])
        return cls(**values | {"arch": ArchConfig.from_dict(values["arch"])})


class _Runner(Verilator):
    """cocotb's runner with the project's Verilator. Only the ports are public: reading anything else is a
    bench's mistake,
    and a design that is public as a whole runs five times slower."""

    def __init__(self, scratch: Path) -> None:
        super().__init__()
        self._tools = tool_environment(scratch)

    def _set_env_common(self) -> None:
        super()._set_env_common()
        # Another Verilator's files, or options of the `make` that runs the tests.
        for name in os.environ.keys() - self._tools.keys():
            self.env.pop(name, None)
        self.env["TMPDIR"] = self._tools["TMPDIR"]

    def _simulator_in_path_build_only(self) -> None:
        self.executable = str(find("verilator").path)

    def _build_command(self) -> list[list[str]]:
        verilate, make = super()._build_command()
        gxx = find("g++").path
        at = verilate.index("--public-flat-rw")
        return [
            [*verilate[:at], "--public-depth", "1", *verilate[at + 1 :]],
            [*make, *_MAKE, f"CXX={gxx}", f"LINK={gxx}"],
        ]


def _log(path: Path, lines: int) -> str:
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else "no log"
    return "\n".join(text.splitlines()[-lines:])


def _build(sources: dict[str, str], top: str, cache: Cache) -> Path:
    """Folder with the simulation's executable, which stays as long as this process."""
    make, gxx, verilator = find("make"), find("g++"), find("verilator")
    here = (cocotb.__version__, str(config.libs_dir), sys.version, platform.system(), platform.machine())
    tools = (_ARGUMENTS, _MAKE, make.identity, gxx.identity, verilator.identity, here)

    def build(work: Path) -> dict[str, Path]:
        for name, text in sources.items():
            (work / name).write_text(text, encoding="utf-8")
        log = work / "build.log"
        with cache.entry(f"benchlib-{digest(tools)}", _runtime) as runtime:
            # `make` takes them as they are: they are newer than what they come from.
            shutil.copytree(runtime, work / "obj", copy_function=shutil.copyfile)
            _verilate([work / name for name in sources], top, work / "obj", log)
        return {top: work / "obj" / top}

    check_sources(sources)
    return cache.keep(f"bench-{top}-{digest(tools, sorted(sources.items()))}", build)


def _runtime(work: Path) -> dict[str, Path]:
    """Objects of Verilator's own library, made with an empty design."""
    source = work / "empty.v"
    source.write_text("module empty(input wire clk);\nendmodule\n", encoding="utf-8")
    _verilate([source], "empty", work / "obj", work / "build.log")
    return {name: work / "obj" / name for name in _RUNTIME}


def _verilate(sources: list[Path], top: str, folder: Path, log: Path) -> None:
    """Build the executable of a design by cocotb's runner.

    Raises
    ------
    SimulationError   With the log's end.
    """
    try:
        _Runner(folder.parent).build(
            sources=sources,
            hdl_toplevel=top,
            build_dir=folder,
            always=True,
            build_args=list(_ARGUMENTS),
            timescale=("1ns", "1ps"),
            log_file=log,
        )
    except (Exception, SystemExit) as error:
        raise SimulationError(f"the bench of {top} cannot be built ({error}):\n{_log(log, 40)}") from error


def run_bench(
    bench: str,
    settings: BenchSettings,
    *,
    design: tuple[dict[str, str], str] | None = None,
    module: str | None = None,
    cache_dir: Path | None = None,
) -> int:
    """Build one bench, or find its build in the cache, and run every test of its module.

    Parameters
    ----------
    bench : str               one of `tops.BENCHES`
    settings : BenchSettings
    design : (sources, top)   another design with the same ports, a netlist for example; None: the engine's
             own Verilog
    module : str              another cocotb module; None: the bench's own
    cache_dir : Path          see `tooling.cache.Cache`

    Returns
    -------
    passed : int   tests that ran, at least one

    Raises
    ------
    BenchFailure      If a test fails, with the seed and the log.
    ValueError        If there is no such bench.
    ToolError, SimulationError, CacheError   If the design cannot be built.
    """
    if bench not in BENCHES:
        raise ValueError(f"bench must be one of {', '.join(BENCHES)}, not {bench!r}")
    sources, top = design or bench_verilog(bench, settings.arch)
    cache = Cache(cache_dir)
    folder = _build(sources, top, cache)
    with cache.scratch(f"run-{bench}") as scratch:
        log, results = scratch / "run.log", scratch / "results.xml"
        try:
            _Runner(scratch).test(
                test_module=module or f"systolith.sim.benches.bench_{bench}",
                hdl_toplevel=top,
                hdl_toplevel_lang="verilog",
                build_dir=folder,
                test_dir=scratch,
                results_xml=str(results),
                log_file=log,
                seed=settings.seed,
                extra_env={_SETTINGS: settings.to_json()},
            )
            ran, failed = get_results(results)
        # Under pytest the runner itself ends the process where a test fails; everywhere, where the simulator
        # does.
        except (SystemExit, RuntimeError):
            ran, failed = 0, 0
        if failed or not ran:
            raise BenchFailure(
                f"bench {bench} at {settings.arch.name}, seed {settings.seed}, failed:\n{_log(log, 60)}"
            )
    return ran
