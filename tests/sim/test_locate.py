"""Bugs planted in the core and in a program: `verify` names the engine, the instruction, the layer and the
cycle.

All bugs of the core are in one edited Verilog, and a file chooses among them when a model starts, so that it
is built once (and once more with waveforms).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from systolith import api, cli, importing, verifying
from systolith.cli.options import EXIT_DIFFERENT
from systolith.compiler import driver
from systolith.evidence import locate, lockstep
from systolith.evidence.locate import AFTER, BEFORE, Location
from systolith.evidence.lockstep import Lockstep
from systolith.host.driver import Driver
from systolith.hw.build import generate
from systolith.reference.add import Add
from systolith.reference.conv import Conv
from systolith.reference.graph import QGraph
from systolith.reference.machine_device import MachineDevice
from systolith.reference.max_pool import MaxPool
from systolith.reference.plan import Plan
from systolith.sim import netlist
from systolith.sim.native import RtlDevice
from systolith.spec import numerics
from systolith.spec.arch import PRESETS
from systolith.spec.image import Image
from systolith.spec.isa import isa_for
from systolith.spec.outputs import OutputError
from tests.graphs import ARCHS, GraphBuilder, random_graph, random_inputs

ARCH = PRESETS["tiny"]

#: Bug to (module, what it edits, what takes its place); BUG is true where the bug is chosen.
BUGS = {
    "product": (
        "matrix",
        r"product0_0 <= ([^;]+);",
        r"product0_0 <= (\1) ^ {BUG && product0_0[13:12] == 2'b01, 9'h0};",
    ),
    "sticky": ("output", r"(lane0_up = shifted0\[49\] &) ([^;]+);", r"\1 (BUG ? shifted0[0] : \2);"),
    "add": ("vector", r"total0 <= ([^;]+);", r"total0 <= (\1) ^ {BUG && total0[17:16] == 2'b01, 17'h0};"),
    "pool": (
        "vector",
        r"\$signed\(candidate0\) > (\$signed\((best\b[^)]*)\));",
        r"BUG ? candidate0 > \2 : $signed(candidate0) > \1;",
    ),
    "stride": ("load", r"= (row\[\d+:0\] \+ [^;]+);", r"= \1 + (BUG && moved != 0);"),
    "weights": ("load", r"weights__beat = ([^;]+);", r"weights__beat = (\1) ^ (BUG && moved == 16);"),
    "strobe": ("store", r"strobe_0 <= ([^;]+);", r"strobe_0 <= (\1) & ~((BUG && !(&(\1))) * 2);"),
    "token": ("sequencer", r"gives_output = ([^;]+);", r"gives_output = BUG ? 0 : \1;"),
    "protocol": ("", r"axi__wlast = ([^;]+);", r"axi__wlast = (\1) ^ BUG;"),
    "error": ("matrix", r" now <= ([^;]+);", r" now <= (\1) | {BUG && now[11:7] == 3 && now[0], 4'h0};"),
}


def edited_core() -> dict[str, str]:
    """The core's Verilog with every bug in it, each off unless its number is in `bug.hex` of the current
    directory."""
    sources = dict(generate(ARCH).sources)
    text = sources["core.v"]
    for number, (module, pattern, replacement) in enumerate(BUGS.values(), 1):
        head = (rf"module \\core\.{module} \(" if module else r"module core\(") + ".*?^endmodule"
        match = re.search(head, text, re.MULTILINE | re.DOTALL)
        assert match is not None, f"there is no module {module}"
        body, count = re.subn(pattern, replacement.replace("BUG", f"(core.bug[0] == {number})"), match[0])
        assert count == 1, f"{module} holds {pattern} {count} times"
        text = text[: match.start()] + body + text[match.end() :]
    head, tail = re.split(r"(?<=\n)(?=endmodule)", text, maxsplit=1)
    choice = 'reg [7:0] bug [0:0] /* verilator public_flat */;\ninitial $readmemh("bug.hex", bug);\n'
    sources["core.v"] = head + choice + tail
    return sources


def graph_of_all_engines() -> QGraph:
    """Convolution, pooling, table, addition, convolution."""
    builder = GraphBuilder(5)
    x = builder.input((1, 4, 8, 8))
    x = builder.conv(x, channels=6, group=1)
    pooled = builder.append(
        MaxPool(kernel=(2, 2), strides=(1, 1), dilations=(1, 1), pads=(0, 0, 0, 0), table=None), x
    )
    other = builder.lookup(pooled)
    first, second, shift = numerics.approximate_pair(0.7, 0.4)
    zeros = {
        "a_zero": builder.tensors[pooled].zero_point,
        "b_zero": builder.tensors[other].zero_point,
        "zero": 3,
    }
    total = builder.append(Add(a_mult=first, b_mult=second, shift=shift, table=None, **zeros), pooled, other)
    return builder.finish(builder.conv(total, channels=5, group=1))


@pytest.fixture(scope="module")
def core() -> dict[str, str]:
    return edited_core()


@pytest.fixture
def choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Chooses a bug, by its name, for the models that start from now on; None is the core as it should be."""
    monkeypatch.chdir(tmp_path)

    def chosen(bug: str | None) -> None:
        number = list(BUGS).index(bug) + 1 if bug is not None else 0
        (tmp_path / "bug.hex").write_text(f"{number:x}\n")

    return chosen


