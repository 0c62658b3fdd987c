"""SDR SDRAM chips: geometry, timing, pins, and the chips of the boards."""

import dataclasses
import math
from dataclasses import dataclass

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.spec.errors import SystolithError
from systolith.spec.memory import BURST_BEATS

__all__ = ["GW2AR_18_SDRAM", "ULX3S_SDRAM", "SdramError", "SdramSignature", "SdramTiming"]


#: Cycles that a refresh may be late besides the bursts before it: closing rows and what they wait for.
_LATE_CYCLES = 40


class SdramError(SystolithError, ValueError):
    """A memory that cannot be; the text names the parameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SdramTiming:
    """One chip at one clock. Times are in ns, as in data sheets; `cycles` turns them into clock cycles.

    Parameters
    ----------
    clock_hz : int         of controller and chip
    bits : int             width of a word: 16 or 32
    rows, columns, banks : int   powers of two
    cas_latency : int      2 or 3, cycles from READ to its first word
    t_ck : float           shortest clock period at this CAS latency
    t_rcd : float          ACTIVE to READ or WRITE
    t_rp : float           PRECHARGE to ACTIVE or REFRESH
    t_ras : float          ACTIVE to PRECHARGE, at least
    t_rc : float           ACTIVE to ACTIVE of the same bank
    t_rfc : float          REFRESH to ACTIVE or REFRESH
    t_rrd : float          ACTIVE to ACTIVE of another bank; at least two cycles
    t_wr : float           last word of a WRITE to PRECHARGE; at least two cycles
    t_ras_max : float      ACTIVE to PRECHARGE, at most
    refresh : float        average from one REFRESH to the next
    power_up : float       from power to the first command; shorter than the chip's only in simulation

    Raises
    ------
    SdramError   If a value is out of range, or the clock is too fast for the chip.
    """

    clock_hz: int
    bits: int
    rows: int
    columns: int
    banks: int = 4
    cas_latency: int
    t_ck: float
    t_rcd: float
    t_rp: float
    t_ras: float
    t_rc: float
    t_rfc: float
    t_rrd: float
    t_wr: float
    t_ras_max: float = 100_000.0
    refresh: float
    power_up: float = 200_000.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("bits", 16, 32),
            ("rows", 1 << 11, 1 << 13),
            ("columns", 256, 1024),
            ("banks", 2, 4),
        ):
            value = getattr(self, name)
            if not low <= value <= high or value & (value - 1):
                raise SdramError(f"{name} must be a power of two from {low} to {high}, not {value!r}")
        if self.cas_latency not in (2, 3):
            raise SdramError(f"cas_latency must be 2 or 3, not {self.cas_latency!r}")
        if self.clock_hz <= 0 or 1e9 / self.clock_hz < self.t_ck - 1e-6:
            raise SdramError(
                f"clock_hz must be at most {1e9 / self.t_ck:.0f} at a CAS latency of {self.cas_latency}, "
                f"not {self.clock_hz!r}"
            )
        for field in dataclasses.fields(self):
            if field.type is float and getattr(self, field.name) <= 0:
                raise SdramError(f"{field.name} must be more than 0 ns, not {getattr(self, field.name)!r}")

    def cycles(self, nanoseconds: float, at_least: int = 1) -> int:
        """Clock cycles that take so long, or longer."""
        # A millionth of a cycle less: 20 ns at 100 MHz are two cycles, whatever the floating point says.
        return max(at_least, math.ceil(nanoseconds * self.clock_hz / 1e9 - 1e-6))

    def words(self, bus_bits: int) -> int:
        """Words of one beat, which is one burst of the chip.

        Raises
        ------
        SdramError   If no burst of the chip is so long.
        """
        words, rest = divmod(bus_bits, self.bits)
        if words not in (1, 2, 4, 8) or rest:
            raise SdramError(f"bus_bits must be 1, 2, 4 or 8 words of {self.bits} bits, not {bus_bits!r}")
        return words

    def refresh_cycles(self, bus_bits: int) -> int:
        """From one refresh to the next: one cycle less than the chip allows on average, because each may be
        late by the bursts under way.

        Raises
        ------
        SdramError   If it could be late by as much as that.
        """
        cycles = int(self.refresh * self.clock_hz / 1e9) - 1
        if cycles < 2 * BURST_BEATS * self.words(bus_bits) + _LATE_CYCLES:
            raise SdramError(
                f"clock_hz must leave time for two bursts between refreshes; {self.clock_hz} is too slow"
            )
        return cycles

    @property
    def address_bits(self) -> int:
        """Address pins; A10, which says 'all banks', is always there."""
        return max(11, (self.rows - 1).bit_length())

    @property
    def bytes(self) -> int:
        """Size of the chip."""
        return self.rows * self.banks * self.columns * self.bits // 8


#: ULX3S: 32 MiB. The board comes with chips of several makers (IS42S16160G-7, W9825G6KH-6, W9825G6KH-75,
#: ...): the slowest value of each.
ULX3S_SDRAM = SdramTiming(
    clock_hz=75_000_000,
    bits=16,
    rows=8192,
    columns=512,
    cas_latency=2,
    t_ck=10.0,
    t_rcd=20.0,
    t_rp=20.0,
    t_ras=45.0,
    t_rc=65.0,
    t_rfc=66.0,
    t_rrd=15.0,
    t_wr=15.0,
    refresh=64e6 / 8192,
)
#: Tang Nano 20K: 8 MiB in the package of the GW2AR-18; 4,096 refreshes in 64 ms.
GW2AR_18_SDRAM = SdramTiming(
    clock_hz=48_000_000,
    bits=32,
    rows=2048,
    columns=256,
    cas_latency=2,
    t_ck=10.0,
    t_rcd=20.0,
    t_rp=20.0,
    t_ras=45.0,
    t_rc=65.0,
    t_rfc=66.0,
    t_rrd=15.0,
    t_wr=15.0,
    refresh=64e6 / 4096,
)


class SdramSignature(wiring.Signature):
    """The chip's pins from the controller's side. 1 asserts a command pin, whatever the level on the board.

    Members
    -------
    clk_en, cs, ras, cas, we : Out(1)
    ba, a : Out
    dqm : Out          one bit per byte: 1 leaves a byte of a WRITE alone
    dq_o, dq_oe : Out  `dq_oe` is 1 while the controller drives
    dq_i : In
    """

    def __init__(self, timing: SdramTiming) -> None:
        super().__init__(
            {
                "clk_en": Out(1),
                "cs": Out(1),
                "ras": Out(1),
                "cas": Out(1),
                "we": Out(1),
                "ba": Out((timing.banks - 1).bit_length()),
                "a": Out(timing.address_bits),
                "dqm": Out(timing.bits // 8),
                "dq_o": Out(timing.bits),
                "dq_oe": Out(1),
                "dq_i": In(timing.bits),
            }
        )
