"""The command line: exit status, one sentence on standard error, JSON, no traceback."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

from systolith import api, cli
from systolith.spec.arch import PRESETS
from systolith.spec.image import Image, LayerInfo
from systolith.spec.isa import isa_for

PROGRAM = """\
# what the load stream might do
LOAD space=WEIGHT bytes=64 signal=MATRIX
MATMUL wait=LOAD ox=4 final=1 signal=OUTPUT

HALT
"""


def invoke(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    status = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The sentence of a refusal: status 2, one line, no traceback."""
    status, _, err = invoke(capsys, *arguments)
    assert status == 2
    assert err.startswith("systolith: ")
    assert err.count("\n") == 1
    assert "internal error" not in err
    assert "Traceback" not in err
    return err


def small_image() -> Image:
    """An image with two run instructions, the first of which belongs to a layer."""
    arch = PRESETS["tiny"]
    isa = isa_for(arch)
    words = [isa.encode(isa.make("HALT")), isa.encode(isa.make("LOAD", bytes=16)), isa.encode(isa.make("HALT"))]
    layer = LayerInfo(name="conv[1]", op="Conv", nodes=("conv[1]",), tensor="y", macs=8, cycles=4, roofline_cycles=2, limit="array")
    return Image(arch=arch, model="m", program=b"".join(words), load_entry=0, load_count=1, run_entry=isa.word_bytes, run_count=2,
                 data_bytes=64, inputs=(), outputs=(), layers=(layer,), owners=(0, -1), cycles=4)