def located(core: dict[str, str], waveform: str | None = None) -> Location:
    result = api.verify(graph_of_all_engines(), ARCH, on=("machine", "rtl"), sources=core, waveform=waveform)
    assert result.backends["machine"].cycles is not None
    assert [difference.backend for difference in result.differences] == ["rtl"]
    assert result.differences[0].location is not None, result.differences[0].note
    return result.differences[0].location


def vcd(path: Path, signal: str) -> tuple[int, int, dict[int, int]]:
    """First and last time of a VCD file, and the values of one of the top's signals by the time they
    begin."""
    begin, end, now, code, values = None, 0, 0, None, {}
    for line in path.read_text().splitlines():
        words = line.split()
        if len(words) > 4 and words[0] == "$var" and words[4] == signal and code is None:
            code = words[3]
        elif line.startswith("#"):
            now = end = int(line[1:])
            begin = now if begin is None else begin
        elif code is not None and line[:1] in ("0", "1") and line[1:] == code:
            values[now] = int(line[0])
    assert code is not None, f"no signal {signal}"
    return begin, end, values


@dataclass(frozen=True)
class Expected:
    """What is known of a planted bug: where it acts, and a trace signal that is 1 when the wrong beat is
    written."""

    kind: str
    engine: str
    mnemonic: str
    layer: str | None
    memory: str
    signal: str | None
    stream: str = "run"


EXPECTED = {
    "product": Expected("wrong", "MATRIX", "MATMUL", "conv0", "acc", "trace__sums__valid"),
    "sticky": Expected("wrong", "OUTPUT", "OUTPUT", "conv0", "act", "trace__output__valid"),
    "add": Expected("wrong", "VECTOR", "ADD", "add3", "act", "trace__vector__valid"),
    "pool": Expected("wrong", "VECTOR", "POOL", "maxpool1", "act", "trace__vector__valid"),
    "stride": Expected("wrong", "LOAD", "LOAD", None, "act", "trace__load__valid"),
    "weights": Expected("wrong", "LOAD", "LOAD", None, "weight", "trace__weight__valid", "load"),
    "strobe": Expected("missing", "STORE", "STORE", None, "data", None),
    "token": Expected("unfinished", "MATRIX", "MATMUL", "conv0", "", None),
    "error": Expected("error", "MATRIX", "MATMUL", "conv0", "", None),
}


@pytest.mark.parametrize("bug", EXPECTED)
def test_a_planted_bug_is_found(bug: str, core: dict[str, str], choose, tmp_path: Path) -> None:
    choose(bug)
    expected, found = EXPECTED[bug], located(core, "first.vcd")
    assert (found.kind, found.engine, found.layer, found.stream) == (
        expected.kind,
        expected.engine,
        expected.layer,
        expected.stream,
    )
    assert found.text.split()[0] == expected.mnemonic
    assert found.memory == expected.memory
    image = driver.compile_graph(graph_of_all_engines(), ARCH)
    isa = isa_for(ARCH)
    assert found.text == isa.disassemble(dict(image.stream(expected.stream))[found.offset])
    assert found.cycle is not None and found.window is not None and found.time is not None
    assert 0 < found.begin <= found.cycle
    # The waveform covers the window, and shows the beat at the time that was named.
    assert found.waveform == "first.vcd"
    assert found.window[0] <= found.cycle - BEFORE and found.window[1] == found.cycle + AFTER
    begin, end, values = vcd(tmp_path / "first.vcd", expected.signal or "clk")
    assert begin == found.time - 2 * (found.cycle - found.window[0])
    assert end == found.time + 2 * AFTER + 1
    if expected.signal is not None:
        assert found.expected != found.got
        before = max(time for time in values if time <= found.time)
        assert values[before] == 1, "no beat is written at the time that was named"


