"""The Tang Nano 20K for Amaranth, which knows Gowin's FPGAs only through nextpnr-gowin, the forerunner of
nextpnr-himbaechel."""

from amaranth.build import Attrs, Clock, Pins, Resource
from amaranth.vendor import GowinPlatform
from amaranth_boards.resources import SDRAMResource, UARTResource

__all__ = ["TangNano20KPlatform"]

_LVCMOS33 = Attrs(IO_TYPE="LVCMOS33")


class TangNano20KPlatform(GowinPlatform):
    """What a design needs of the board. The SDRAM's pins have no numbers, since they never leave the package:
    IOR11B is pin B of row 11 on the right."""

    part = "GW2AR-LV18QN88C8/I7"
    family = "GW2AR-18C"
    default_clk = "clk27"
    resources = [
        Resource("clk27", 0, Pins("4", dir="i"), Clock(27e6), _LVCMOS33),
        UARTResource(0, rx="70", tx="69", attrs=Attrs(IO_TYPE="LVCMOS33", PULL_MODE="UP")),
        SDRAMResource(
            0,
            clk="IOR11B",
            cke="IOL13A",
            cs_n="IOL14B",
            we_n="IOL12B",
            ras_n="IOL13B",
            cas_n="IOL14A",
            ba="IOR13A IOR12A",
            a="IOR14A IOR13B IOR14B IOR15A IOL16B IOL17B IOL16A IOL17A IOL15B IOL15A IOR12B",
            dqm="IOL12A IOR11A IOL18A IOR15B",
            dq="IOL3A IOL3B IOL8A IOL8B IOL9A IOL9B IOL11A IOL11B IOR9B IOR9A IOR5B IOR6A IOR5A IOR4B IOR3B "
            "IOR3A "
            "IOL39B IOL39A IOL35B IOL35A IOL30B IOL30A IOL20A IOL18B IOR17A IOR16A IOR16B IOR17B IOR18A "
            "IOR18B IOR44A IOR44B",
            attrs=_LVCMOS33,
        ),
    ]
    connectors = []

    #: The FPGA in the tools' terms: the same die without the SDRAM.
    _die = "GW2A-18C"
    required_tools = ["yosys", "nextpnr-himbaechel", "gowin_pack"]
    command_templates = [
        GowinPlatform._apicula_command_templates[0],
        # `ioreg_in_iob`: the registers of two-way pins lie in the pins' blocks, all with the same delay.
        # Those of mere outputs stay outside: Amaranth gives every output a tristate buffer, and nextpnr moves
        # registers only to plain outputs and two-way pins.
        r"""
        {{invoke_tool("nextpnr-himbaechel")}}
            {{quiet("--quiet")}}
            {{get_override("nextpnr_opts")|options}}
            --log {{name}}.tim
            --device {{platform.part}}
            --vopt family={{platform._die}}
            --vopt cst={{name}}.cst
            --vopt ioreg_in_iob
            --json {{name}}.syn.json
            --write {{name}}.pnr.json
        """,
        r"""
        {{invoke_tool("gowin_pack")}}
            -d {{platform._die}}
            -o {{name}}.fs
            {{get_override("gowin_pack_opts")|options}}
            {{name}}.pnr.json
        """,
    ]

    def toolchain_prepare(self, fragment, name, **kwargs):
        """As Amaranth's, with the family that yosys needs for its multipliers."""
        return super().toolchain_prepare(fragment, name, **{"synth_opts": "-family gw2a", **kwargs})
