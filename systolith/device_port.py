"""From the name of a port to a board as a `Device`: a serial port of this computer, or a board in
simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from systolith.arrays import ApiError
from systolith.host.serial import SerialDevice, SerialPort
from systolith.spec.arch import ArchConfig

if TYPE_CHECKING:
    from systolith.boards.board import Board

__all__ = ["SIMULATED_PREFIX", "find_board", "open_device", "open_port", "simulated_arch"]

#: A port of this kind is followed by the name of a board, which runs under Verilator.
SIMULATED_PREFIX = "sim:"


def find_board(name: str, role: str) -> Board:
    """A board by its name.

    Raises
    ------
    ApiError   If there is none; `role` says what the name was for.
    """
    from systolith.boards.board import BOARDS

    if name not in BOARDS:
        raise ApiError(f"there is no board {name!r} for {role}: choose from {', '.join(BOARDS)}")
    return BOARDS[name]


def simulated_arch(port: str | None) -> ArchConfig | None:
    """That of the board in simulation; None for a port of this computer, or none.

    Raises
    ------
    ApiError   If there is no board of this name.
    """
    if port is None or not port.startswith(SIMULATED_PREFIX):
        return None
    return find_board(port.removeprefix(SIMULATED_PREFIX), f"the port {port!r}").arch


def open_device(port: str | None, arch: ArchConfig) -> SerialDevice:
    """A board with this architecture, on a port.

    Parameters
    ----------
    port : str          a serial port, or sim:NAME for a board in simulation
    arch : ArchConfig   its name says which board is on a serial port

    Raises
    ------
    ApiError          If there is no port, or no board of this name.
    DeviceError       If no board answers.
    SimulationError   If the simulation cannot be built.
    """
    if port is None:
        raise ApiError(
            "a board needs --port: the name of its serial port, or sim:NAME for a board in simulation"
        )
    board = None if port.startswith(SIMULATED_PREFIX) else find_board(arch.name, f"the port {port!r}")
    return open_port(port, board)


def open_port(port: str, board: Board | None) -> SerialDevice:
    """A board on a port; one in simulation is built first where it is not cached.

    Parameters
    ----------
    board : Board   for a serial port; sim:NAME names its own

    Raises
    ------
    ApiError, DeviceError, SimulationError   As `open_device`.
    """
    if port.startswith(SIMULATED_PREFIX):
        from systolith.sim.board import SimulatedBoard

        simulated = find_board(port.removeprefix(SIMULATED_PREFIX), f"the port {port!r}")
        return SerialDevice(
            SimulatedBoard(simulated.arch, simulated.memory, name=port, pin_cycles=simulated.pin_cycles),
            simulated.memory.bytes,
        )
    return SerialDevice(SerialPort(port, board.baud), board.memory.bytes)
