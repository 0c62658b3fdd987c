"""The Tang Nano 20K's top: PLL, SDRAM pins, serial line.
"""

from amaranth.hdl import Elaboratable, Module

from systolith.boards.board import Board
from systolith.boards.clocking import GowinClock, add_clock
from systolith.boards.system_top import add_sdram, add_system, add_uart
from systolith.boards.tang_nano_20k.platform import TangNano20KPlatform
from systolith.hw.build import VerilogFiles

__all__ = ["Platform", "Top"]

Platform = TangNano20KPlatform


class Top(Elaboratable):
    """The whole design."""

    def __init__(self, board: Board, files: VerilogFiles) -> None:
        self._board, self._files = board, files

    def elaborate(self, platform) -> Module:
        m = Module()
        add_clock(m, GowinClock("clk27", 27_000_000, self._board.clock_hz, degrees=270))
        ports = add_system(m, platform, self._files)
        add_uart(m, platform, ports)
        add_sdram(m, platform, ports)
        return m