def test_a_broken_bus_is_found_at_its_transfer(core: dict[str, str], choose, tmp_path: Path) -> None:
    choose("protocol")
    found = located(core, "first.vcd")
    assert (found.kind, found.engine, found.text.split()[0]) == ("protocol", "STORE", "STORE")
    begin, end, _ = vcd(tmp_path / "first.vcd", "axi__wlast")
    # The simulation ends with the beat that breaks the rule.
    assert begin < found.time and abs(end - found.time) <= 2
    assert found.window[1] - found.window[0] == (end - begin) // 2


def test_a_waveform_that_cannot_be_written_costs_only_itself(
    core: dict[str, str], choose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose("sticky")
    (tmp_path / "folder.vcd").mkdir()
    with pytest.raises(OutputError, match="the waveform 'folder.vcd': it is a folder"):
        located(core, "folder.vcd")

    def full(path: str) -> None:
        raise OutputError(f"cannot write {path!r}: No space left on device")

    monkeypatch.setattr(locate, "aside", full)
    found = located(core, "first.vcd")
    assert found.engine == "OUTPUT" and found.waveform is None
    assert "cannot write 'first.vcd': No space left on device" in found.trouble


def test_a_fault_that_only_the_netlist_has_is_found_in_it(
    core: dict[str, str], choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose("product")
    # What synthesis would make of the generated core, if it broke it.
    monkeypatch.setattr(netlist, "netlist", lambda *_: core)
    result = api.verify(graph_of_all_engines(), ARCH, on=("rtl", "netlist"))
    assert [difference.backend for difference in result.differences] == ["netlist"]
    found = result.differences[0].location
    assert found is not None and (found.engine, found.layer) == ("MATRIX", "conv0")


def test_the_core_that_was_edited_is_right_without_a_bug(core: dict[str, str], choose) -> None:
    choose(None)
    assert api.verify(graph_of_all_engines(), ARCH, on=("rtl",), sources=core).bit_exact


def test_the_token_that_was_lost_is_named(core: dict[str, str], choose) -> None:
    choose("token")
    found = located(core)
    (giver, offset, cycle) = found.tokens[0]
    stream = dict(driver.compile_graph(graph_of_all_engines(), ARCH).stream("run"))
    assert giver == "OUTPUT" and stream[offset].mnemonic == "OUTPUT"
    assert offset < found.offset and 0 < cycle <= found.cycle
    assert "wait=OUTPUT" in found.text and found.writes == 0
    assert found.waveform is None


def test_elements_have_coordinates(core: dict[str, str], choose) -> None:
    choose("add")
    graph, found = graph_of_all_engines(), located(core)
    values = graph.run(api.random_inputs(graph, 0))
    assert found.tensor == "t3"
    assert found.expected == values["t3"][found.index]


def test_what_output_sends_to_vector_is_compared_too(core: dict[str, str], choose) -> None:
    choose("sticky")
    builder = GraphBuilder(5)
    other = builder.lookup(builder.input((1, 4, 8, 8)))
    sums = builder.append(
        Conv(
            weights=builder.rng.integers(-128, 128, (4, 4, 1, 1)).astype(np.int8),
            bias=np.zeros(4, np.int32),
            strides=(1, 1),
            dilations=(1, 1),
            pads=(0, 0, 0, 0),
            group=1,
            x_zero=builder.tensors[other].zero_point,
            requant=builder.requant(4, 4),
        ),
        other,
    )
    first, second, shift = numerics.approximate_pair(0.7, 0.4)
    zeros = {
        "a_zero": builder.tensors[sums].zero_point,
        "b_zero": builder.tensors[other].zero_point,
        "zero": 3,
    }
    total = builder.append(Add(a_mult=first, b_mult=second, shift=shift, table=None, **zeros), sums, other)
    (difference,) = api.verify(builder.finish(total), ARCH, on=("rtl",), sources=core).differences
    found = difference.location
    assert (found.engine, found.layer, found.memory, found.kind) == ("OUTPUT", "conv1", "chain", "wrong")
    assert "dest=VECTOR" in found.text


def test_verilog_without_a_trace_port_is_compared_all_the_same(
    core: dict[str, str], choose, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose("sticky")
    monkeypatch.setattr(lockstep, "TRACES", (*lockstep.TRACES, "absent"))
    (difference,) = api.verify(graph_of_all_engines(), ARCH, on=("rtl",), sources=core).differences
    assert difference.elements > 0 and difference.location is None
    assert "no trace port for absent" in difference.note


def test_the_report_and_its_json(
    core: dict[str, str],
    choose,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    choose("sticky")
    plan = Plan.of(graph_of_all_engines())
    monkeypatch.setattr(importing, "import_file", lambda *_: importing.Imported(plan=plan))
    files = []
    for name, text in core.items():
        (tmp_path / name).write_text(text)
        files += ["--verilog", name]
    status = cli.main(
        ["verify", "m.onnx", "--arch", "tiny", *files, "--json", "r.json", "--waveform", "w.vcd"]
    )
    assert status == EXIT_DIFFERENT
    out = capsys.readouterr().out
    (difference,) = json.loads((tmp_path / "r.json").read_text())["differences"]
    location = difference["location"]
    assert (location["layer"], location["engine"], location["memory"]) == ("conv0", "OUTPUT", "act")
    for label, text in {
        "layer": "'conv0', nodes t0",
        "instruction": f"0x{location['offset']:05x} (OUTPUT, number {location['ordinal']}): "
        f"{location['text']}",
        "what": f"{location['got']} written to byte of the act SRAM 0x{location['address']:05x}, lane 0: "
        f"expected {location['expected']}",
        "waveform": f"w.vcd: cycles {location['window'][0]} to {location['window'][1]}",
    }.items():
        assert f"  {label:<12}{text}\n" in out


# -- no false alarm
# --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("arch", ["tiny", "bus32"])
@pytest.mark.parametrize("seed", range(8))
def test_a_right_core_is_never_blamed(arch: str, seed: int) -> None:
    graph = random_graph(seed)
    image = driver.compile_graph(graph, ARCHS[arch])
    with RtlDevice(ARCHS[arch], stall_seed=seed, stall_probability=0.3 * (seed % 2)) as rtl:
        device = Lockstep(rtl, MachineDevice(ARCHS[arch], memory_bytes=1 << 22))
        inputs = random_inputs(graph, seed)
        got = Driver(device, image).run_int8(inputs)
    expected = graph.run(inputs)
    for name in graph.outputs:
        assert np.array_equal(got[name], expected[name])


# -- a wrong program
# ----------------------------------------------------------------------------------------------
def tampered(image: Image, mnemonic: str, nth: int, **operands: int) -> tuple[Image, int]:
    """The image with operands of the nth such instruction of the run stream replaced, and its offset."""
    isa = isa_for(image.arch)
    offset, instr = [(o, i) for o, i in image.stream("run") if i.mnemonic == mnemonic][nth]
    assert any(instr.operands[name] != value for name, value in operands.items())
    word = isa.encode(isa.make(mnemonic, **{**instr.operands, **operands}))
    program = image.program[:offset] + word + image.program[offset + len(word) :]
    return replace(image, program=program), offset


@pytest.mark.parametrize(
    ("mnemonic", "nth", "operands", "layer", "kind"),
    [
        ("ADD", 0, {"b_mult": 0}, "add3", "wrong"),
        ("POOL", 0, {"ky": 1}, "maxpool1", "wrong"),
        ("OUTPUT", 1, {"zero": 5}, "conv0", "wrong"),
        ("OUTPUT", -1, {"dst": 7777}, "conv4", "missing"),
    ],
)
def test_a_wrong_instruction_of_the_compiler_is_found(
    core: dict[str, str],
    choose,
    monkeypatch: pytest.MonkeyPatch,
    mnemonic: str,
    nth: int,
    operands: dict[str, int],
    layer: str,
    kind: str,
) -> None:
    choose(None)
    graph = graph_of_all_engines()
    image, offset = tampered(driver.compile_graph(graph, ARCH), mnemonic, nth, **operands)
    monkeypatch.setattr(verifying, "compile_plan", lambda *_, **__: image)
    result = api.verify(graph, ARCH, on=("machine", "rtl"), sources=core)
    assert [difference.backend for difference in result.differences] == ["machine", "rtl"]
    for difference in result.differences:
        found = difference.location
        assert (found.kind, found.offset, found.layer, found.cycle) == (kind, offset, layer, None)
        assert graph.run(api.random_inputs(graph, 0))[found.tensor][found.index] == found.expected
    assert "compiler" in result.differences[1].note


def test_a_wrong_product_shows_in_the_output_that_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graph_of_all_engines()
    image, offset = tampered(driver.compile_graph(graph, ARCH), "MATMUL", 3, tile=1)
    monkeypatch.setattr(verifying, "compile_plan", lambda *_, **__: image)
    (difference,) = api.verify(graph, ARCH, on=("machine",)).differences
    found = difference.location
    assert (found.layer, found.engine) == ("conv0", "OUTPUT")
    following = next(o for o, i in image.stream("run") if o > offset and i.mnemonic == "OUTPUT")
    assert found.offset == following
    assert found.sums == (offset,)
    assert f"0x{offset:05x}" in dict(found.rows())["sums of"]
