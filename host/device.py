"""What every thing that can run an image offers: machine, RTL, netlist, board."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from systolith.spec.errors import DeviceError
from systolith.spec.isa import Engine

__all__ = ["Core", "Device", "DeviceError", "DeviceReset"]


class DeviceReset(DeviceError):
    """A device that was reset since it was opened: memory, registers and what was loaded are lost, so nothing
    may go on."""


class Core(Protocol):
    """External memory and CSRs of one core: what a driver needs.

    Members
    -------
    memory_bytes : size of external memory, from address 0 on; what lies beyond is never touched
    """

    @property
    def memory_bytes(self) -> int:
        """Size of external memory, from address 0 on."""

    def write(self, addr: int, data: bytes) -> None:
        """Copy bytes into external memory."""

    def read(self, addr: int, size: int) -> bytes:
        """Bytes of external memory."""

    def csr_read(self, name: str) -> int:
        """A register of `spec.regs` by name."""

    def csr_write(self, name: str, value: int) -> None:
        """Set a register by name."""

    def start(self) -> None:
        """Begin executing at ENTRY."""

    def wait(self, timeout_cycles: int | None = None) -> None:
        """Return when the core is no longer running.

        Raises
        ------
        OutOfCyclesError   If it still runs after `timeout_cycles`.
        """

    def reset(self) -> None:
        """Bring the core to idle."""


class Device(Core, Protocol):
    """A core with the life around it: what a session needs."""

    def open(self) -> None:
        """Begin anew after `DeviceReset`; what the device holds is unknown from here on."""

    def close(self) -> None:
        """Release it."""

    def watch(self) -> None:
        """Note from now on when instructions are done."""

    def dones(self) -> Sequence[tuple[int, Engine]] | None:
        """When instructions were done since `watch`: cycle since the last START, and engine, in order of
        time;
        None where there is no clock, or nothing that tells."""
