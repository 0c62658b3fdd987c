"""The functional machine behind the same `Device` interface as RTL and board."""

from __future__ import annotations

import numpy as np

from systolith.reference.machine import Machine, MachineError, Observer
from systolith.reference.meter import Meter
from systolith.spec.arch import ArchConfig
from systolith.spec.errors import DeviceError
from systolith.spec.regs import CSRS, DEFAULT_WATCHDOG, Access, Control, ErrorCode, Status, config_values

__all__ = ["MachineDevice"]


class MachineDevice:
    """A core and its external memory, simulated instruction by instruction.

    The program runs when somebody waits for it, or looks at what it does.

    Parameters
    ----------
    arch : ArchConfig
    memory_bytes : int          external memory, from address 0
    on_instruction : callable   see `Machine`
    """

    def __init__(
        self, arch: ArchConfig, memory_bytes: int = 1 << 26, on_instruction: Observer | None = None
    ) -> None:
        self.arch = arch
        self.memory = np.zeros(memory_bytes, np.uint8)
        self.on_instruction = on_instruction
        self.csrs = dict.fromkeys(CSRS, 0) | config_values(arch) | {"WATCHDOG": DEFAULT_WATCHDOG}
        self.machine: Machine | None = None
        self._started = False

    @property
    def memory_bytes(self) -> int:
        """Size of external memory, from address 0 on."""
        return len(self.memory)

    def write(self, addr: int, data: bytes) -> None:
        """Copy bytes into external memory."""
        self._finish(None)
        self.memory[self._range(addr, len(data))] = np.frombuffer(data, np.uint8)

    def read(self, addr: int, size: int) -> bytes:
        """Bytes of external memory."""
        self._finish(None)
        return self.memory[self._range(addr, size)].tobytes()

    def csr_read(self, name: str) -> int:
        """A register by name."""
        self._finish(None)
        return self.csrs[name]

    def csr_write(self, name: str, value: int) -> None:
        """Set a register by name; read-only ones ignore it."""
        if name == "CONTROL" and value & Control.RESET:
            self.reset()
        elif name == "CONTROL" and value & Control.START:
            self.start()
        elif CSRS[name].access is Access.WRITE:
            self._finish(None)
            self.csrs[name] = value & 0xFFFF_FFFF

    def start(self) -> None:
        """Begin executing at ENTRY."""
        self._finish(None)
        self._started = True

    def prepare(self) -> Machine:
        """The machine, ready to execute from ENTRY, for a caller that steps it itself."""
        program = self._region("PROGRAM")
        data = self._region("DATA")
        if self.machine is None:
            self.machine = Machine(self.arch, program, data, self.on_instruction)
        self.machine.set_regions(program, data)
        # START resets every engine; memories keep what they hold.
        self.machine.reset()
        return self.machine

    def wait(self, timeout_cycles: int | None = None) -> None:
        """Execute to HALT or to the first error.

        Raises
        ------
        OutOfCyclesError   If the engines would be busy for more than `timeout_cycles`, one after another.
        DeviceError        If an instruction needs more memory than any program has reason to.
        """
        self._finish(timeout_cycles)

    def open(self) -> None:
        """Nothing to do: this device is never reset by others."""

    def close(self) -> None:
        """Nothing to release."""

    def watch(self) -> None:
        """Nothing to watch: this device has no clock."""

    def dones(self) -> None:
        """None, for want of a clock."""
        return None

    def _finish(self, budget: int | None) -> None:
        """What was started runs to its end."""
        if not self._started:
            return
        self._started = False
        machine = self.prepare()
        machine.meter = Meter(self.arch, budget)
        before = machine.instructions
        try:
            machine.run(self.csrs["ENTRY"])
            self.csrs |= {"STATUS": Status.DONE, "ERROR_CODE": ErrorCode.NONE, "ERROR_ADDR": 0}
        except MachineError as error:
            self.csrs |= {"STATUS": Status.ERROR, "ERROR_CODE": error.code, "ERROR_ADDR": error.offset}
        except DeviceError:
            self.csrs |= {"STATUS": Status.RUNNING, "ERROR_CODE": ErrorCode.NONE}
            self.csrs["ERROR_ADDR"] = machine.offset
            raise
        finally:
            self.csrs["INSTRUCTIONS"] = machine.instructions - before

    def reset(self) -> None:
        """Back to idle; SRAM contents are kept, as in hardware."""
        self._started = False
        self.csrs |= {"STATUS": 0, "ERROR_CODE": 0, "ERROR_ADDR": 0}
        if self.machine is not None:
            self.machine.reset()

    def _region(self, name: str) -> np.ndarray:
        base = self.csrs[f"{name}_LO"] | self.csrs[f"{name}_HI"] << 32
        return self.memory[self._range(base, self.csrs[f"{name}_SIZE"])]

    def _range(self, addr: int, size: int) -> slice:
        if not 0 <= addr <= addr + size <= len(self.memory):
            raise ValueError(
                f"bytes {addr} to {addr + size} lie outside the memory of {len(self.memory)} bytes"
            )
        return slice(addr, addr + size)
