"""What every thing that can run an image offers: machine, RTL, netlist, board."""

from __future__ import annotations

from typing import Protocol

from systolith.spec.errors import SystolithError

__all__ = ["Device", "DeviceError", "DeviceReset"]


class DeviceError(SystolithError):
    """A device that is not the one an image was compiled for, or that stopped with an error."""


class DeviceReset(DeviceError):
    """A device that was reset since it was opened: memory, registers and what was loaded are lost, so nothing
    may go on."""


class Device(Protocol):
    """External memory and CSRs of one core.

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
        DeviceError   If it still runs after `timeout_cycles`.
        """

    def reset(self) -> None:
        """Bring the core to idle."""
