"""The ULX3S's top: PLL, SDRAM pins, serial line.

The chip's clock is three quarters of a period (10 ns at 75 MHz) behind the design's. Commands and data change
10 ns before the chip's edge and 3.3 ns after it; it wants 1.5 and 0.8 ns. With two registers at the pins
(`pin_cycles`), data that comes t_AC = 5.4 ns after the chip's edge at the latest and stays t_OH = 2.7 ns
after the next one is captured right if the ways of the clock to the chip and of the data back take between
0.6 and 11.3 ns in sum (docs/boards.md); output register, pads and input register of an ECP5 take some 5 ns.
"""

from amaranth_boards.ulx3s import ULX3S_85F_Platform

from systolith.boards.clocking import Ecp5Clock
from systolith.boards.system_top import BoardTop
from systolith.boards.ulx3s_85f.floorplan import floorplan

__all__ = ["Platform", "Top"]

Platform = ULX3S_85F_Platform


class Top(BoardTop):
    """The whole design."""

    def clock(self, clock_hz: int) -> Ecp5Clock:
        return Ecp5Clock("clk25", 25_000_000, clock_hz, degrees=270)

    def sites(self) -> dict[str, str]:
        return floorplan(self._board.arch)
