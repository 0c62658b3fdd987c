"""The iCEBreaker's top: PLL and serial line."""

from amaranth.hdl import Elaboratable, Module
from amaranth_boards.icebreaker import ICEBreakerPlatform

from systolith.boards.board import Board
from systolith.boards.clocking import Ice40Clock, add_clock
from systolith.boards.system_top import add_system, add_uart
from systolith.hw.build import VerilogFiles

__all__ = ["Platform", "Top"]

Platform = ICEBreakerPlatform


class Top(Elaboratable):
    """The whole design."""

    def __init__(self, board: Board, files: VerilogFiles) -> None:
        self._board, self._files = board, files

    def elaborate(self, platform) -> Module:
        m = Module()
        add_clock(m, Ice40Clock("clk12", 12_000_000, self._board.clock_hz))
        add_uart(m, platform, add_system(m, platform, self._files))
        return m
