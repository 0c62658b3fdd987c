"""A whole board in simulation: the serial line, the link, the core, the SDRAM controller, and the chip with
its rules."""

import json
import random

import numpy as np
import pytest

from systolith import api, cli, session
from systolith.board_doctor import built_in_program
from systolith.boards.board import BOARDS
from systolith.compiler.driver import compile_graph
from systolith.host.device import DeviceError, DeviceReset
from systolith.host.driver import Driver
from systolith.host.serial import SerialDevice
from systolith.sim.board import BoardError, SimulatedBoard
from systolith.sim.verilator import SimulationError
from systolith.spec.arch import PRESETS
from tests.boards_bench import SMALL, FaultyBoard, simulate
from tests.compiler.qdq import QdqModel
from tests.graphs import CompactGraphs, assert_same_bits, random_graph, random_inputs


@pytest.fixture(autouse=True)
def small_board(monkeypatch):
    """`sim:small` is a board."""
    monkeypatch.setitem(BOARDS, "small", SMALL)


@pytest.fixture
def device():
    device = SerialDevice(simulate(SMALL))
    yield device
    device.close()


def on_faulty_board(monkeypatch, **faults) -> list[FaultyBoard]:
    """Sessions on 'board' get such boards, which are collected."""
    made: list[FaultyBoard] = []

    def open_device(port, arch):
        made.append(simulate(SMALL, FaultyBoard, **faults))
        return SerialDevice(made[-1])

    monkeypatch.setattr(session, "open_device", open_device)
    return made


def test_memory_holds_what_the_host_wrote_at_any_alignment(device):
    rng = random.Random(5)
    board, size = device.transport, SMALL.memory.bytes
    for addr in (0, 1, 511, 4094, size // 2 - 3, size - 700):
        data = rng.randbytes(700)
        board.memory_write(addr - addr % 2, bytes(702))
        device.write(addr, data)
        assert device.read(addr, 700) == data == board.memory_read(addr, 700), f"address {addr:#x}"
    assert device.statistics.retries == 0


def test_memory_past_the_chip_answers_an_error(device):
    with pytest.raises(DeviceError, match=r"memory read at 0x2000000 with an error: is there memory"):
        device.read(SMALL.memory.bytes, 4)
    assert len(device.read(SMALL.memory.bytes - 4, 4)) == 4


@pytest.mark.parametrize("seed", range(3))
def test_a_board_gives_the_bits_of_the_reference(device, seed):
    graph = random_graph(seed)
    assert_same_bits(Driver(device, compile_graph(graph, SMALL.arch), max_cycles=5_000_000), graph, seed)


def test_the_host_may_use_memory_while_the_core_does(device):
    rng = random.Random(1)
    graph = random_graph(11, steps=8, largest=14)
    driver = Driver(device, compile_graph(graph, SMALL.arch))
    data, base = rng.randbytes(2000), SMALL.memory.bytes // 2
    start = device.start

    def start_and_write() -> None:
        start()
        device.write(base + 1, data)
        assert device.read(base + 1, 2000) == data

    device.start = start_and_write
    assert_same_bits(driver, graph, 11)


@pytest.mark.parametrize("seed", range(3))
def test_a_bad_line_never_gives_a_wrong_result(monkeypatch, seed):
    made = on_faulty_board(monkeypatch, seed=seed, faults=0.1, breaks=0.05)
    graph = random_graph(seed + 20)
    with session.Session("board", compile_graph(graph, SMALL.arch)) as board:
        for run in range(3):
            inputs = random_inputs(graph, run)
            expected = graph.run(inputs)
            actual = board.run(inputs).raw
            assert all(np.array_equal(actual[name], expected[name]) for name in graph.outputs), (
                f"seed {seed}, run {run}"
            )
        assert board._device.statistics.retries > 5, f"the line was better than it should be (seed {seed})"
    assert len(made) == 1


@pytest.mark.parametrize("seed", range(2))
def test_a_reset_at_any_time_never_gives_a_wrong_result(monkeypatch, seed):
    made = on_faulty_board(monkeypatch, seed=seed, resets=0.02)
    graph = random_graph(seed + 30, steps=2, largest=5)
    finished = 0
    for run in range(6):
        inputs = random_inputs(graph, run)
        expected = graph.run(inputs)
        try:
            with session.Session("board", compile_graph(graph, SMALL.arch)) as board:
                actual = board.run(inputs).raw
        except DeviceReset:
            # Too many of them.
            continue
        finished += 1
        assert all(np.array_equal(actual[name], expected[name]) for name in graph.outputs), (
            f"seed {seed}, run {run}"
        )
    assert finished > 2 and sum(board.reset_count for board in made) > 2, f"seed {seed}"


def test_a_broken_rule_of_the_chip_is_reported(device):
    # Without A10 a PRECHARGE never closes all banks, which the chip needs when it starts.
    device.transport.stick_pins(1 << 10)
    device.transport.reset()
    with pytest.raises(BoardError, match=r"sim:small: SDRAM: .*cycle"):
        device.transport.run(20_000)


@pytest.fixture
def model(tmp_path):
    """A float model of one quantised convolution, and inputs for it."""
    qdq = QdqModel(3)
    x = qdq.input(1, 3, 6, 6)
    y = qdq.quantise(qdq.node("Conv", x, qdq.weights(4, 3, 3, 3)), 0.1)
    path = tmp_path / "model.onnx"
    path.write_bytes(qdq.build(y).SerializeToString())
    np.savez(
        tmp_path / "x.npz",
        **{qdq.inputs[0].name: np.random.default_rng(0).normal(0, 2, (1, 3, 6, 6)).astype(np.float32)},
    )
    return path


def test_run_on_a_board_writes_what_the_reference_gives(model, tmp_path):
    outputs = {}
    for backend, options in (("reference", []), ("board", ["--port", "sim:small"])):
        assert (
            cli.main(
                [
                    "run",
                    str(model),
                    "--inputs",
                    str(tmp_path / "x.npz"),
                    "--outputs",
                    str(tmp_path / "y.npz"),
                    "--on",
                    backend,
                    *options,
                ]
            )
            == 0
        )
        outputs[backend] = dict(np.load(tmp_path / "y.npz"))
    assert outputs["reference"].keys() == outputs["board"].keys()
    for name, value in outputs["reference"].items():
        np.testing.assert_array_equal(outputs["board"][name], value)


def test_verify_compares_a_board(model, monkeypatch, tmp_path):
    monkeypatch.setitem(PRESETS, "small", SMALL.arch)
    report = tmp_path / "verify.json"
    assert (
        cli.main(
            [
                "verify",
                str(model),
                "--arch",
                "small",
                "--on",
                "machine,board",
                "--port",
                "sim:small",
                "--json",
                str(report),
            ]
        )
        == 0
    )
    result = json.loads(report.read_text())
    assert result["bit_exact"] and result["backends"]["board"]["cycles"] > 0


def test_verify_sees_a_board_whose_memory_is_at_fault(model, monkeypatch, capsys):
    class Forgetful(SimulatedBoard):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.stick_pins(1 << 3)

    monkeypatch.setattr("systolith.sim.board.SimulatedBoard", Forgetful)
    result = api.verify(model, SMALL.arch, on=("machine", "board"), port="sim:small")
    assert not result.bit_exact and {d.backend for d in result.differences} == {"board"}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "a board needs --port: the name of its serial port, or sim:NAME for a board in simulation"),
        (["--port", "sim:nothing"], "there is no board 'nothing' for the port 'sim:nothing': choose from {}"),
        (["--port", "/dev/nowhere"], "there is no board 'tiny' for the port '/dev/nowhere': choose from {}"),
        (["--port", "sim:small"], "the image was compiled for another core"),
    ],
)
def test_ports_that_cannot_be_used_are_refused(model, tmp_path, capsys, arguments, text):
    command = [
        "run",
        str(model),
        "--arch",
        "tiny",
        "--inputs",
        str(tmp_path / "x.npz"),
        "--on",
        "board",
        *arguments,
    ]
    assert cli.main(command) == 2
    assert text.format(", ".join(BOARDS)) in capsys.readouterr().err


