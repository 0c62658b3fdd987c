"""Plans of several steps: a graph that is cut computes what it did in one piece, on every backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import systolith
from systolith import api, verifying
from systolith.compiler.driver import compile_graph, compile_levels
from systolith.compiler.verify import VerifyError, verify_lowering, verify_plan
from systolith.evidence import locate
from systolith.host.device import DeviceReset
from systolith.host.driver import Driver, memory_needed
from systolith.host.runner import HostStepError
from systolith.reference import machine_device
from systolith.reference.graph import QGraph, QTensor
from systolith.reference.hazards import check_order
from systolith.reference.machine_device import MachineDevice
from systolith.reference.plan import CorePart, Plan
from systolith.reference.reshape import Reshape
from systolith.spec.arch import PRESETS
from systolith.spec.image import Image
from systolith.spec.isa import Cell, Region, Space, isa_for
from systolith.spec.plan import Port, transfers
from tests.graphs import ARCHS, GraphBuilder, random_graph, random_inputs
from tests.plans import by_way_of_the_host, cut, cut_evenly, host_step, renamed

#: Little room for weights, so that both core steps stream some of theirs.
NARROW = replace(ARCHS["tiny"], name="narrow", weight_bytes=1 << 8)


def real(graph: QGraph) -> QGraph:
    """The graph with float32 at every border."""
    tensors = {name: replace(tensor, dtype="float32") for name, tensor in graph.tensors.items()}
    return replace(graph, tensors=tensors)


def layers(seed: int = 5) -> QGraph:
    """Three convolutions in a row, and the sum of the second's result and the first's."""
    b = GraphBuilder(seed)
    first = b.conv(b.input((1, 6, 7, 7)), channels=8, group=1, window=b.same(4))
    second = b.conv(first, channels=8, group=1, window=b.same(4))
    return b.finish(b.conv(b.binary(second, first), channels=4, group=1, window=b.same(4)))


def alternating(graph: QGraph) -> Plan:
    """Host, core, host, core, host: copies on the host before, between and behind two core steps."""
    plan = cut_evenly(real(graph), 2)
    second = plan.steps[1]
    between = next(name for name in second.inputs if name in plan.steps[0].outputs)
    plan = by_way_of_the_host(plan, 1, [between])
    plan = by_way_of_the_host(plan, 0, plan.steps[0].inputs[:1])
    last = plan.cores[-1].graph
    step = host_step(last, last.outputs[-1], "copy")
    port = Port(name="copy", shape=last.tensors[last.outputs[-1]].shape, dtype="float32")
    return replace(plan, steps=(*plan.steps, step), outputs=(*plan.outputs, port))


def agrees(plan: Plan, graph: QGraph, arch, on, seed: int) -> None:
    """The plan gives on these backends what the graph in one piece gives on the reference."""
    where = f"{graph.name}, arch {arch.name}, seed {seed}"
    result = api.verify(plan, arch, on=on, seed=seed)
    assert result.bit_exact, (where, result.differences)
    arrays = api.random_inputs(plan, seed)
    expected = api.run_reference(graph, arrays).outputs
    image = Image.from_bytes(compile_graph(plan, arch).to_bytes())
    for backend in on:
        got = api.run(image, arrays, on=backend).outputs
        for name, value in expected.items():
            np.testing.assert_array_equal(got[name], value, err_msg=f"{where}, {backend}, output {name}")


@pytest.mark.parametrize("arch", ["tiny", "array8", "bus32"])
@pytest.mark.parametrize("seed", range(8))
def test_core_after_core_is_the_graph_in_one_piece(seed: int, arch: str) -> None:
    graph = random_graph(seed, 6)
    agrees(cut_evenly(graph, 2 + seed % 3), graph, ARCHS[arch], ("machine",), seed)


@pytest.mark.parametrize("seed", range(8))
def test_host_and_core_in_turns_are_the_graph_in_one_piece(seed: int) -> None:
    graph = real(random_graph(seed + 40, 6))
    plan = alternating(graph)
    assert [isinstance(step, CorePart) for step in plan.steps] == [False, True, False, True, False]
    agrees(plan, graph, ARCHS["tiny"], ("machine",), seed)


@pytest.mark.parametrize("make", [alternating, lambda graph: cut_evenly(graph, 3)], ids=["turns", "cores"])
def test_rtl_runs_the_steps_of_a_plan(make) -> None:
    graph = real(layers())
    agrees(make(graph), graph, NARROW, ("machine", "rtl"), 1)


def test_a_tensor_that_later_core_steps_need_stays_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Core, host, core: the sum in the second core step reads the first's result, past the host."""
    graph = real(layers())
    plan = by_way_of_the_host(cut(graph, 2), 1, ["t1"])
    assert plan.cores[1].inputs == ("t1_host", "t0") and plan.cores[0].outputs == ("t0", "t1")
    image = compile_graph(plan, NARROW)
    first, second = transfers(image.steps, graph.outputs)
    assert (first.write, first.read) == (("in0",), ("t1",))
    assert (second.write, second.read) == (("t1_host",), graph.outputs)
    moved: list[tuple[str, int]] = []
    for verb in ("read", "write"):
        method = getattr(MachineDevice, verb)

        def spy(device, address, what, verb=verb, method=method):
            moved.append((verb, address))
            return method(device, address, what)

        monkeypatch.setattr(MachineDevice, verb, spy)
    with systolith.Session("machine", image) as session:
        base = session._driver.data_base
        moved.clear()
        result = session.run(api.random_inputs(plan, 3))
        offsets = {io.offset: io.name for io in image.tensors}
        named = [(verb, offsets[address - base]) for verb, address in moved]
        assert named == [("write", "in0"), ("read", "t1"), ("write", "t1_host"), ("read", *graph.outputs)]
        assert set(result.raw) == {"t1", *graph.outputs} and "t0" not in result.values
        assert set(session.run(api.random_inputs(plan, 3), everything=True).raw) == {
            "t0",
            "t1",
            *graph.outputs,
        }
    rows = api.describe(image, image.cycles)["steps"]
    sizes = {io.name: io.bytes for io in image.tensors}
    assert [row["where"] for row in rows] == ["core", "host", "core"]
    assert rows[0]["bytes"] == sizes["in0"] + sizes["t1"] and rows[1]["bytes"] == 2 * sizes["t1"]
    assert rows[0]["nodes"] == ["t0", "t1"] and rows[1]["reasons"] == ["operator Identity is for the host"]
    assert sum(row["macs"] for row in rows) == sum(layer.macs for layer in image.layers) > 0
    agrees(plan, graph, NARROW, ("machine",), 4)


