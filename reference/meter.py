"""What the functional machine may spend: cycles of a program, and memory of one instruction."""

from __future__ import annotations

from systolith.spec.arch import ArchConfig
from systolith.spec.costs import busy_cycles
from systolith.spec.errors import DeviceError, OutOfCyclesError
from systolith.spec.isa import Instr

__all__ = ["MOST_ELEMENTS", "Meter"]

#: Most elements that one instruction may move at once, for each of which the machine holds some 50 bytes. An
#: instruction that writes each byte of an SRAM once moves fewer.
MOST_ELEMENTS = 1 << 24


class Meter:
    """Charges each instruction, before it is executed, the cycles that it keeps the core's engine busy.

    Parameters
    ----------
    arch   : ArchConfig
    budget : cycles that may be charged in all; None: no bound

    Members
    -------
    cycles : what was charged so far; engines take turns here, so a core that overlaps them takes fewer
    """

    def __init__(self, arch: ArchConfig, budget: int | None = None) -> None:
        self._arch, self._budget = arch, budget
        self._most = max(MOST_ELEMENTS, arch.act_bytes, arch.weight_bytes)
        self.cycles = 0

    def charge(self, instr: Instr) -> None:
        """Account for one instruction.

        Raises
        ------
        OutOfCyclesError   If the budget does not suffice for it.
        DeviceError        If it moves more at once than any program has reason to.
        """
        self.cycles += max(1, busy_cycles(instr, self._arch))
        if self._budget is not None and self.cycles > self._budget:
            raise OutOfCyclesError(self._budget)
        elements = _elements(instr, self._arch)
        if elements > self._most:
            raise DeviceError(
                f"{instr.mnemonic} moves {elements:,} elements at once, more than the {self._most:,} that "
                "the machine holds for one instruction: run the image on rtl, or compile the model again"
            )


def _elements(instr: Instr, arch: ArchConfig) -> int:
    """Elements of the largest array that the machine makes for an instruction."""
    match instr.mnemonic:
        case "LOAD" | "STORE":
            return int(instr.planes * instr.rows * instr.bytes)
        case "MATMUL":
            return int(instr.oy * instr.ox * max(arch.rows, arch.cols))
        case "OUTPUT":
            return int(instr.ny * instr.nx * arch.cols)
        case "ADD" | "MUL" | "POOL":
            return int(instr.ny * instr.nx * instr.bytes)
    return 0
