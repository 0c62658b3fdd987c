"""A bitstream from PyPI's tools for a small core, and what `build` refuses."""

import dataclasses
import json
import subprocess
import sys

import pytest

from systolith.boards import build
from systolith.boards.board import BOARDS
from systolith.boards.tools import environment
from systolith.hw.build import VerilogFiles
from systolith.spec.arch import PRESETS
from systolith.tooling.tools import find
from tests.boards.test_tops import ports_of
from tests.test_cli import invoke, refused
from tests.tooling.fakes import Fakes

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
    status, out, err = invoke(
        capsys, "build", "--board", board.name, "--out", tmp_path / "b", "--json", tmp_path / "r.json"
    )
    assert status == 0, err
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["clock_hz"] >= board.clock_hz and report["path"] and report["reaches_clock"]
    assert all(0 < entry["used"] <= entry["available"] for entry in report["used"].values()), report["used"]
    assert report["used"]["DSP (two 8x8)"]["used"] == 8
    assert set(report["tools"]) == {"yosys", "nextpnr-ice40", "icepack"}
    # A bitstream of an iCE40 begins with its preamble.
    data = (tmp_path / "b" / f"{board.name}.bin").read_bytes()
    assert b"\x7e\xaa\x99\x7e" in data[:1000] and len(data) > 100_000
    assert "it has not run on a board here" in out
    assert json.loads((tmp_path / "b" / "report.json").read_text())["board"] == board.name


#: A system of one register per output, in place of the core, whose bitstream would take minutes.
LITTLE_SYSTEM = """\
module system(input clk, rst, rx, output reg tx, output pins__clk_en, pins__cs, output reg pins__ras,
    pins__cas, pins__we, output reg [1:0] pins__ba,
              output reg [10:0] pins__a, output reg [3:0] pins__dqm, output reg [31:0] pins__dq_o,
                  output reg pins__dq_oe, input [31:0] pins__dq_i);
    assign {pins__clk_en, pins__cs} = 2'b11;
    always @(posedge clk)
        if (rst) {pins__dq_oe, pins__dq_o} <= 0;
        else begin
            {tx, pins__ras, pins__cas, pins__we, pins__ba, pins__a, pins__dqm} <= {pins__dq_i[20:0], rx};
            {pins__dq_oe, pins__dq_o} <= {pins__dq_i, rx};
        end
endmodule
"""


@pytest.mark.slow
def test_the_gowin_flow(tmp_path, monkeypatch):
    """Clock, pins and tools of the Tang Nano 20K around a little system: from Verilog to a file for its
    loader."""
    board = BOARDS["tang_nano_20k"]
    files = VerilogFiles({"system.v": LITTLE_SYSTEM}, "digest", ports_of(board))
    monkeypatch.setattr(build, "generate_system", lambda *arguments, **options: files)
    told = []
    report = build.build_board(board, tmp_path, progress=told.append)
    assert told[1:] == ["synthesising", "placing and routing", "packing"]
    assert (
        report.reaches_clock
        and report.clock_hz > 48e6
        and report.used["registers"][0] > 1
        and report.used["registers"][1] == 15_552
    )
    assert report.bitstream == str(tmp_path / "tang_nano_20k.fs") and set(report.tools) == {
        "yosys",
        "nextpnr-himbaechel",
        "gowin_pack",
    }
    # Bits as digits: a line of ones, the preamble, and the code by which the FPGA knows that it is meant.
    lines = (tmp_path / "tang_nano_20k.fs").read_text().splitlines()
    assert (
        set(lines[0] + lines[1]) == {"1"}
        and int(lines[2], 2) == 0xA5C3
        and int(lines[3], 2) == 0x0600_0000_0000_081B
    )
    # The registers of the SDRAM's data are in the blocks of their pins, and so is what makes its clock.
    (module,) = (
        module
        for module in json.loads((tmp_path / "tang_nano_20k.pnr.json").read_text())["modules"].values()
        if module["cells"]
    )
    kinds = [cell["type"] for cell in module["cells"].values()]
    assert [kinds.count(kind) for kind in ("IOLOGICI_EMPTY", "IOLOGICO_EMPTY", "ODDR", "rPLL")] == [
        32,
        32,
        1,
        1,
    ]
    # Both clocks go from the PLL to the clock network and nowhere else, so that the phase between them stays.
    log = (tmp_path / "tang_nano_20k.tim").read_text()
    assert all(
        f"'{net}' net was routed using global resources only." in log for net in ("clk", "clock.shifted_clk")
    )


