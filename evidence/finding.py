"""Where a core first left the machine."""

from __future__ import annotations

from dataclasses import dataclass

from systolith.host.device import DeviceError
from systolith.spec.isa import Engine, Instr

__all__ = ["Finding", "Found"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Where a core first left the machine.

    Parameters
    ----------
    kind          : 'wrong' (a value), 'extra' (a place that the instruction does not write), 'missing' (one
                    that it should have written), 'unfinished' (the core waits for ever), 'error' (it stopped
                    by itself), 'protocol' (it broke a rule of AXI; the instruction is the oldest that was not
                    done)
    offset, instr, engine, ordinal : the instruction, and how many of its engine came before it in this
                                     stream;
                    None for HALT and for a word that is no instruction
    begin, cycle  : clock cycles since the model was made: of the instruction's first write (of the one before
                    its end, where it wrote nothing), and of the first wrong beat, of the `done` by which a
                    missing byte was due, or of the last event before the core hung
    space, address, lane : what was written: a memory as in `Effect`, or 'read' for accumulators that OUTPUT
                           read;
                    bytes (entries of accumulators); byte of the beat, or column
    expected, got : int8, int16 gates, or int32 sums; None where nothing is written
    instead       : the first place that the instruction should have written and did not, where that is known
    writes        : of 'unfinished': beats that it wrote
    tokens        : of 'unfinished': the instructions whose tokens it takes, each (engine, offset, cycle it
                    was done)
    """

    kind: str
    offset: int
    instr: Instr | None
    engine: Engine | None
    ordinal: int
    begin: int
    cycle: int
    space: str = ""
    address: int = 0
    lane: int = 0
    expected: int | None = None
    got: int | None = None
    instead: int | None = None
    writes: int = 0
    tokens: tuple[tuple[Engine, int, int], ...] = ()


class Found(DeviceError):
    """Raised at the first difference."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        super().__init__(f"the core left the machine in cycle {finding.cycle}")
