"""The Arty's top: PLL and serial line."""

from amaranth_boards.arty_a7 import ArtyA7_100Platform

from systolith.boards.clocking import XilinxClock
from systolith.boards.system_top import BoardTop

__all__ = ["Platform", "Top"]

Platform = ArtyA7_100Platform


class Top(BoardTop):
    """The whole design."""

    def clock(self, clock_hz: int) -> XilinxClock:
        return XilinxClock("clk100", 100_000_000, clock_hz)
