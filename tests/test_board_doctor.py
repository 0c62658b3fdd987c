"""`systolith doctor --board`: a good board passes, and each planted fault is found where it is."""

import dataclasses
import json

import pytest

from systolith import board_doctor, cli
from systolith.board_doctor import built_in_program
from systolith.boards.board import BOARDS
from systolith.sim.board import SimulatedBoard
from tests.boards_bench import SMALL, FaultyBoard

CHECKS = ["link", "core", "digest", "memory", "clock", "program"]


@pytest.fixture(autouse=True)
def small_board(monkeypatch):
    """`sim:small` is a board; `other` has another core."""
    monkeypatch.setitem(BOARDS, "small", SMALL)
    other = dataclasses.replace(
        SMALL, name="other", arch=dataclasses.replace(SMALL.arch, name="other", acc_depth=64)
    )
    monkeypatch.setitem(BOARDS, "other", other)


def doctor(tmp_path, board: str = "small", port: str = "sim:small") -> tuple[int, dict[str, dict]]:
    """Exit status, and the checks by name."""
    path = tmp_path / "doctor.json"
    status = cli.main(["doctor", "--board", board, "--port", port, "--json", str(path)])
    result = json.loads(path.read_text())
    assert result["ok"] == (status == 0)
    return status, {check["name"]: check for check in result["checks"]}


def plant(monkeypatch, plant_fault) -> None:
    """Boards in simulation have this fault."""

    class Faulty(SimulatedBoard):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            plant_fault(self)

    monkeypatch.setattr("systolith.sim.board.SimulatedBoard", Faulty)


def assert_fails_at(checks: dict[str, dict], name: str, text: str) -> None:
    """All before passed, all behind were not made."""
    at = CHECKS.index(name)
    assert {n: c["ok"] for n, c in checks.items()} == {
        n: True if i < at else False if i == at else None for i, n in enumerate(CHECKS)
    }
    assert text in checks[name]["detail"], checks[name]["detail"]


def test_a_good_board_passes(tmp_path, capsys):
    status, checks = doctor(tmp_path)
    assert status == 0 and list(checks) == CHECKS
    assert "75.00 MHz" in checks["clock"]["detail"]
    assert "at every address bit" in checks["memory"]["detail"]


def test_a_dead_link(tmp_path, monkeypatch, capsys):
    plant(monkeypatch, lambda board: board.cut())
    status, checks = doctor(tmp_path)
    assert status == 2
    assert_fails_at(checks, "link", "no board answers on 'sim:small'")
    assert "systolith: small fails at its link: no board answers" in capsys.readouterr().err


def test_a_bad_line(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "systolith.sim.board.SimulatedBoard",
        lambda *args, **options: FaultyBoard(*args, seed=3, faults=0.15, **options),
    )
    status, checks = doctor(tmp_path)
    assert status == 2
    assert_fails_at(checks, "link", "requests had to be repeated: the line is bad; use a shorter cable")


def test_another_core(tmp_path):
    status, checks = doctor(tmp_path, board="other", port="sim:small")
    assert status == 2
    assert_fails_at(checks, "digest", "systolith build --board other, and load it")


# Pin n of the chip's address carries bit n of the column and of the row: words of 2 bytes, 512 columns, 4
# banks.
@pytest.mark.parametrize(("pin", "bits"), [(3, "4, 15"), (7, "8, 19"), (11, "23")])
def test_a_stuck_address_pin(tmp_path, monkeypatch, pin, bits):
    plant(monkeypatch, lambda board: board.stick_pins(1 << pin))
    status, checks = doctor(tmp_path)
    assert status == 2
    assert_fails_at(checks, "memory", f"address bits {bits} make no difference; look at the address pins")


def test_a_stuck_data_pin(tmp_path, monkeypatch):
    plant(monkeypatch, lambda board: board.stick_pins(data=1 << 5))
    status, checks = doctor(tmp_path)
    assert status == 2
    # A beat is two words of the chip.
    assert_fails_at(checks, "memory", "bits 5, 21 of the bus are wrong; look at the data pins")


def test_a_wrong_clock(tmp_path, monkeypatch):
    class Slow(SimulatedBoard):
        def now(self):
            return super().now() * 1.05

    monkeypatch.setattr("systolith.sim.board.SimulatedBoard", Slow)
    status, checks = doctor(tmp_path)
    assert status == 2
    assert_fails_at(checks, "clock", "the core runs at 71.4")


def test_a_wrong_result(tmp_path, monkeypatch):
    compiled = board_doctor._compiled
    monkeypatch.setattr(
        board_doctor, "_compiled", lambda graph, arch: compiled(built_in_program(seed=1), arch)
    )
    status, checks = doctor(tmp_path)
    assert status == 2
    assert_fails_at(
        checks, "program", "results of the built-in convolution are wrong, though the memory is good"
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--board", "small"], "a board is checked with both --board, its name, and --port"),
        (["--port", "sim:small"], "a board is checked with both --board, its name, and --port"),
        (
            ["--board", "nothing", "--port", "sim:small"],
            "there is no board 'nothing' for --board: choose from {}",
        ),
        (
            ["--board", "small", "--port", "sim:nothing"],
            "there is no board 'nothing' for the port 'sim:nothing'",
        ),
    ],
)
def test_what_does_not_name_a_board_is_refused(capsys, arguments, text):
    assert cli.main(["doctor", *arguments]) == 2
    assert text.format(", ".join(BOARDS)) in capsys.readouterr().err
