"""What `verify` reports, and `compile`, `explain` and `run` beside it, with devices of known behaviour."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from systolith import api, compiling, importing, running, verifying
from systolith.evidence import locate
from systolith.host.device import DeviceError
from systolith.options import Running
from systolith.reference.graph import QGraph
from systolith.reference.lookup import Lookup
from systolith.reference.plan import Plan
from systolith.spec.arch import load_arch
from systolith.spec.image import Image
from systolith.spec.isa import isa_for
from systolith.spec.manifest import IoTensor, LayerInfo
from systolith.spec.plan import CoreStep
from tests.command_line import invoke, refused
from tests.graphs import GraphBuilder


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
    for module in (compiling, verifying):
        monkeypatch.setattr(module, "compile_plan", fake_compile)
    imported = importing.Imported(plan=Plan.of(kind.graph))
    monkeypatch.setattr(importing, "import_file", lambda *_: imported)
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
    model = tmp_path / "m.onnx"
    model.write_bytes(b"\x08\x09")  # ONNX of version 9, and no more
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
    assert "architecture" in refused(capsys, "run", model, "--inputs", x)
