"""Every board's top turns into the files of its tools, with the pins where the board has them."""

import pytest
from amaranth.hdl import Shape
from amaranth.lib.wiring import In

from systolith.boards.board import BOARDS
from systolith.hw.build import VerilogFiles
from systolith.hw.soc.sdram_chip import SdramSignature, SdramTiming

#: Text that the constraints must hold: the oscillator's pin, and the serial line's.
PINS = {
    "arty_a7_100t": (".xdc", ("E3", "A9", "D10")),
    "icebreaker": (".pcf", ("set_io clk12_0__io 35", "set_io uart_0__rx__io 6", "set_io uart_0__tx__io 9")),
    "ulx3s_85f": (".lpf", ('SITE "G2"', 'SITE "M1"', 'SITE "L4"', 'SITE "F19"')),
}


@pytest.mark.parametrize("name", BOARDS)
def test_the_tops_elaborate_with_their_pins(name):
    board = BOARDS[name]
    # The names and widths of the ports are all that a top needs of the system.
    ports = [("clk", "input", 1), ("rst", "input", 1), ("rx", "input", 1), ("tx", "output", 1)]
    if isinstance(board.memory, SdramTiming):
        for member_name, member in SdramSignature(board.memory).members.items():
            ports.append((f"pins__{member_name}", "input" if member.flow is In else "output", Shape.cast(member.shape).width))
    module = board.top()
    files = VerilogFiles({"system.v": "module system; endmodule\n"}, "digest", tuple(ports))
    plan = module.Platform().build(module.Top(board, files), name=name, do_build=False, debug_verilog=False)
    suffix, texts = PINS[name]
    constraints = plan.files[name + suffix]
    constraints = constraints.decode() if isinstance(constraints, bytes) else constraints
    for text in texts:
        assert text in constraints
    assert "system.v" in plan.files