@pytest.mark.parametrize("arch", PRESETS)
def test_asm_and_disasm_round_trip(arch: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, words, again = tmp_path / "p.asm", tmp_path / "p.bin", tmp_path / "q.bin"
    text.write_text(PROGRAM)
    assert invoke(capsys, "asm", text, "--arch", arch, "-o", words)[0] == 0
    assert words.stat().st_size == 3 * isa_for(PRESETS[arch]).word_bytes
    status, listing, _ = invoke(capsys, "disasm", words, "--arch", arch)
    assert status == 0
    assert "MATMUL wait=LOAD signal=OUTPUT ox=4 final=1" in listing
    text.write_text(listing)
    assert invoke(capsys, "asm", text, "--arch", arch, "-o", again)[0] == 0
    assert again.read_bytes() == words.read_bytes()


def test_asm_prints_words_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, result = tmp_path / "p.asm", tmp_path / "p.json"
    text.write_text("HALT\n")
    status, out, _ = invoke(capsys, "asm", text, "--arch", "tiny", "--json", result)
    isa = isa_for(PRESETS["tiny"])
    assert status == 0
    assert out == isa.encode(isa.make("HALT")).hex() + "\n"
    assert json.loads(result.read_text())["words"] == [out.strip()]


def test_json_on_standard_output_is_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "p.asm"
    text.write_text("HALT\n")
    status, out, _ = invoke(capsys, "asm", text, "--arch", "tiny", "--json", "-")
    assert status == 0
    assert json.loads(out)["instructions"] == 1


@pytest.mark.parametrize(
    ("line", "culprit"),
    [("MATMUL ox=0", "MATMUL.ox"), ("JUMP", "'JUMP'"), ("LOAD bytes=x", "'bytes'"), ("LOAD bytes", "'bytes'"), ("LOAD foo=1", "'foo'")],
)
def test_asm_names_line_and_culprit(line: str, culprit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "p.asm"
    text.write_text(f"HALT\n{line}\n")
    sentence = refused(capsys, "asm", text, "--arch", "tiny")
    assert "line 2" in sentence
    assert culprit in sentence


def test_disasm_shows_streams_and_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.sysl"
    small_image().save(path)
    status, out, _ = invoke(capsys, "disasm", path)
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "# load stream"
    assert lines[2] == "# run stream"
    assert lines[3].startswith("LOAD bytes=16")
    assert lines[3].endswith("conv[1]")
    assert invoke(capsys, "disasm", path, "--stream", "load")[1].splitlines() == lines[:2]


def test_disasm_refuses_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.sysl"
    data = bytearray(small_image().to_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert "checksum" in refused(capsys, "disasm", path)
    path.write_bytes(data[:40])
    refused(capsys, "disasm", path)
    path.write_bytes(b"no image at all")
    assert "not a Systolith image" in refused(capsys, "disasm", path)
    assert "whole number" in refused(capsys, "disasm", path, "--arch", "tiny")


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (("frobnicate",), "'frobnicate'"),
        (("asm", "p.asm"), "'--arch'"),
        (("disasm", "absent.sysl"), "absent.sysl"),
        (("asm", "absent.asm", "--arch", "tiny"), "absent.asm"),
        (("asm", "absent.asm", "--arch", "array9"), "array9"),
        (("compile", "absent.onnx", "--arch", "array8"), "absent.onnx"),
        (("explain", "absent.onnx", "--arch", "array8"), "absent.onnx"),
        (("verify", "absent.onnx", "--arch", "array8"), "absent.onnx"),
        (("verify", "absent.onnx", "--arch", "array8", "--on", "oracle"), "'oracle'"),
        (("run", "absent.sysl", "--inputs", "absent.npz"), "absent.npz"),
        (("run", "absent.sysl", "--inputs", "absent.npz", "--on", "moon"), "'moon'"),
    ],
)
def test_refusals(arguments: tuple[str, ...], culprit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                  capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert culprit in refused(capsys, *arguments)


def test_wrong_arch_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "my.toml"
    path.write_text(PRESETS["tiny"].to_toml().replace("rows = 2", "rows = 3"))
    assert "rows" in refused(capsys, "asm", "p.asm", "--arch", path)


def test_arch_file_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, text = tmp_path / "my.toml", tmp_path / "p.asm"
    path.write_text(PRESETS["array8"].to_toml())
    assert tomllib.loads(path.read_text())["rows"] == 8
    text.write_text("HALT\n")
    assert invoke(capsys, "asm", text, "--arch", path)[0] == 0


def test_an_internal_error_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(api, "compile", broken)
    monkeypatch.delenv("SYSTOLITH_DEBUG", raising=False)
    status, _, err = invoke(capsys, "compile", "m.onnx", "--arch", "tiny")
    assert status == 2
    assert err.count("\n") == 1
    assert "internal error (RuntimeError: first line second line)" in err


@pytest.mark.parametrize("command", sorted(cli.cli.commands))
def test_every_command_has_help_and_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = invoke(capsys, command, "--help")
    assert status == 0
    assert "--json FILE" in out


def test_no_arguments_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = invoke(capsys)
    assert status == 2
    assert "verify" in out


def test_doctor_reports_every_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    result = tmp_path / "d.json"
    monkeypatch.setenv("PATH", str(tmp_path))
    status, out, err = invoke(capsys, "doctor", "--json", result)
    report = json.loads(result.read_text())
    assert status == 2
    assert report["ok"] is False
    missing = {check["name"] for check in report["checks"] if not check["ok"]}
    assert {"g++", "make", "perl"} <= missing
    assert "numpy" not in missing
    assert "g++" in err
    assert "g++\tMISSING" in out


# -- inputs -----------------------------------------------------------------------------------------------------------
SPECS = {"x": ((1, 4), "float32"), "k": ((2,), "int8")}


@pytest.mark.parametrize(
    ("arrays", "culprit"),
    [
        ({"x": np.zeros((1, 4), np.float32)}, "'k' is missing"),
        ({"x": np.zeros((1, 4), np.float32), "k": np.zeros(2, np.int8), "z": np.zeros(1)}, "no input 'z'"),
        ({"x": np.zeros((4, 1), np.float32), "k": np.zeros(2, np.int8)}, "'x' has shape"),
        ({"x": np.zeros((1, 4), np.float64), "k": np.zeros(2, np.int8)}, "'x' has type float64"),
        ({"x": np.full((1, 4), np.nan, np.float32), "k": np.zeros(2, np.int8)}, "'x' holds NaN"),
    ],
)
def test_wrong_inputs_are_named(arrays: dict[str, np.ndarray], culprit: str) -> None:
    with pytest.raises(api.ApiError, match=culprit):
        api.check_inputs(arrays, SPECS)


def test_right_inputs_pass() -> None:
    api.check_inputs({"x": np.zeros((1, 4), np.float32), "k": np.zeros(2, np.int8)}, SPECS)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"\x93NUMPY", b"text"])
def test_wrong_npz_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(api.ApiError, match=r"inputs .*x\.npz"):
        api.load_arrays(path, "inputs")


def test_npy_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.zeros(3))
    with pytest.raises(api.ApiError, match="single array"):
        api.load_arrays(path, "inputs")


# -- a real model, end to end -------------------------------------------------------------------------------------------