def test_a_port_that_is_missing_is_refused_by_verify_too(model, monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, "small", SMALL.arch)
    assert cli.main(["verify", str(model), "--arch", "small", "--on", "board", "--port", "/dev/nowhere"]) == 2
    assert "cannot open the port '/dev/nowhere' at 3,000,000 baud" in capsys.readouterr().err


def test_a_board_without_a_memory_chip():
    board = BOARDS["icebreaker"]
    result = api.verify(built_in_program(), board.arch, on=("machine", "board"), port="sim:icebreaker")
    assert result.bit_exact and result.backends["board"].cycles > 0
    device = SerialDevice(simulate(board))
    with pytest.raises(DeviceError, match=f"memory write at 0x{board.memory.bytes:x} with an error"):
        device.write(board.memory.bytes, b"x")
    with pytest.raises(SimulationError, match="sim:icebreaker has no memory chip"):
        device.transport.memory_read(0, 4)
    device.close()


def test_a_board_with_a_compact_core_and_a_memory_chip(tmp_path):
    board = BOARDS["tang_nano_20k"]
    result = api.verify(built_in_program(), board.arch, on=("machine", "board"), port="sim:tang_nano_20k")
    assert result.bit_exact and result.backends["board"].cycles > 0
    assert (
        cli.main(
            [
                "doctor",
                "--board",
                board.name,
                "--port",
                f"sim:{board.name}",
                "--json",
                str(tmp_path / "doctor.json"),
            ]
        )
        == 0
    )


# Building such a simulation takes a minute.
@pytest.mark.slow
@pytest.mark.parametrize("name", list(BOARDS))
def test_a_board_as_it_is_sold(tmp_path, name):
    graph = (
        CompactGraphs(4).build(steps=8) if BOARDS[name].arch.compact else random_graph(4, steps=8, largest=14)
    )
    result = api.verify(graph, BOARDS[name].arch, on=("machine", "board"), port=f"sim:{name}")
    assert result.bit_exact and result.backends["board"].cycles > 0
    assert (
        cli.main(
            ["doctor", "--board", name, "--port", f"sim:{name}", "--json", str(tmp_path / "doctor.json")]
        )
        == 0
    )
