"""The command line: exit status, one sentence on standard error, JSON, no traceback."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from systolith import api, cli, compiling, importing, running, verifying
from systolith.cli import program
from systolith.evidence import locate
from systolith.host.device import DeviceError
from systolith.options import Running
from systolith.reference.elementwise import Lookup
from systolith.reference.graph import QGraph
from systolith.reference.plan import Plan
from systolith.spec.arch import PRESETS, load_arch
from systolith.spec.image import Image
from systolith.spec.isa import isa_for
from systolith.spec.manifest import IoTensor, LayerInfo
from systolith.spec.plan import CoreStep
from tests.graphs import GraphBuilder

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
    """The sentence of a refusal: status 2, one line after those of the progress, no traceback."""
    status, _, err = invoke(capsys, *arguments)
    assert status == 2
    err = err[err.rindex("systolith: ") :]
    assert err.startswith("systolith: ")
    assert err.count("\n") == 1
    assert "internal error" not in err
    assert "Traceback" not in err
    return err


def small_image() -> Image:
    """An image with two run instructions, the first of which belongs to a layer."""
    arch = PRESETS["tiny"]
    isa = isa_for(arch)
    words = [
        isa.encode(isa.make("HALT")),
        isa.encode(isa.make("LOAD", bytes=16)),
        isa.encode(isa.make("HALT")),
    ]
    layer = LayerInfo(
        name="conv[1]",
        op="Conv",
        nodes=("conv[1]",),
        tensor="y",
        macs=8,
        cycles=4,
        roofline_cycles=2,
        limit="array",
    )
    return Image(
        arch=arch,
        model="m",
        program=b"".join(words),
        load_entry=0,
        load_count=1,
        data_bytes=64,
        inputs=(),
        outputs=(),
        tensors=(),
        steps=(
            CoreStep(
                entry=isa.word_bytes,
                count=2,
                cycles=4,
                inputs=(),
                outputs=(),
                layers=(layer,),
                owners=(0, -1),
            ),
        ),
    )


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


# -- inputs --------------------------------------------------------------------------------------------------
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


# -- verify: what it reports, with devices of known behaviour ------------------------------------------------
def graph_of_three() -> QGraph:
    """Three tables in a row."""
    builder = GraphBuilder(7)
    name = builder.input((1, 4, 3, 3))
    for _ in range(3):
        # A permutation, so that no difference can vanish on its way.
        name = builder.append(Lookup(table=builder.rng.permutation(256).astype(np.uint8).view(np.int8)), name)
    return builder.finish(name)


def fake_compile(model: object, arch: object, *_: object, **__: object) -> Image:
    """An image with one layer and one instruction per node, which only FakeSession can run."""
    plan = Plan.of(model if isinstance(model, QGraph | Plan) else graph_of_three())
    graph = plan.graph
    config = load_arch(arch)
    isa = isa_for(config)
    words = [isa.encode(isa.make(name)) for name in ("HALT", *("POOL" for _ in graph.nodes), "HALT")]

    def tensors(names: tuple[str, ...]) -> tuple[IoTensor, ...]:
        return tuple(
            IoTensor(
                name=name,
                shape=graph.tensors[name].shape,
                dtype="int8",
                scale=0.05,
                zero_point=graph.tensors[name].zero_point,
                offset=0,
                order=(0, 2, 3, 1),
            )
            for name in names
        )

    layers = tuple(
        LayerInfo(
            name=node.name,
            op=node.op_type,
            nodes=node.sources,
            tensor=node.output,
            macs=8,
            cycles=4,
            roofline_cycles=2,
            limit="vector",
        )
        for node in graph.nodes
    )
    return Image(
        arch=config,
        model=graph.name,
        program=b"".join(words),
        load_entry=0,
        load_count=1,
        data_bytes=64,
        inputs=plan.inputs,
        outputs=plan.outputs,
        tensors=tensors((*graph.inputs, *graph.outputs)),
        steps=(
            CoreStep(
                entry=isa.word_bytes,
                count=len(words) - 1,
                cycles=12,
                inputs=graph.inputs,
                outputs=graph.outputs,
                layers=layers,
                owners=(*range(len(layers)), -1),
            ),
        ),
    )


#: What the search finds, whatever FakeSession does.
LOCATION = locate.Location(
    kind="wrong",
    stream="run",
    layer="lookup1",
    nodes=("t1",),
    offset=0x60,
    text="POOL table=1",
    engine="VECTOR",
    ordinal=1,
    cycle=1234,
    begin=1200,
    memory="act",
    address=0x40,
    lane=0,
    expected=7,
    got=6,
    tensor="t1",
    index=(0, 1, 2, 0),
    window=(1034, 1284),
    time=4000,
)


class FakeSession:
    """A device that computes the reference, except that it flips the lowest bit of one element of the
    tensors in `wrong`."""

    graph: QGraph
    wrong: frozenset[str] = frozenset()
    stops: bool = False
    load_cycles = 5
    seen: dict[str, str] | None = None

    def __init__(
        self,
        backend: str,
        image: Image,
        options: Running,
    ) -> None:
        self.backend, self.image = backend, image
        if backend == "rtl":
            type(self).seen = options.sources

    def __enter__(self) -> "FakeSession":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def run(self, arrays: dict[str, np.ndarray], *, everything: bool = False) -> api.RunResult:
        if self.backend == "rtl" and self.stops:
            raise DeviceError("the core stopped with WATCHDOG")
        values = self.graph.run(arrays)
        raw = {port.name: values[port.name].copy() for port in self.image.outputs}
        if self.backend == "rtl":
            for name in self.wrong & set(raw):
                raw[name][0, 1, 2, 0] ^= 1
        return api.RunResult(
            outputs=raw,
            raw=raw,
            values=raw,
            written=arrays,
            steps=(api.StepRun(step=self.image.core, seconds=0.5, cycles=100),),
            load_cycles=5,
        )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeSession]:
    """`verify` on FakeSession, whatever model it is given."""
    kind = type("Session", (FakeSession,), {"graph": graph_of_three()})
    for module in (running, verifying):
        monkeypatch.setattr(module, "Session", kind)
    for module in (compiling, running, verifying):
        monkeypatch.setattr(module, "compile_model", fake_compile)
    monkeypatch.setattr(importing, "import_file", lambda *_: kind.graph)
    monkeypatch.setattr(locate, "locate_rtl", lambda *given: replace(LOCATION, waveform=given[-1].waveform))
    return kind


def test_verify_agrees(fake: type[FakeSession], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.json"
    status, out, err = invoke(capsys, "verify", "m.onnx", "--arch", "tiny", "--json", path, "--seed", 3)
    report = json.loads(path.read_text())
    assert status == 0 and "systolith: " not in err
    assert "bit-exact: reference = machine = rtl" in out
    assert {
        "model",
        "arch",
        "digest",
        "bit_exact",
        "backends",
        "cycles",
        "load_cycles",
        "macs",
        "peak_macs_per_cycle",
        "roofline_cycles",
        "utilisation",
        "host_nodes",
        "layers",
    } <= set(report)
    assert report["bit_exact"] is True
    assert report["seed"] == 3
    assert (report["cycles"], report["load_cycles"]) == (100, 5)
    assert report["backends"]["rtl"]["cycles_per_second"] == pytest.approx(200)
    assert set(report["backends"]) == {"reference", "machine", "rtl"}
    assert {"name", "op", "macs", "cycles", "roofline_cycles", "limit"} <= set(report["layers"][0])


def test_verify_names_the_first_instruction_that_differs(
    fake: type[FakeSession], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.wrong = frozenset({"t1", "t2"})
    path = tmp_path / "r.json"
    status, out, err = invoke(capsys, "verify", "m.onnx", "--arch", "tiny", "--json", path)
    assert status == 1
    assert err.splitlines()[-1] == "systolith: m.onnx differs from the reference on rtl (seed 0)"
    # Progress is on standard error, results are alone on standard output.
    assert "running on rtl" in err and "running on" not in out
    assert "1 of 36 elements of output 't2' differ; first at [0, 1, 2, 0]" in out
    for line in (
        "where       run stream, cycle 1,234 since START, time 4,000 in the waveform",
        "layer       'lookup1', nodes t1",
        "instruction 0x00060 (VECTOR, number 1): POOL table=1",
        "what        6 written to byte of the act SRAM 0x00040, lane 0: expected 7",
        "element     't1' [0, 1, 2, 0]",
        "waveform    m-rtl.fst: cycles 1,034 to 1,284",
    ):
        assert f"\n  {line}\n" in out
    report = json.loads(path.read_text())
    assert report["bit_exact"] is False
    (difference,) = report["differences"]
    assert (difference["backend"], difference["output"], difference["elements"]) == ("rtl", "t2", 1)
    location = difference["location"]
    assert (location["layer"], location["offset"], location["cycle"], location["got"]) == (
        "lookup1",
        0x60,
        1234,
        6,
    )


def test_verify_takes_verilog_and_a_waveform(
    fake: type[FakeSession], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.wrong = frozenset({"t2"})
    (tmp_path / "core.v").write_text("module core; endmodule")
    arguments = ("verify", "m.onnx", "--arch", "tiny", "--verilog", tmp_path / "core.v")
    status, out, _ = invoke(capsys, *arguments, "--waveform", tmp_path / "w.vcd")
    assert status == 1
    assert fake.seen == {"core.v": "module core; endmodule"}
    assert f"{tmp_path / 'w.vcd'}: cycles" in out
    assert "core.v" in refused(capsys, *arguments, "--verilog", tmp_path / "core.v")
    assert "absent.v" in refused(capsys, "verify", "m.onnx", "--arch", "tiny", "--verilog", "absent.v")
    assert "w.txt" in refused(capsys, *arguments, "--waveform", "w.txt")
    assert "nowhere" in refused(capsys, *arguments, "--waveform", "nowhere/w.fst")


def test_verify_without_rtl_does_not_see_it(
    fake: type[FakeSession], capsys: pytest.CaptureFixture[str]
) -> None:
    fake.wrong = frozenset({"t2"})
    assert invoke(capsys, "verify", "m.onnx", "--arch", "tiny", "--on", "reference,machine")[0] == 0


def test_verify_reports_a_core_that_stops(
    fake: type[FakeSession], capsys: pytest.CaptureFixture[str]
) -> None:
    fake.stops = True
    status, out, _ = invoke(capsys, "verify", "m.onnx", "--arch", "tiny")
    assert status == 1
    assert "rtl: the core stopped with WATCHDOG" in out


def test_compile_explain_and_run(
    fake: type[FakeSession], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, x, y = tmp_path / "m.sysl", tmp_path / "x.npz", tmp_path / "y.out"
    assert invoke(capsys, "explain", "m.onnx", "--arch", "tiny")[0] == 0
    assert invoke(capsys, "compile", "m.onnx", "--arch", "tiny", "-o", image)[0] == 0
    value = np.random.default_rng(1).integers(-128, 128, (1, 4, 3, 3)).astype(np.int8)
    np.savez(x, in0=value)
    assert invoke(capsys, "run", image, "--inputs", x, "--outputs", y)[0] == 0
    with open(y, "rb") as stream:
        assert np.array_equal(np.load(stream)["t2"], fake.graph.run({"in0": value})["t2"])
    assert "absent/m.sysl" in refused(capsys, "compile", "m.onnx", "--arch", "tiny", "-o", "absent/m.sysl")
    assert "instructions" in refused(capsys, "run", image, "--inputs", x, "--on", "reference")
    assert "array8" in refused(capsys, "run", image, "--inputs", x, "--arch", "array8")
    assert "architecture" in refused(capsys, "run", "m.onnx", "--inputs", x)


# -- outputs: checked before the work ------------------------------------------------------------------------
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
