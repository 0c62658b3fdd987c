"""Clocks of the boards' designs, by their FPGAs' PLLs: one domain `sync`, and where a board asks for it, one
shifted in phase.

The tools derive the constraint of a PLL's outputs from that of the oscillator's pin.
"""

from dataclasses import dataclass

from amaranth.hdl import ClockDomain, ClockSignal, Const, Elaboratable, Instance, Module, Signal
from amaranth.lib import io
from amaranth.lib.cdc import ResetSynchronizer

from systolith.spec.errors import SystolithError

__all__ = [
    "ClockError",
    "Ecp5Clock",
    "Ecp5Pll",
    "GowinClock",
    "GowinPll",
    "Ice40Clock",
    "Ice40Pll",
    "XilinxClock",
    "XilinxPll",
    "add_clock",
]


class ClockError(SystolithError, ValueError):
    """A frequency that a PLL cannot make."""


def _refuse(name: str, source_hz: int, clock_hz: int) -> ClockError:
    return ClockError(
        f"{name} cannot make {clock_hz / 1e6:g} MHz of {source_hz / 1e6:g} MHz: choose another clock for "
        f"the board"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ecp5Pll:
    """Dividers of an EHXPLLL whose feedback is its first output: out = source / `reference` * `feedback`, VCO
    = out * `output`.

    Ranges from Lattice's FPGA-TN-02200 (ECP5 sysCLOCK): VCO 400 to 800 MHz, phase detector 3.125 to 400 MHz.
    """

    reference: int
    feedback: int
    output: int

    @classmethod
    def of(cls, source_hz: int, clock_hz: int) -> "Ecp5Pll":
        """The dividers that make `clock_hz` exactly, with the VCO as near to 600 MHz as can be.

        Raises
        ------
        ClockError   If there are none.
        """
        found = []
        for reference in range(1, 129):
            feedback, rest = divmod(clock_hz * reference, source_hz)
            if rest or not 1 <= feedback <= 128 or source_hz // reference < 3_125_000:
                continue
            for output in range(1, 129):
                if 400_000_000 <= clock_hz * output <= 800_000_000:
                    found.append((abs(clock_hz * output - 600_000_000), reference, feedback, output))
        if not found:
            raise _refuse("the ECP5's PLL", source_hz, clock_hz)
        _, reference, feedback, output = min(found)
        return cls(reference=reference, feedback=feedback, output=output)

    def phase(self, degrees: int) -> tuple[int, int]:
        """CPHASE and FPHASE of a second output of the same frequency, so much behind the first.

        Raises
        ------
        ClockError   If the VCO's eighths do not give that.
        """
        eighths, rest = divmod(8 * self.output * degrees, 360)
        if rest:
            raise ClockError(
                f"the ECP5's PLL cannot shift by {degrees} degrees: choose a multiple of {45 / self.output:g}"
            )
        coarse, fine = divmod(eighths, 8)
        return self.output - 1 + coarse, fine


def add_clock(m: Module, clock: Elaboratable) -> None:
    """A clock of this module, with its domains in `m`, where they are used."""
    m.domains += clock.domains
    m.submodules.clock = clock


class Ecp5Clock(Elaboratable):
    """Domain `sync` at `clock_hz`; and the domain `shifted`, without reset, `degrees` behind it.

    Until the PLL has locked, the part's own set/reset network (GSR) holds every register at its initial
    value, so `sync` is without a reset that would have to reach all of them over wires.
    """

    def __init__(self, source: str, source_hz: int, clock_hz: int, degrees: int) -> None:
        self._source, self._degrees = source, degrees
        self._pll = Ecp5Pll.of(source_hz, clock_hz)
        self.domains = [ClockDomain("sync", reset_less=True), ClockDomain("shifted", reset_less=True)]

    def elaborate(self, platform) -> Module:
        m = Module()
        pll = self._pll
        m.submodules.pin = pin = io.Buffer("i", platform.request(self._source, dir="-"))
        locked = Signal()
        coarse, fine = pll.phase(self._degrees)
        m.submodules.pll = Instance(
            "EHXPLLL",
            p_CLKI_DIV=pll.reference,
            p_CLKFB_DIV=pll.feedback,
            p_FEEDBK_PATH="CLKOP",
            p_CLKOP_ENABLE="ENABLED",
            p_CLKOP_DIV=pll.output,
            p_CLKOP_CPHASE=pll.output - 1,
            p_CLKOP_FPHASE=0,
            p_CLKOS_ENABLE="ENABLED",
            p_CLKOS_DIV=pll.output,
            p_CLKOS_CPHASE=coarse,
            p_CLKOS_FPHASE=fine,
            p_OUTDIVIDER_MUXA="DIVA",
            p_OUTDIVIDER_MUXB="DIVB",
            p_PLLRST_ENA="DISABLED",
            p_INTFB_WAKE="DISABLED",
            p_STDBY_ENABLE="DISABLED",
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            i_CLKI=pin.i,
            i_CLKFB=ClockSignal("sync"),
            i_RST=Const(0),
            i_STDBY=Const(0),
            i_PLLWAKESYNC=Const(0),
            i_PHASESEL0=Const(0),
            i_PHASESEL1=Const(0),
            i_PHASEDIR=Const(0),
            i_PHASESTEP=Const(0),
            i_PHASELOADREG=Const(0),
            i_ENCLKOP=Const(1),
            i_ENCLKOS=Const(1),
            o_CLKOP=ClockSignal("sync"),
            o_CLKOS=ClockSignal("shifted"),
            o_LOCK=locked,
        )
        # Released in step with the clock, as Amaranth does it for this family.
        met, released = Signal(), Signal()
        for name, given, taken in (("meet", locked, met), ("release", met, released)):
            m.submodules[name] = Instance(
                "FD1S3AX", p_GSR="DISABLED", i_CK=ClockSignal("sync"), i_D=given, o_Q=taken
            )
        m.submodules.gsr = Instance("SGSR", i_CLK=ClockSignal("sync"), i_GSR=released)
        return m


@dataclass(frozen=True, slots=True, kw_only=True)
class GowinPll:
    """Dividers of a GW2A's rPLL with internal feedback: out = source / `reference` * `feedback`, VCO = out *
    `output`.

    Ranges from Gowin's DS226 (GW2AR, speed C8/I7): phase detector 3 to 500 MHz, VCO 500 to 1250 MHz, output
    3.90625 to 625 MHz.
    """

    reference: int
    feedback: int
    output: int

    @classmethod
    def of(cls, source_hz: int, clock_hz: int) -> "GowinPll":
        """The dividers that make `clock_hz` exactly, with the phase detector as fast as can be.

        Raises
        ------
        ClockError   If there are none.
        """
        for reference in range(1, 65):
            feedback, rest = divmod(clock_hz * reference, source_hz)
            if (
                rest
                or not 1 <= feedback <= 64
                or not 3_000_000 <= source_hz / reference <= 500_000_000
                or not 3_906_250 <= clock_hz <= 625_000_000
            ):
                continue
            for output in (2, 4, 8, *range(16, 129, 16)):
                if 500_000_000 <= clock_hz * output <= 1_250_000_000:
                    return cls(reference=reference, feedback=feedback, output=output)
        raise _refuse("the GW2A's PLL", source_hz, clock_hz)

    def phase(self, degrees: float) -> str:
        """PSDA_SEL of the second output, which is so much behind the first.

        Raises
        ------
        ClockError   If sixteenths of a period do not give that.
        """
        sixteenths, rest = divmod(16 * degrees, 360)
        if rest or not 0 <= sixteenths < 16:
            raise ClockError(
                f"the GW2A's PLL cannot shift by {degrees:g} degrees: choose a multiple of 22.5 from 0 to "
                f"337.5"
            )
        return f"{int(sixteenths):04b}"


class GowinClock(Elaboratable):
    """Domain `sync` at `clock_hz`, in reset until the PLL has locked; and the domain `shifted`, without
    reset, `degrees` behind it."""

    def __init__(self, source: str, source_hz: int, clock_hz: int, degrees: float) -> None:
        self._source, self._source_hz, self._degrees = source, source_hz, degrees
        self._pll = GowinPll.of(source_hz, clock_hz)
        self.domains = [ClockDomain("sync"), ClockDomain("shifted", reset_less=True)]

    def elaborate(self, platform) -> Module:
        m = Module()
        pll = self._pll
        m.submodules.pin = pin = io.Buffer("i", platform.request(self._source, dir="-"))
        locked = Signal()
        m.submodules.pll = Instance(
            "rPLL",
            p_DEVICE=platform.family,
            p_FCLKIN=f"{self._source_hz / 1e6:g}",
            p_IDIV_SEL=pll.reference - 1,
            p_FBDIV_SEL=pll.feedback - 1,
            p_ODIV_SEL=pll.output,
            p_PSDA_SEL=pll.phase(self._degrees),
            p_DUTYDA_SEL="1000",
            p_DYN_IDIV_SEL="false",
            p_DYN_FBDIV_SEL="false",
            p_DYN_ODIV_SEL="false",
            p_DYN_DA_EN="false",
            p_DYN_SDIV_SEL=2,
            p_CLKFB_SEL="internal",
            i_CLKIN=pin.i,
            i_CLKFB=Const(0),
            i_RESET=Const(0),
            i_RESET_P=Const(0),
            i_FBDSEL=Const(0, 6),
            i_IDSEL=Const(0, 6),
            i_ODSEL=Const(0, 6),
            i_PSDA=Const(0, 4),
            i_DUTYDA=Const(0, 4),
            i_FDLY=Const(0, 4),
            o_CLKOUT=ClockSignal("sync"),
            o_CLKOUTP=ClockSignal("shifted"),
            o_LOCK=locked,
        )
        # No BUFG: nextpnr takes both outputs straight to the clock network, but the input of a BUFG through
        # the fabric, which would shift the phase.
        m.submodules.reset = ResetSynchronizer(~locked, domain="sync")
        return m


@dataclass(frozen=True, slots=True, kw_only=True)
class Ice40Pll:
    """Dividers of an SB_PLL40 in simple feedback: out = source / (divr + 1) * (divf + 1) / 2**divq.

    Ranges from Lattice's FPGA-TN-02052 (iCE40 sysCLOCK): phase detector 10 to 133 MHz, VCO 533 to 1066 MHz,
    `filter_range` by the phase detector's frequency.
    """

    divr: int
    divf: int
    divq: int
    filter_range: int

    @classmethod
    def of(cls, source_hz: int, clock_hz: int) -> "Ice40Pll":
        """The dividers that make `clock_hz` exactly.

        Raises
        ------
        ClockError   If there are none.
        """
        limits = (17e6, 26e6, 44e6, 66e6, 101e6, 133e6)
        for divr in range(16):
            detector = source_hz / (divr + 1)
            if not 10e6 <= detector <= 133e6:
                continue
            for divq in range(1, 7):
                divf, rest = divmod(clock_hz * 2**divq * (divr + 1), source_hz)
                if not rest and 1 <= divf <= 128 and 533e6 <= clock_hz * 2**divq <= 1066e6:
                    return cls(
                        divr=divr,
                        divf=divf - 1,
                        divq=divq,
                        filter_range=1
                        + next(
                            i for i, limit in enumerate(limits) if detector < limit or limit == limits[-1]
                        ),
                    )
        raise _refuse("the iCE40's PLL", source_hz, clock_hz)


class Ice40Clock(Elaboratable):
    """Domain `sync` at `clock_hz`, in reset until the PLL has locked."""

    def __init__(self, source: str, source_hz: int, clock_hz: int) -> None:
        self._source = source
        self._pll = Ice40Pll.of(source_hz, clock_hz)
        self.domains = [ClockDomain("sync")]

    def elaborate(self, platform) -> Module:
        m = Module()
        pll = self._pll
        pin = platform.request(self._source, dir="-")
        locked = Signal()
        # The PAD variant takes the pin itself.
        m.submodules.pll = Instance(
            "SB_PLL40_PAD",
            p_FEEDBACK_PATH="SIMPLE",
            p_DIVR=Const(pll.divr, 4),
            p_DIVF=Const(pll.divf, 7),
            p_DIVQ=Const(pll.divq, 3),
            p_FILTER_RANGE=Const(pll.filter_range, 3),
            i_PACKAGEPIN=pin.io,
            i_RESETB=Const(1),
            i_BYPASS=Const(0),
            o_PLLOUTGLOBAL=ClockSignal("sync"),
            o_LOCK=locked,
        )
        m.submodules.reset = ResetSynchronizer(~locked, domain="sync")
        return m


@dataclass(frozen=True, slots=True, kw_only=True)
class XilinxPll:
    """Dividers of a PLLE2_BASE: out = source * `multiply` / `divide`; VCO 800 to 1600 MHz (Xilinx UG472)."""

    multiply: int
    divide: int

    @classmethod
    def of(cls, source_hz: int, clock_hz: int) -> "XilinxPll":
        """The dividers that make `clock_hz` exactly.

        Raises
        ------
        ClockError   If there are none.
        """
        for multiply in range(2, 65):
            divide, rest = divmod(source_hz * multiply, clock_hz)
            if not rest and 1 <= divide <= 128 and 800_000_000 <= source_hz * multiply <= 1_600_000_000:
                return cls(multiply=multiply, divide=divide)
        raise _refuse("the PLLE2", source_hz, clock_hz)


class XilinxClock(Elaboratable):
    """Domain `sync` at `clock_hz`, in reset until the PLL has locked."""

    def __init__(self, source: str, source_hz: int, clock_hz: int) -> None:
        self._source, self._source_hz = source, source_hz
        self._pll = XilinxPll.of(source_hz, clock_hz)
        self.domains = [ClockDomain("sync")]

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.pin = pin = io.Buffer("i", platform.request(self._source, dir="-"))
        feedback, made, locked = Signal(), Signal(), Signal()
        m.submodules.pll = Instance(
            "PLLE2_BASE",
            p_CLKIN1_PERIOD=1e9 / self._source_hz,
            p_CLKFBOUT_MULT=self._pll.multiply,
            p_CLKOUT0_DIVIDE=self._pll.divide,
            p_DIVCLK_DIVIDE=1,
            i_CLKIN1=pin.i,
            i_CLKFBIN=feedback,
            i_RST=Const(0),
            i_PWRDWN=Const(0),
            o_CLKFBOUT=feedback,
            o_CLKOUT0=made,
            o_LOCKED=locked,
        )
        m.submodules.buffer = Instance("BUFG", i_I=made, o_O=ClockSignal("sync"))
        m.submodules.reset = ResetSynchronizer(~locked, domain="sync")
        return m
