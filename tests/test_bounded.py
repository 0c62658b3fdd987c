"""Every run ends: budgets of cycles, and memory of one instruction, on crafted images too."""

import time
from dataclasses import replace

import numpy as np
import pytest

from systolith import api, cli
from systolith.compiler.driver import compile_graph
from systolith.host.budget import MARGIN, MOST_CYCLES, budget_of
from systolith.host.driver import Driver
from systolith.options import Running
from systolith.reference.machine_device import MachineDevice
from systolith.session import Session
from systolith.sim.native import RtlDevice
from systolith.spec.arch import PRESETS
from systolith.spec.errors import DeviceError, OutOfCyclesError
from systolith.spec.image import Image
from systolith.spec.isa import isa_for
from systolith.spec.memory import FULL_RATE, MemoryTiming
from systolith.spec.plan import CoreStep
from systolith.spec.regs import DEFAULT_WATCHDOG
from tests.graphs import GraphBuilder, random_inputs
from tests.plans import with_core

ARCH = PRESETS["tiny"]
ISA = isa_for(ARCH)


def crafted(mnemonic: str, *fields: str, cycles: int = 12, **operands: int) -> Image:
    """An image of one instruction whose `fields` are as large as they can be."""
    known = {field.name: field for field in ISA.by_mnemonic[mnemonic].fields}
    full = {name: known[name].max for name in fields}
    run = [ISA.make(mnemonic, **full, **operands), ISA.make("HALT")]
    step = CoreStep(
        entry=ISA.word_bytes, count=2, cycles=cycles, inputs=(), outputs=(), layers=(), owners=(-1, -1)
    )
    return Image(
        arch=ARCH, model="crafted", program=b"".join(map(ISA.encode, [ISA.make("HALT"), *run])), load_entry=0,
        load_count=1, data_bytes=4096, inputs=(), outputs=(), tensors=(), steps=(step,),
    )  # fmt: skip


POOL = ("POOL", "ny", "nx", "bytes", "ky", "kx")
LOAD = ("LOAD", "planes", "rows")


@pytest.fixture(scope="module")
def honest() -> Image:
    builder = GraphBuilder(3)
    return compile_graph(builder.finish(builder.conv(builder.input((1, 3, 6, 6)))), ARCH)


@pytest.mark.parametrize("image", [crafted(*POOL), crafted(*LOAD)], ids=["POOL", "LOAD"])
def test_an_endless_instruction_stops_on_the_machine_before_it_begins(image: Image) -> None:
    begin = time.monotonic()
    with pytest.raises(OutOfCyclesError, match=r"after [\d,]+ cycles, the budget .*--max-cycles"):
        api.run(image, {})
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("image", [crafted(*POOL), crafted(*LOAD)], ids=["POOL", "LOAD"])
def test_one_instruction_has_a_bound_of_its_own(image: Image) -> None:
    with pytest.raises(DeviceError, match="^(POOL|LOAD) moves"):
        api.run(image, {}, max_cycles=1 << 62)


def test_an_endless_instruction_stops_on_rtl_and_the_next_program_runs(honest: Image) -> None:
    with RtlDevice(ARCH) as device:
        with pytest.raises(OutOfCyclesError, match="after 20,000 cycles"):
            Driver(device, crafted(*POOL), max_cycles=20_000).run_int8({})
        # The core was reset: it is idle, not busy with what was given up.
        assert device.csr_read("STATUS") == 0
        inputs = {io.name: np.zeros(io.shape, np.int8) for io in honest.inputs}
        got = Driver(device, honest).run_int8(inputs)
        expected = Driver(MachineDevice(ARCH), honest).run_int8(inputs)
        assert all(np.array_equal(got[name], expected[name]) for name in expected)


def test_an_estimate_beyond_belief_is_refused_before_anything_runs() -> None:
    image = crafted(*POOL, cycles=MOST_CYCLES + 1)
    with pytest.raises(DeviceError, match=r"1,073,741,825 cycles by the image's own estimate.*--max-cycles"):
        api.run(image, {})
    with pytest.raises(DeviceError, match="^POOL moves"):
        api.run(image, {}, max_cycles=1 << 62)


def test_the_budget_is_a_multiple_of_the_estimate_on_that_memory(honest: Image) -> None:
    slow = MemoryTiming(latency=100, bytes_per_cycle=1)
    for memory, wait in ((FULL_RATE, 33), (slow, 100 + ARCH.bus_bytes)):
        expected = 2 * DEFAULT_WATCHDOG + MARGIN * wait * (honest.cycles + honest.core.count)
        assert budget_of(honest, memory).runs == (expected,)
    assert budget_of(honest, FULL_RATE, 7) == budget_of(honest, slow, 7)
    # Counts of a damaged header do not raise it without end.
    damaged = replace(with_core(honest, count=1 << 40), load_count=1 << 40)
    assert budget_of(damaged, FULL_RATE).runs[0] < 3 * DEFAULT_WATCHDOG
    assert budget_of(with_core(honest, cycles=MOST_CYCLES), FULL_RATE).runs[0] == MOST_CYCLES


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("backend", ["machine", "rtl"])
def test_an_honest_program_stays_far_below_its_budget(honest: Image, backend: str, seed: int) -> None:
    timing = MemoryTiming(latency=200, bytes_per_cycle=1)
    budget = budget_of(honest, timing)
    rng = np.random.default_rng(seed)
    inputs = {io.name: rng.integers(-128, 128, io.shape).astype(np.int8) for io in honest.inputs}
    with Session(backend, honest, Running(memory=timing)) as session:
        result = session.run(inputs)
    assert session.load_cycles * MARGIN <= budget.load - 2 * DEFAULT_WATCHDOG
    assert result.cycles * MARGIN <= budget.runs[0] - 2 * DEFAULT_WATCHDOG


def test_a_budget_that_is_too_small_is_told_on_the_command_line(
    honest: Image, tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    honest.save(tmp_path / "m.sysl")
    np.savez(tmp_path / "x.npz", **{io.name: np.zeros(io.shape, io.dtype) for io in honest.inputs})
    command = ["run", str(tmp_path / "m.sysl"), "--inputs", str(tmp_path / "x.npz"), "--max-cycles"]
    assert cli.main([*command, "10"]) == 2
    assert "after 10 cycles" in capsys.readouterr().err
    assert cli.main([*command, "1000000"]) == 0
    assert cli.main([*command, "0"]) == 2
    assert "--max-cycles" in capsys.readouterr().err
    with pytest.raises(api.ApiError, match="max_cycles"):
        api.run(honest, {}, max_cycles=0)


def test_verify_reports_a_backend_that_does_not_end() -> None:
    builder = GraphBuilder(3)
    graph = builder.finish(builder.conv(builder.input((1, 3, 6, 6))))
    result = api.verify(graph, ARCH, random_inputs(graph, 0), on=("machine",), max_cycles=10, locate=False)
    assert "machine: the core still runs after 10 cycles" in str(result.differences[0])
