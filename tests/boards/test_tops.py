# amaranth: UnusedElaboratable=no
"""Every board's top turns into the files of its tools, with the pins where the board has them."""

import pytest

from systolith.boards.board import BOARDS
from systolith.hw.build import VerilogFiles
from systolith.hw.soc.system import System, make_memory

#: Text that the constraints must hold: the oscillator's pin, and the serial line's.
PINS = {
    "arty_a7_100t": (".xdc", ("E3", "A9", "D10")),
    "icebreaker": (".pcf", ("set_io clk12_0__io 35", "set_io uart_0__rx__io 6", "set_io uart_0__tx__io 9")),
    "ulx3s_85f": (".lpf", ('SITE "G2"', 'SITE "M1"', 'SITE "L4"', 'SITE "F19"')),
}


@pytest.mark.parametrize("name", BOARDS)
def test_the_tops_elaborate_with_their_pins(name):
    board = BOARDS[name]
    system = System(board.arch, make_memory(board.memory, board.arch, pin_cycles=board.pin_cycles), divisor=board.divisor)
    # The names and widths of the ports are all that a top needs of the system.
    ports = [("clk", "input", 1), ("rst", "input", 1)]
    for path, member, value in system.signature.flatten(system):
        ports.append(("__".join(map(str, path)), "input" if member.flow.name == "In" else "output", len(value)))
    module = board.top()
    files = VerilogFiles({"system.v": "module system; endmodule\n"}, "digest", tuple(ports))
    plan = module.Platform().build(module.Top(board, files), name=name, do_build=False, debug_verilog=False)
    suffix, texts = PINS[name]
    constraints = plan.files[name + suffix]
    constraints = constraints.decode() if isinstance(constraints, bytes) else constraints
    for text in texts:
        assert text in constraints
    assert "system.v" in plan.files
