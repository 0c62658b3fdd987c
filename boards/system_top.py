"""What every board's top has: its clock, the system as generated Verilog, and its serial line and memory on
pins."""

from abc import ABC, abstractmethod

from amaranth.hdl import ClockSignal, Const, Elaboratable, Instance, Module, ResetSignal, Signal
from amaranth.lib import io

from systolith.boards.board import Board
from systolith.boards.clocking import add_clock
from systolith.hw.build import VerilogFiles
from systolith.hw.soc.sdram_chip import SdramTiming

__all__ = ["BoardTop"]


class BoardTop(Elaboratable, ABC):
    """The whole design of a board. Each board's own `Top` says what its clock is made of.

    Parameters
    ----------
    files : VerilogFiles   Verilog of the board's ``system``
    """

    def __init__(self, board: Board, files: VerilogFiles) -> None:
        self._board, self._files = board, files

    @abstractmethod
    def clock(self, clock_hz: int) -> Elaboratable:
        """One of `boards.clocking`, from the board's oscillator; with the domain `shifted` where the board
        has an SDRAM chip."""

    def sites(self) -> dict[str, str]:
        """Cells of the synthesised netlist -> sites of the part, for those that nextpnr is not to place by
        itself."""
        return {}

    def elaborate(self, platform) -> Module:
        m = Module()
        add_clock(m, self.clock(self._board.clock_hz))
        ports = _add_system(m, platform, self._files)
        _add_uart(m, platform, ports)
        if isinstance(self._board.memory, SdramTiming):
            _add_sdram(m, platform, ports)
        return m


def _add_system(m: Module, platform, files: VerilogFiles) -> dict[str, Signal]:
    """The module ``system`` in domain `sync`, but for the device's own cells the very text that the
    simulation runs; its other ports by name."""
    for name, text in files.sources.items():
        platform.add_file(name, text)
    ports = {name: Signal(bits, name=name) for name, _, bits in files.ports if name not in ("clk", "rst")}
    directions = {name: direction[0] for name, direction, _ in files.ports}
    m.submodules.system = Instance(
        "system",
        i_clk=ClockSignal(),
        i_rst=ResetSignal(allow_reset_less=True),
        **{f"{directions[name]}_{name}": signal for name, signal in ports.items()},
    )
    return ports


def _add_uart(m: Module, platform, ports: dict[str, Signal]) -> None:
    """The host's serial line. HostLink synchronises what it receives."""
    uart = platform.request("uart", 0, dir="-")
    m.submodules.uart_rx = rx = io.Buffer("i", uart.rx)
    m.submodules.uart_tx = tx = io.Buffer("o", uart.tx)
    m.d.comb += [ports["rx"].eq(rx.i), tx.o.eq(ports["tx"])]


def _add_sdram(m: Module, platform, ports: dict[str, Signal]) -> None:
    """An SDRAM chip behind registered buffers, two cycles there and back (`pin_cycles` = 2), its clock the
    domain `shifted`."""
    names = ("clk_en", "cs", "we", "ras", "cas", "ba", "a", "dqm")
    sdram = platform.request("sdram", 0, dir="-")
    for name in names:
        buffer = io.FFBuffer("o", getattr(sdram, name))
        m.submodules[f"sdram_{name}"] = buffer
        m.d.comb += buffer.o.eq(ports[f"pins__{name}"])
    m.submodules.sdram_dq = dq = io.FFBuffer("io", sdram.dq)
    m.d.comb += [dq.o.eq(ports["pins__dq_o"]), dq.oe.eq(ports["pins__dq_oe"]), ports["pins__dq_i"].eq(dq.i)]
    # A register at the pin, so that the clock has the delay of the data beside it.
    m.submodules.sdram_clk = clk = io.DDRBuffer("o", sdram.clk, o_domain="shifted")
    m.d.comb += [clk.o[0].eq(Const(1)), clk.o[1].eq(Const(0))]
