"""The boards: what a bitstream, its simulation and its driver must know of each."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from types import ModuleType

from systolith.hw.soc.on_chip import OnChipRam
from systolith.hw.soc.sdram_chip import GW2AR_18_SDRAM, ULX3S_SDRAM, SdramTiming
from systolith.spec.arch import PRESETS, ArchConfig

__all__ = ["ARTIX7_100", "BOARDS", "ECP5_85", "GW2AR_18", "ICE40_UP5K", "Board", "Part"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """An FPGA as the reports see it.

    Parameters
    ----------
    name : str
    flow : str          'ecp5', 'ice40' or 'gowin': nextpnr makes the bitstream; 'xilinx': Vivado would
    resources : dict    what a user calls a resource -> what nextpnr's report (of 'xilinx' yosys) calls it;
                several names add up, one that stands twice counts twice
    capacity : dict     how many of each the part has, where the report does not say, or says it of each name
    """

    name: str
    flow: str
    resources: dict[str, tuple[str, ...]] = field(hash=False)
    capacity: dict[str, int] = field(hash=False, default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One board. Its folder `boards/NAME` holds the module `top` with `Platform` and `Top(board, files)`.

    Parameters
    ----------
    name : str              also of its preset of `spec.arch` and of its folder
    title : str             what people call it
    arch : ArchConfig
    part : Part
    memory : SdramTiming, OnChipRam   its clock is that of the whole design
    pin_cycles : int        registers between SDRAM controller and chip, there and back
    baud : int              rate of the host link, in bits per second
    seed : int              of nextpnr's placement, where nobody asks for another: one that reaches the clock
    """

    name: str
    title: str
    arch: ArchConfig
    part: Part
    memory: SdramTiming | OnChipRam
    pin_cycles: int = 0
    baud: int
    seed: int = 1

    @property
    def clock_hz(self) -> int:
        """Clock frequency of the one clock domain, in Hz."""
        return self.memory.clock_hz

    @property
    def divisor(self) -> int:
        """Clock cycles per bit of the serial line."""
        return round(self.clock_hz / self.baud)

    @property
    def memory_bytes_per_cycle(self) -> int:
        """What external memory moves at most."""
        return self.arch.bus_bytes if isinstance(self.memory, OnChipRam) else self.memory.bits // 8

    def top(self) -> ModuleType:
        """The module with `Platform` and `Top`; needs amaranth-boards."""
        return importlib.import_module(f"systolith.boards.{self.name}.top")


ECP5_85 = Part(
    name="LFE5U-85F",
    flow="ecp5",
    resources={
        "LUT4": ("TRELLIS_COMB",),
        "registers": ("TRELLIS_FF",),
        "DSP (18x18)": ("MULT18X18D",),
        "block RAM (18 kbit)": ("DP16KD",),
    },
)
#: A bit of an adder takes the place of a LUT, a RAM of 16 x 4 bits that of four, and a wide multiplier that
#: of two narrow ones.
GW2AR_18 = Part(
    name="GW2AR-18C",
    flow="gowin",
    resources={
        "LUT4": ("LUT4", "ALU", *4 * ("RAM16SDP4",)),
        "registers": ("DFF",),
        "DSP (9x9)": ("MULT9X9", "MULT18X18", "MULT18X18"),
        "block RAM (18 kbit)": ("BSRAM",),
    },
    capacity={"LUT4": 20_736, "DSP (9x9)": 96},
)
ICE40_UP5K = Part(
    name="iCE40UP5K",
    flow="ice40",
    resources={
        "logic cells (LUT4 and register)": ("ICESTORM_LC",),
        "DSP (two 8x8)": ("ICESTORM_DSP",),
        "block RAM (4 kbit)": ("ICESTORM_RAM",),
        "SPRAM (256 kbit)": ("ICESTORM_SPRAM",),
    },
)
ARTIX7_100 = Part(
    name="XC7A100T",
    flow="xilinx",
    resources={
        "LUT": ("LUT1", "LUT2", "LUT3", "LUT4", "LUT5", "LUT6"),
        "registers": ("FDRE", "FDSE", "FDCE", "FDPE"),
        "DSP48E1": ("DSP48E1",),
        "block RAM (18 kbit)": ("RAMB18E1", "RAMB36E1", "RAMB36E1"),
    },
    capacity={"LUT": 63_400, "registers": 126_800, "DSP48E1": 240, "block RAM (18 kbit)": 270},
)

#: The boards by name.
BOARDS: dict[str, Board] = {
    board.name: board
    for board in (
        Board(
            name="arty_a7_100t",
            title="Arty A7-100T",
            arch=PRESETS["arty_a7_100t"],
            part=ARTIX7_100,
            memory=OnChipRam(bytes=1 << 17, clock_hz=100_000_000),
            baud=2_000_000,
        ),
        Board(
            name="icebreaker",
            title="iCEBreaker",
            arch=PRESETS["icebreaker"],
            part=ICE40_UP5K,
            memory=OnChipRam(bytes=1 << 16, clock_hz=18_000_000),
            baud=1_000_000,
        ),
        Board(
            name="tang_nano_20k",
            title="Tang Nano 20K",
            arch=PRESETS["tang_nano_20k"],
            part=GW2AR_18,
            memory=GW2AR_18_SDRAM,
            pin_cycles=2,
            baud=1_000_000,
        ),
        Board(
            name="ulx3s_85f",
            title="ULX3S-85F",
            arch=PRESETS["ulx3s_85f"],
            part=ECP5_85,
            memory=ULX3S_SDRAM,
            pin_cycles=2,
            baud=3_000_000,
            seed=2,
        ),
    )
}
