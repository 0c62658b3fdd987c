"""The command line: exit status, one sentence on standard error, JSON, no traceback."""

import json
import tomllib
from pathlib import Path

import pytest

from systolith import compiling
from systolith.cli import program
from systolith.spec.arch import PRESETS
from systolith.spec.isa import isa_for
from tests.command_line import invoke, refused, small_image

PROGRAM = """\
# what the load stream might do
LOAD space=WEIGHT bytes=64 signal=MATRIX
MATMUL wait=LOAD ox=4 final=1 signal=OUTPUT

HALT
"""


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
    [
        ("MATMUL ox=0", "MATMUL.ox"),
        ("JUMP", "'JUMP'"),
        ("LOAD bytes=x", "'bytes'"),
        ("LOAD bytes", "'bytes'"),
        ("LOAD foo=1", "'foo'"),
    ],
)
def test_asm_names_line_and_culprit(
    line: str, culprit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
        (("compile",), "Missing argument 'MODEL'. Try 'systolith compile -h'"),
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
def test_refusals(
    arguments: tuple[str, ...],
    culprit: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
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


def test_an_internal_error_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(compiling, "compile_model", broken)
    monkeypatch.delenv("SYSTOLITH_DEBUG", raising=False)
    status, _, err = invoke(capsys, "compile", "m.onnx", "--arch", "tiny")
    assert status == 2
    assert err.count("\n") == 1
    assert "internal error (RuntimeError: first line second line)" in err


@pytest.mark.parametrize("command", sorted(program.cli.commands))
def test_every_command_has_help_and_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = invoke(capsys, command, "--help")
    assert status == 0
    assert "--json FILE" in out


def test_no_arguments_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = invoke(capsys)
    assert status == 2
    assert "verify" in out


def test_doctor_reports_every_tool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
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


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (("compile", "m.onnx", "--arch", "tiny", "-o", "absent/m.sysl"), "there is no folder"),
        (("compile", "m.onnx", "--arch", "tiny", "-o", "."), "it is a folder"),
        (("compile", "m.onnx", "--arch", "tiny", "-o", "m.onnx"), "would replace the input"),
        (("compile", "m.onnx", "--arch", "tiny", "-o", "a", "--json", "a"), "are both"),
        (("compile", "m.onnx", "--arch", "tiny", "--dump", "m.onnx"), "is no folder"),
        (("explain", "m.onnx", "--arch", "tiny", "--json", "m.onnx"), "would replace the input"),
        (("verify", "m.onnx", "--arch", "tiny", "--json", "absent/r"), "--json 'absent/r'"),
        (("verify", "m.onnx", "--arch", "tiny", "--waveform", "absent/w.fst"), "'absent/w.fst'"),
        (("run", "m.sysl", "--inputs", "x.npz", "--outputs", "x.npz"), "would replace the input"),
        (("run", "m.sysl", "--inputs", "x.npz", "--json", "absent/r"), "--json 'absent/r'"),
        (("asm", "m.asm", "--arch", "tiny", "-o", "m.asm"), "would replace the input"),
        (("disasm", "m.sysl", "--json", "m.sysl"), "would replace the input"),
        (("build", "--board", "icebreaker", "--out", "m.onnx"), "is no folder"),
        (("doctor", "--json", "absent/r"), "--json 'absent/r'"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    arguments: tuple[str, ...],
    culprit: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("m.onnx", "m.sysl", "m.asm", "x.npz"):
        # Nothing that could be read: the refusal comes before.
        (tmp_path / name).write_bytes(b"what was there")
    assert culprit in refused(capsys, *arguments)
    for name in ("m.onnx", "m.sysl", "m.asm", "x.npz"):
        assert (tmp_path / name).read_bytes() == b"what was there"
