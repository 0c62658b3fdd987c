"""Every board's top turns into the files of its tools, with the pins where the board has them."""

import importlib.resources

import pytest
from amaranth.build import Pins, Subsignal
from amaranth.hdl import Shape
from amaranth.lib.wiring import In

from systolith.boards.board import BOARDS
from systolith.boards.tang_nano_20k.platform import TangNano20KPlatform
from systolith.hw.build import VerilogFiles
from systolith.hw.soc.sdram_chip import SdramSignature, SdramTiming

#: Text that the constraints must hold: the oscillator's pin, and the serial line's.
PINS = {
    "arty_a7_100t": (".xdc", ("E3", "A9", "D10")),
    "icebreaker": (".pcf", ("set_io clk12_0__io 35", "set_io uart_0__rx__io 6", "set_io uart_0__tx__io 9")),
    "tang_nano_20k": (
        ".cst",
        (
            'IO_LOC "clk27_0__io" 4;',
            'IO_LOC "uart_0__rx__io" 70;',
            'IO_LOC "uart_0__tx__io" 69;',
            'IO_LOC "sdram_0__dq__io[31]" IOR44B;',
        ),
    ),
    "ulx3s_85f": (".lpf", ('SITE "G2"', 'SITE "M1"', 'SITE "L4"', 'SITE "F19"')),
}


def ports_of(board) -> tuple[tuple[str, str, int], ...]:
    """Those of the board's `system`: all that a top needs of it."""
    ports = [("clk", "input", 1), ("rst", "input", 1), ("rx", "input", 1), ("tx", "output", 1)]
    if isinstance(board.memory, SdramTiming):
        for name, member in SdramSignature(board.memory).members.items():
            ports.append(
                (f"pins__{name}", "input" if member.flow is In else "output", Shape.cast(member.shape).width)
            )
    return tuple(ports)


@pytest.mark.parametrize("name", BOARDS)
def test_the_tops_elaborate_with_their_pins(name):
    board = BOARDS[name]
    module = board.top()
    files = VerilogFiles({"system.v": "module system; endmodule\n"}, "digest", ports_of(board))
    plan = module.Platform().build(module.Top(board, files), name=name, do_build=False, debug_verilog=False)
    suffix, texts = PINS[name]
    constraints = plan.files[name + suffix]
    constraints = constraints.decode() if isinstance(constraints, bytes) else constraints
    for text in texts:
        assert text in constraints
    assert "system.v" in plan.files


def test_the_tang_nanos_tools():
    """Amaranth's own platform calls nextpnr-gowin, which is no more."""
    board = BOARDS["tang_nano_20k"]
    module = board.top()
    plan = module.Platform().build(
        module.Top(board, VerilogFiles({"system.v": ""}, "digest", ports_of(board))),
        name="top",
        do_build=False,
        nextpnr_opts="--seed 7",
    )
    commands = [line for line in plan.files["build_top.sh"].splitlines() if line.startswith('"$')]
    assert [command.split()[0] for command in commands] == [
        '"$YOSYS"',
        '"$NEXTPNR_HIMBAECHEL"',
        '"$GOWIN_PACK"',
    ]
    for text in (
        "--seed 7",
        "--device GW2AR-LV18QN88C8/I7",
        "--vopt family=GW2A-18C",
        "--vopt cst=top.cst",
        "--json top.syn.json",
        "--write top.pnr.json",
    ):
        assert text in commands[1]
    assert "synth_gowin -family gw2a -top top -json top.syn.json" in plan.files["top.ys"] and commands[
        2
    ].endswith("-d GW2A-18C -o top.fs top.pnr.json")


def test_the_tang_nanos_sdram_is_where_the_vendor_puts_it():
    """Apycula knows the pins by the names that Gowin's tools give them, and where they lie: row, column, side
    of the block."""
    chipdb = pytest.importorskip("apycula.chipdb")
    die = chipdb.load_chipdb(str(importlib.resources.files("apycula") / "GW2A-18C.msgpack.xz"))
    resource = next(resource for resource in TangNano20KPlatform.resources if resource.name == "sdram")
    names = {
        "clk": "O_sdram_clk",
        "clk_en": "O_sdram_cke",
        "cs": "O_sdram_cs_n",
        "we": "O_sdram_wen_n",
        "ras": "O_sdram_ras_n",
        "cas": "O_sdram_cas_n",
        "ba": "O_sdram_ba",
        "a": "O_sdram_addr",
        "dqm": "O_sdram_dqm",
        "dq": "IO_sdram_dq",
    }
    ours = {}
    for signal in resource.ios:
        if isinstance(signal, Subsignal):
            (pins,) = (io for io in signal.ios if isinstance(io, Pins))
            bits = (
                [names[signal.name]]
                if len(pins.names) == 1
                else [f"{names[signal.name]}[{bit}]" for bit in range(len(pins.names))]
            )
            ours |= dict(zip(bits, pins.names, strict=True))
            assert pins.invert == bits[0].endswith("_n")
    left, right = 0, die.cols - 1
    theirs = {
        name: f"IO{ {left: 'L', right: 'R'}[column] }{row + 1}{half}"
        for name, row, column, half, _ in die.sip_cst["GW2AR-18C"]["QFN88"]
    }
    assert ours == theirs
