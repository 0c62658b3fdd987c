"""The ULX3S's top: PLL, SDRAM pins, serial line.

The chip's clock is three quarters of a period (10 ns at 75 MHz) behind the design's. Commands and data change 10 ns before the chip's edge and 3.3 ns
after it; it wants 1.5 and 0.8 ns. With two registers at the pins (`pin_cycles`), data that comes t_AC = 5.4 ns after the chip's edge at the latest and
stays t_OH = 2.7 ns after the next one is captured right if the ways of the clock to the chip and of the data back take between 0.6 and 11.3 ns in sum
(docs/boards.md); output register, pads and input register of an ECP5 take some 5 ns.
"""

from amaranth.hdl import Elaboratable, Module
from amaranth_boards.ulx3s import ULX3S_85F_Platform

from systolith.boards.board import Board
from systolith.boards.clocking import Ecp5Clock, add_clock
from systolith.boards.system_top import add_sdram, add_system, add_uart
from systolith.hw.build import VerilogFiles

__all__ = ["Platform", "Top"]

Platform = ULX3S_85F_Platform


class Top(Elaboratable):
    """The whole design."""

    def __init__(self, board: Board, files: VerilogFiles) -> None:
        self._board, self._files = board, files

    def elaborate(self, platform) -> Module:
        m = Module()
        add_clock(m, Ecp5Clock("clk25", 25_000_000, self._board.clock_hz, degrees=270))
        ports = add_system(m, platform, self._files)
        add_uart(m, platform, ports)
        add_sdram(m, platform, ports)
        return m
