"""A bitstream from PyPI's tools for a small core, and what `build` refuses."""

import dataclasses
import json
import subprocess
import sys

import pytest

from systolith.boards import tools
from systolith.boards.board import BOARDS
from systolith.hw.soc.system import generate_system
from systolith.spec.arch import PRESETS
from tests.test_cli import invoke, refused

SMALL = dataclasses.replace(PRESETS["tiny"], bus_bits=32)


@pytest.fixture
def small(monkeypatch):
    """The ULX3S with the smallest core, which the tools place in a minute."""
    board = dataclasses.replace(BOARDS["ulx3s_85f"], arch=dataclasses.replace(SMALL, name="ulx3s_85f"))
    monkeypatch.setitem(BOARDS, board.name, board)
    return board


def test_the_bitstream_of_the_smallest_board(tmp_path, capsys):
    """The whole of an iCEBreaker, synthesised, placed, routed and packed; it fits and reaches its clock."""
    board = BOARDS["icebreaker"]
    status, out, err = invoke(capsys, "build", "--board", board.name, "--out", tmp_path / "b", "--json", tmp_path / "r.json")
    assert status == 0, err
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["clock_hz"] >= board.clock_hz and report["path"] and report["reaches_clock"]
    assert all(0 < entry["used"] <= entry["available"] for entry in report["used"].values()), report["used"]
    assert report["used"]["DSP (two 8x8)"]["used"] == 8
    assert set(report["tools"]) == {"yosys", "nextpnr-ice40"}
    # A bitstream of an iCE40 begins with its preamble.
    data = (tmp_path / "b" / f"{board.name}.bin").read_bytes()
    assert b"\x7e\xaa\x99\x7e" in data[:1000] and len(data) > 100_000
    assert "it has not run on a board here" in out
    assert json.loads((tmp_path / "b" / "report.json").read_text())["board"] == board.name


def test_an_unknown_board_is_refused(tmp_path, capsys):
    sentence = refused(capsys, "build", "--board", "nothing", "--out", tmp_path / "b")
    assert "there is no board 'nothing'" in sentence and "ulx3s_85f" in sentence
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("command", [("build", "--board", "nothing"), ("doctor", "--board", "nothing", "--port", "sim:nothing")], ids=lambda command: command[0])
def test_an_unknown_board_is_refused_by_a_fresh_process_too(command):
    """Here nothing else has loaded the modules whose errors are refusals."""
    done = subprocess.run([sys.executable, "-m", "systolith.cli", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "there is no board 'nothing'" in done.stderr and "internal error" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_missing_tool_is_named_with_its_package(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tools.shutil, "which", lambda name, path=None: None)
    assert "yosys was not found: pip install 'systolith[boards]'" in refused(capsys, "build", "--board", small.name, "--out", tmp_path / "b")


def test_native_tools_go_before_those_from_pypi(tmp_path, monkeypatch):
    native = tmp_path / "nextpnr-ecp5"
    native.write_text("#!/bin/sh\n")
    native.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert tools.find_tool("nextpnr-ecp5", "ecp5") == native
    assert tools.environment("ecp5")["NEXTPNR_ECP5"] == str(native)


def test_what_a_tool_says_reaches_the_user(small, tmp_path, capsys, monkeypatch):
    # Amaranth takes yosys from PATH for the Verilog, which is not what is to fail.
    generate_system(small.arch, small.memory, divisor=small.divisor, pin_cycles=small.pin_cycles, build_dir=tmp_path / "b" / "verilog",
                    device=small.part.name)
    broken = tmp_path / "yosys"
    broken.write_text("#!/bin/sh\necho 'ERROR: Module `system` is not to my taste.'\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    sentence = refused(capsys, "build", "--board", small.name, "--out", tmp_path / "b")
    assert "the tools stopped on ULX3S-85F" in sentence and "is not to my taste" in sentence and str(tmp_path / "b") in sentence


@pytest.mark.parametrize("name", BOARDS)
def test_every_board_has_its_preset_and_a_clock_that_its_line_can_divide(name):
    board = BOARDS[name]
    assert board.name == name == board.arch.name and PRESETS[name] == board.arch
    assert abs(board.clock_hz / board.divisor / board.baud - 1) < 0.02
