"""The Arty's top: PLL and serial line."""

from amaranth.hdl import Elaboratable, Module
from amaranth_boards.arty_a7 import ArtyA7_100Platform

from systolith.boards.board import Board
from systolith.boards.clocking import XilinxClock, add_clock
from systolith.boards.system_top import add_system, add_uart
from systolith.hw.build import VerilogFiles

__all__ = ["Platform", "Top"]

Platform = ArtyA7_100Platform


class Top(Elaboratable):
    """The whole design."""

    def __init__(self, board: Board, files: VerilogFiles) -> None:
        self._board, self._files = board, files

    def elaborate(self, platform) -> Module:
        m = Module()
        add_clock(m, XilinxClock("clk100", 100_000_000, self._board.clock_hz))
        add_uart(m, platform, add_system(m, platform, self._files))
        return m