@pytest.mark.parametrize("registers", [1, 1000])
def test_a_part_that_is_too_small_is_refused(tmp_path, capsys, monkeypatch, registers):
    """The little system, on an Artix with so many registers."""
    board = BOARDS["arty_a7_100t"]
    board = dataclasses.replace(
        board, part=dataclasses.replace(board.part, capacity={**board.part.capacity, "registers": registers})
    )
    monkeypatch.setitem(BOARDS, board.name, board)
    files = VerilogFiles({"system.v": LITTLE_SYSTEM}, "digest", ports_of(board))
    monkeypatch.setattr(build, "generate_system", lambda *arguments, **options: files)
    command = ("build", "--board", board.name, "--out", tmp_path / "b")
    if registers == 1:
        sentence = refused(capsys, *command)
        assert "does not fit Arty A7-100T" in sentence and "more registers than XC7A100T has" in sentence
    else:
        assert invoke(capsys, *command)[0] == 0


def test_an_unknown_board_is_refused(tmp_path, capsys):
    sentence = refused(capsys, "build", "--board", "nothing", "--out", tmp_path / "b")
    assert "there is no board 'nothing'" in sentence and "ulx3s_85f" in sentence
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "command",
    [("build", "--board", "nothing"), ("doctor", "--board", "nothing", "--port", "sim:nothing")],
    ids=lambda command: command[0],
)
def test_an_unknown_board_is_refused_by_a_fresh_process_too(command):
    """Here nothing else has loaded the modules whose errors are refusals."""
    done = subprocess.run(
        [sys.executable, "-m", "systolith", *command], capture_output=True, text=True, check=False
    )
    assert (
        done.returncode == 2
        and "there is no board 'nothing'" in done.stderr
        and "internal error" not in done.stderr
    )
    assert done.stderr.count("\n") == 1


def test_native_tools_that_are_wanted_and_too_old_are_refused(small, tmp_path, capsys, monkeypatch):
    path = Fakes(tmp_path / "bin", monkeypatch).version("yosys", "0.23")
    sentence = refused(capsys, "build", "--board", small.name, "--out", tmp_path / "b", "--tools", "native")
    assert f"{path} has version 0.23, and 0.50 or later is needed" in sentence
    assert not (tmp_path / "b").exists()


def test_native_tools_go_before_those_from_pypi(tmp_path, monkeypatch):
    native = Fakes(tmp_path / "bin", monkeypatch).version("nextpnr-ecp5", "0.9")
    assert environment("ecp5", tmp_path)["NEXTPNR_ECP5"] == str(native)


def test_what_a_tool_says_reaches_the_user_and_an_earlier_build_stays(small, tmp_path, capsys, monkeypatch):
    says = "echo 'ERROR: Module `system` is not to my taste.'; exit 1"
    Fakes(tmp_path / "bin", monkeypatch).version("yosys", "0.99", says)
    out = tmp_path / "b"
    out.mkdir()
    (out / f"{small.name}.bit").write_text("an earlier bitstream")
    sentence = refused(capsys, "build", "--board", small.name, "--out", out)
    assert "the tools stopped on ULX3S-85F" in sentence
    assert "is not to my taste" in sentence and str(out) in sentence
    assert "is not to my taste" in (out / "build.log").read_text()
    assert {path.name for path in out.iterdir()} == {"build.log", f"{small.name}.bit"}
    assert (out / f"{small.name}.bit").read_text() == "an earlier bitstream"


def test_the_report_says_what_models_do_and_which_tools_were_taken(tmp_path, monkeypatch):
    board = BOARDS["arty_a7_100t"]
    files = VerilogFiles({"system.v": LITTLE_SYSTEM}, "digest", ports_of(board))
    monkeypatch.setattr(build, "generate_system", lambda *arguments, **options: files)
    report = build.build_board(board, tmp_path / "b", models={"little": 50_000})
    written = json.loads((tmp_path / "b" / "report.json").read_text())
    assert written == json.loads(json.dumps(report.as_dict()))
    assert written["models"] == [{"model": "little", "cycles": 50_000, "inferences_per_second": 2000.0}]
    assert written["tools"]["yosys"] == find("yosys").as_dict()


def test_a_folder_that_cannot_be_written_is_refused(small, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    sentence = refused(capsys, "build", "--board", small.name, "--out", tmp_path / "file" / "b")
    assert "cannot write the build to " in sentence and "is no folder; name another" in sentence


@pytest.mark.parametrize("name", BOARDS)
def test_every_board_has_its_preset_and_a_clock_that_its_line_can_divide(name):
    board = BOARDS[name]
    assert board.name == name == board.arch.name and PRESETS[name] == board.arch
    assert abs(board.clock_hz / board.divisor / board.baud - 1) < 0.02
