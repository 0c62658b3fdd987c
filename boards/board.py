"""The boards: what a bitstream, its simulation and its driver must know of each."""

from __future__ import annotations

from dataclasses import dataclass

from systolith.hw.soc.sdram_chip import ULX3S_SDRAM, SdramTiming
from systolith.spec.arch import PRESETS, ArchConfig

__all__ = ["BOARDS", "Board"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One board.

    Parameters
    ----------
    name : str              also of its preset of `spec.arch` and of its folder
    arch : ArchConfig
    memory : SdramTiming    its clock is that of the whole design
    pin_cycles : int        registers between SDRAM controller and chip
    baud : int              of the host link
    """

    name: str
    arch: ArchConfig
    memory: SdramTiming
    pin_cycles: int = 0
    baud: int

    @property
    def clock_hz(self) -> int:
        """Of the one clock domain."""
        return self.memory.clock_hz

    @property
    def divisor(self) -> int:
        """Clock cycles per bit of the serial line."""
        return round(self.clock_hz / self.baud)


#: The boards by name.
BOARDS: dict[str, Board] = {
    board.name: board
    for board in (
        Board(name="ulx3s_85f", arch=PRESETS["ulx3s_85f"], memory=ULX3S_SDRAM, baud=3_000_000),
    )
}