def test_a_result_in_the_middle_is_an_output_of_the_model_too() -> None:
    graph = replace(layers(), outputs=("t0", "t3"))
    plan = cut(graph, 1, 2)
    assert plan.cores[0].outputs == ("t0",)
    agrees(plan, graph, ARCHS["tiny"], ("machine",), 2)


@pytest.mark.parametrize("weights", ["other", "same"])
def test_core_steps_share_constants_and_rely_on_nothing_that_another_streamed(weights: str) -> None:
    graph = layers()
    if weights == "same":
        b = GraphBuilder(5)
        window = {"kernel": (3, 3), "strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1)}
        x = b.conv(b.input((1, 8, 7, 7)), channels=8, group=1, window=window)
        op = b.nodes[0].op
        graph = b.finish(b.append(op, b.append(op, x)))
    plan = cut(graph, 1, 2)
    compilation = compile_levels(plan, NARROW)
    image = compilation.image
    streaming = 0
    for core, part in enumerate(compilation.parts):
        check_order(part.run, NARROW)
        streaming += any(
            instr.mnemonic == "LOAD" and instr.region == Region.PROGRAM and instr.space == Space.WEIGHT
            for _, instr in image.stream("run", core)
        )
    assert streaming >= 2
    whole = compile_graph(graph, NARROW)
    # The same weights, once.
    assert image.load_entry == whole.load_entry and image.load_count == whole.load_count
    values = graph.run(random_inputs(graph, 6))
    for order in ((2, 0, 2, 1, 1, 0, 2), (1, 2, 0)):
        driver = Driver(MachineDevice(NARROW, memory_needed(image)), image)
        for core in order:
            step = image.cores[core]
            got = driver.run_int8({name: values[name] for name in step.inputs}, core)
            for name in step.outputs:
                np.testing.assert_array_equal(got[name], values[name], err_msg=f"core step {core}, {name}")


def test_core_steps_whose_nodes_have_the_same_names_keep_their_own_weights() -> None:
    def layer(seed: int, source: QTensor | None = None) -> QGraph:
        b = GraphBuilder(seed)
        x = b.input((1, 6, 7, 7))
        b.tensors[x] = b.tensors[x] if source is None else replace(source, name=x)
        return b.finish(b.conv(x, channels=6, group=1, window=b.same(4)))

    first = layer(1)
    second = renamed(layer(2, first.tensors["t0"]), {"in0": "t0", "t0": "u0"})
    assert first.nodes[0].name == second.nodes[0].name
    plan = replace(
        Plan.of(first),
        steps=(CorePart(graph=first), CorePart(graph=second)),
        outputs=(Port(name="u0", shape=(1, 6, 7, 7), dtype="int8"),),
    )
    assert api.verify(plan, NARROW, on=("machine",)).bit_exact
    arrays = random_inputs(first, 4)
    expected = second.run({"t0": first.run(arrays)["t0"]})["u0"]
    np.testing.assert_array_equal(api.run(compile_graph(plan, NARROW), arrays).outputs["u0"], expected)


class ResetOnce(MachineDevice):
    """A device that is reset by others when it is started for the `at`-th time, and has lost its memory."""

    at = 0

    def start(self) -> None:
        self.starts = getattr(self, "starts", 0) + 1
        if self.starts == self.at:
            self.memory[:] = 0
            raise DeviceReset("the board was reset")
        super().start()


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_board_that_is_reset_between_steps_begins_the_inference_again(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = alternating(layers())
    image, arrays = compile_graph(plan, NARROW), api.random_inputs(plan, 5)
    expected = api.run(image, arrays)
    monkeypatch.setattr(machine_device, "MachineDevice", type("Once", (ResetOnce,), {"at": at}))
    with systolith.Session("machine", image) as session:
        got = session.run(arrays)
        assert session._device.starts > 3
    for name, value in expected.outputs.items():
        np.testing.assert_array_equal(got.outputs[name], value)


@pytest.mark.parametrize("backend", ["machine", "rtl"])
def test_states_of_two_core_steps_carry_on_side_by_side(backend: str) -> None:
    b = GraphBuilder(31)
    x = b.recurrent(b.input((1, 2, 11)), Cell.LSTM, 13, reverse=False)
    x = b.append(Reshape(shape=(1, 2, 13)), x)
    graph = b.finish(b.recurrent(x, Cell.GRU, 7, reverse=False))
    first = next(number for number, node in enumerate(graph.nodes) if node.output == x) + 1
    plan = cut(graph, first)
    images = [api.compile(model, ARCHS["tiny"], streaming=True) for model in (graph, plan)]
    assert [state.name for state in images[0].states] == [state.name for state in images[1].states]
    assert len(images[1].states) == 2 and len(images[1].cores) == 2
    frames = [random_inputs(graph, seed) for seed in range(4)]
    found = []
    for image in images:
        with systolith.Session(backend, image) as session:
            found.append([session.run(frame).outputs[graph.outputs[0]] for frame in frames])
            session.reset()
            np.testing.assert_array_equal(
                session.run(frames[0]).outputs[graph.outputs[0]], found[-1][0], err_msg="after a reset"
            )
            state = session.state
            assert (session.run(frames[0]).outputs[graph.outputs[0]] != found[-1][0]).any()
            session.state = state
            np.testing.assert_array_equal(session.run(frames[1]).outputs[graph.outputs[0]], found[-1][1])
    for number, (one, two) in enumerate(zip(*found, strict=True)):
        np.testing.assert_array_equal(one, two, err_msg=f"frame {number}")


# -- a fault in one of several core steps
# ------------------------------------------------------------------------------------------------------------
def faulty(plan: Plan, core: int) -> tuple[Image, int]:
    """An image whose last OUTPUT of a core step adds another zero point, and the offset of that."""
    image = compile_graph(plan, NARROW)
    isa = isa_for(NARROW)
    offset, instr = [(at, i) for at, i in image.stream("run", core) if i.mnemonic == "OUTPUT"][-1]
    word = isa.encode(
        isa.make("OUTPUT", **{**instr.operands, "zero": instr.zero ^ 0x15, "high": 127, "low": -128})
    )
    return replace(image, program=image.program[:offset] + word + image.program[offset + len(word) :]), offset


@pytest.mark.parametrize("core", [0, 1])
def test_a_fault_is_located_in_the_core_step_that_has_it(core: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = alternating(layers())
    image, offset = faulty(plan, core)
    monkeypatch.setattr(verifying, "compile_plan", lambda *_, **__: image)
    (difference,) = api.verify(plan, NARROW, on=("machine",)).differences
    number = 2 + 2 * core
    assert difference.step == number and f"of step {number} differ" in str(difference)
    found = difference.location
    assert (found.step, found.offset, found.engine) == (number, offset, "OUTPUT")
    assert ("where", f"run stream of step {number}") in found.rows()
    assert found.layer in [layer.name for layer in image.cores[core].layers]
    assert difference.as_dict()["step"] == found.as_dict()["step"] == number
    values = api.run_reference(plan, api.random_inputs(plan, 0)).raw
    assert values[found.tensor][found.index] == found.expected


def test_rtl_that_leaves_the_machine_in_the_second_core_step_is_located_there() -> None:
    """The core is right and the machine runs another program: what differs, differs in the second step."""
    plan = alternating(layers())
    image, offset = faulty(plan, 1)
    right = compile_graph(plan, NARROW)
    expected = api.run_reference(plan, api.random_inputs(plan, 0))
    memory = locate._machine

    def machine(of: Image) -> MachineDevice:
        device = memory(of)
        write = device.write

        def other(address: int, data: bytes) -> None:
            write(address, right.program if data == image.program else data)

        device.write = other
        return device

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locate, "_machine", machine)
        found = locate.locate_rtl(plan, image, expected.written, locate.Tracing())
    assert found is not None
    assert (found.step, found.offset, found.kind, found.stream) == (4, offset, "wrong", "run")
    assert found.cycle is not None and found.tensor is not None
    assert locate.locate_rtl(plan, right, expected.written, locate.Tracing()) is None


# -- levels, refusals, and what is printed
# ------------------------------------------------------------------------------------------------------------
def test_a_plan_that_contradicts_itself_is_found() -> None:
    plan = cut(layers(), 2)
    first, second = plan.steps
    verify_plan(plan)
    with pytest.raises(VerifyError, match="step 1 reads 't1', which nothing before it gives"):
        verify_plan(replace(plan, steps=(second, first)))
    with pytest.raises(VerifyError, match="step 2 gives 't0' again"):
        verify_plan(replace(plan, steps=(first, first)))
    with pytest.raises(VerifyError, match="nothing gives the output 'other'"):
        verify_plan(replace(plan, outputs=(Port(name="other", shape=None, dtype="int8"),)))
    tensors = {**second.graph.tensors, "t0": replace(second.graph.tensors["t0"], scale=0.06)}
    changed = CorePart(graph=replace(second.graph, tensors=tensors))
    with pytest.raises(VerifyError, match="step 2 has another format of 't0' than a core step before it"):
        verify_plan(replace(plan, steps=(first, changed)))


def test_a_core_step_does_not_write_over_tensors_of_another() -> None:
    part = compile_levels(cut(layers(), 2), NARROW).parts[0]
    low = part.lowering
    stored = next(instr for instr in low.instrs if instr.mnemonic == "STORE")
    verify_lowering(low, [(stored.offset - 16, stored.offset)])
    with pytest.raises(VerifyError, match="STORE.*, which another core step reads or gives"):
        verify_lowering(low, [(stored.offset, stored.offset + 16)])


def test_a_plan_without_a_core_runs_on_the_host() -> None:
    graph = real(layers())
    step = host_step(graph, "in0", "y", "Sigmoid")
    shape = graph.tensors["in0"].shape
    plan = Plan(
        name="m",
        steps=(step,),
        inputs=(Port(name="in0", shape=shape, dtype="float32"),),
        outputs=(Port(name="y", shape=shape, dtype="float32"),),
    )
    image = Image.from_bytes(compile_graph(plan, PRESETS["tiny"]).to_bytes())
    assert image.cores == () and image.cycles == 0 and image.layers == ()
    x = np.linspace(-1, 1, np.prod(shape), dtype=np.float32).reshape(shape)
    result = api.run(image, {"in0": x})
    np.testing.assert_allclose(result.outputs["y"], 1 / (1 + np.exp(-x)), rtol=1e-5)
    assert result.cycles == 0 and set(result.host_seconds) == {1}
    assert api.verify(plan, PRESETS["tiny"], on=("machine",)).bit_exact
    assert api.describe(image, 0)["steps"][0]["where"] == "host"
    assert repr(plan) == "<Plan 'm': 1 steps, 0 of the core, 1 nodes on the host>"


def test_what_a_host_step_gives_the_core_must_be_what_the_core_takes() -> None:
    graph = real(layers())
    plan = by_way_of_the_host(cut(graph, 2), 1, ["t1"])
    image = compile_graph(plan, NARROW)
    tensors = tuple(
        replace(io, shape=(1, 8, 49), order=(0, 2, 1)) if io.name == "t1_host" else io for io in image.tensors
    )
    sentence = (
        r"step 2 \(node 'at_t1'\) gives 't1_host', which must have shape \[1, 8, 49\], not \[1, 8, 7, 7\]"
    )
    with pytest.raises(HostStepError, match=sentence):
        api.run(replace(image, tensors=tensors), api.random_inputs(plan, 0))
    wrong = host_step(graph, "t1", "t1_host", "Log")
    image = compile_graph(replace(plan, steps=(plan.steps[0], wrong, plan.steps[2])), NARROW)
    with pytest.raises(
        HostStepError, match=r"step 2 \(node 'at_t1'\) gives NaN in 't1_host', which int8 cannot"
    ):
        api.run(image, api.random_inputs(plan, 0))


def test_a_dump_and_a_listing_name_the_steps(tmp_path, capsys) -> None:
    from systolith import cli

    plan = alternating(layers())
    image = api.compile(plan, NARROW, dump=tmp_path / "dump")
    image.save(tmp_path / "m.sysl")
    names = {path.name for path in (tmp_path / "dump").iterdir()}
    levels = ("graph", "lowered", "placement", "program")
    assert names == {
        *(f"step{number}-host.onnx" for number in (1, 3, 5)),
        *(f"step{number}-{level}.txt" for number in (2, 4) for level in levels),
        "constants.txt",
    }
    assert cli.main(["disasm", str(tmp_path / "m.sysl")]) == 0
    titles = [line for line in capsys.readouterr().out.splitlines() if line.startswith("#")]
    assert titles == ["# load stream", "# run stream of step 2", "# run stream of step 4"]
