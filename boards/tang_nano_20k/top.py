"""The Tang Nano 20K's top: PLL, SDRAM pins, serial line.

The chip's clock is 13/16 of a period (16.9 ns at 48 MHz) behind the design's. Commands and data change 16.9
ns before the chip's edge and 3.9 ns after it; it wants 1.5 and 0.8 ns. With two registers at the pins
(`pin_cycles`), data that comes t_AC = 5.4 ns after the chip's edge at the latest and stays t_OH = 2.7 ns
after the next one is captured right if the ways of the clock to the chip and of the data back take between
1.2 and 19.3 ns in sum (docs/boards.md). Chip and FPGA share a package, so these are the FPGA's own registers
and buffers, some 5 ns. Another sixteenth of a period would move 1.3 ns from the hold time of the commands to
the lower of these bounds.
"""

from systolith.boards.clocking import GowinClock
from systolith.boards.system_top import BoardTop
from systolith.boards.tang_nano_20k.platform import TangNano20KPlatform

__all__ = ["Platform", "Top"]

Platform = TangNano20KPlatform


class Top(BoardTop):
    """The whole design."""

    def clock(self, clock_hz: int) -> GowinClock:
        return GowinClock("clk27", 27_000_000, clock_hz, degrees=292.5)
