"""Builds a bench's design with Verilator and runs its cocotb tests, in a process of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import cocotb
from cocotb_tools import config
from cocotb_tools.check_results import get_results
from cocotb_tools.runner import Verilator

from systolith.sim.benches.tops import BENCHES, bench_verilog
from systolith.sim.verilator import WARNINGS_OFF, SimulationError, default_cache_dir, find_verilator
from systolith.spec.arch import ArchConfig

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
    arch : ArchConfig   of the design
    seed : int          of every random choice
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

    def _set_env_common(self) -> None:
        super()._set_env_common()
        # Another Verilator's files, or options of the `make` that runs the tests.
        for name in ("VERILATOR_ROOT", "MAKEFLAGS", "WAVES"):
            self.env.pop(name, None)

    def _simulator_in_path_build_only(self) -> None:
        self.executable = str(find_verilator())

    def _build_command(self) -> list[list[str]]:
        verilate, make = super()._build_command()
        at = verilate.index("--public-flat-rw")
        return [[*verilate[:at], "--public-depth", "1", *verilate[at + 1 :]], [*make, *_MAKE]]


def _log(path: Path, lines: int) -> str:
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else "no log"
    return "\n".join(text.splitlines()[-lines:])


def _build(sources: dict[str, str], top: str, cache: Path) -> Path:
    """Folder with the simulation's executable, named by a digest of all that goes into it."""
    if shutil.which("make") is None:
        raise SimulationError(
            "make was not found: install it with the system's package manager (Debian: apt-get install make)"
        )
    verilator = find_verilator()
    tools = (
        _ARGUMENTS,
        _MAKE,
        str(verilator),
        verilator.stat().st_mtime_ns,
        cocotb.__version__,
        str(config.libs_dir),
    )
    folder, runtime = (
        cache / f"{top}-{_key(tools, sorted(sources.items()))}",
        cache / f"runtime-{_key(tools)}",
    )
    if (folder / top).is_file():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{top}-", dir=cache, ignore_cleanup_errors=True) as scratch:
        work = Path(scratch)
        for name, text in sources.items():
            (work / name).write_text(text, encoding="utf-8")
        if runtime.is_dir():
            # `make` takes them as they are: they are newer than what they come from.
            shutil.copytree(runtime, work / "obj", copy_function=shutil.copyfile)
        log = work / "build.log"
        try:
            _Runner().build(
                sources=[work / name for name in sources],
                hdl_toplevel=top,
                build_dir=work / "obj",
                always=True,
                build_args=list(_ARGUMENTS),
                timescale=("1ns", "1ps"),
                log_file=log,
            )
        except (Exception, SystemExit) as error:
            raise SimulationError(
                f"the bench of {top} cannot be built ({error}):\n{_log(log, 40)}"
            ) from error
        _keep(work / "obj", (top,), work / "made", folder)
        _keep(work / "obj", _RUNTIME, work / "runtime", runtime)
    return folder


def _key(*state) -> str:
    return hashlib.sha256(repr(state).encode()).hexdigest()[:24]


def _keep(built: Path, names: tuple[str, ...], scratch: Path, target: Path) -> None:
    """Move files of a build to the cache, all at once."""
    scratch.mkdir()
    for name in names:
        os.replace(built / name, scratch / name)
    # Another process may have made the same entry meanwhile.
    with contextlib.suppress(OSError):
        os.replace(scratch, target)


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
    cache_dir : Path          of builds; None: the user's cache

    Returns
    -------
    passed : int   tests that ran, at least one

    Raises
    ------
    BenchFailure      If a test fails, with the seed and the log.
    ValueError        If there is no such bench.
    ToolError, SimulationError   If the design cannot be built.
    """
    if bench not in BENCHES:
        raise ValueError(f"bench must be one of {', '.join(BENCHES)}, not {bench!r}")
    sources, top = design or bench_verilog(bench, settings.arch)
    folder = _build(
        sources, top, (Path(cache_dir) if cache_dir is not None else default_cache_dir()) / "benches"
    )
    with tempfile.TemporaryDirectory(prefix="systolith-bench-") as scratch:
        log, results = Path(scratch) / "run.log", Path(scratch) / "results.xml"
        try:
            _Runner().test(
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
