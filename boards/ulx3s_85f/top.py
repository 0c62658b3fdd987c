"""The ULX3S's top: PLL, SDRAM pins, serial line.

The chip's clock is a quarter period (3.3 ns at 75 MHz) behind the one of the design. What the chip reads is stable 3.3 ns before its edge and
10 ns after it (it wants 1.5 and 1 ns). What it sends comes at most 6 ns after its edge and stays 2.5 ns after the next, so the design
samples it 4 ns later at its own next edge, which leaves both about 3 ns for the pins and the board.
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
        add_clock(m, Ecp5Clock("clk25", 25_000_000, self._board.clock_hz, degrees=90))
        ports = add_system(m, platform, self._files)
        add_uart(m, platform, ports)
        add_sdram(m, platform, ports)
        return m
