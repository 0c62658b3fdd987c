"""The functional machine behind the same `Device` interface as RTL and board."""

from __future__ import annotations

import numpy as np

from systolith.reference.machine import Machine, MachineError
from systolith.spec.arch import ArchConfig
from systolith.spec.regs import CSRS, DEFAULT_WATCHDOG, Access, Control, ErrorCode, Status, config_values

__all__ = ["MachineDevice"]


class MachineDevice:
    """A core and its external memory, simulated instruction by instruction.

    Parameters
    ----------
    arch : ArchConfig
    memory_bytes : int          external memory, from address 0
    on_instruction : callable   see `Machine`
    """

    def __init__(self, arch: ArchConfig, memory_bytes: int = 1 << 26, on_instruction=None) -> None:
        self.arch = arch
        self.memory = np.zeros(memory_bytes, np.uint8)
        self.on_instruction = on_instruction
        self.csrs = dict.fromkeys(CSRS, 0) | config_values(arch) | {"WATCHDOG": DEFAULT_WATCHDOG}
        self.machine: Machine | None = None

    @property
    def memory_bytes(self) -> int:
        """Size of external memory, from address 0 on."""
        return len(self.memory)

    def write(self, addr: int, data: bytes) -> None:
        """Copy bytes into external memory."""
        self.memory[self._range(addr, len(data))] = np.frombuffer(data, np.uint8)

    def read(self, addr: int, size: int) -> bytes:
        """Bytes of external memory."""
        return self.memory[self._range(addr, size)].tobytes()

    def csr_read(self, name: str) -> int:
        """A register by name."""
        return self.csrs[name]

    def csr_write(self, name: str, value: int) -> None:
        """Set a register by name; read-only ones ignore it."""
        if name == "CONTROL" and value & Control.RESET:
            self.reset()
        elif name == "CONTROL" and value & Control.START:
            self.start()
        elif CSRS[name].access is Access.WRITE:
            self.csrs[name] = value & 0xFFFF_FFFF

    def start(self) -> None:
        """Execute from ENTRY to HALT or to the first error."""
        machine = self.prepare()
        before = machine.instructions
        try:
            machine.run(self.csrs["ENTRY"])
            self.csrs |= {"STATUS": Status.DONE, "ERROR_CODE": ErrorCode.NONE, "ERROR_ADDR": 0}
        except MachineError as error:
            self.csrs |= {"STATUS": Status.ERROR, "ERROR_CODE": error.code, "ERROR_ADDR": error.offset}
        self.csrs["INSTRUCTIONS"] = machine.instructions - before

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
        """Nothing to wait for: `start` has run to the end."""

    def reset(self) -> None:
        """Back to idle; SRAM contents are kept, as in hardware."""
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
