"""Blocks of the iCE40 UltraPlus that no tool infers as wanted: DSP blocks with two 8 x 8 multipliers, and
single-port RAM.

Each is an instance of the vendor's cell where the platform is that device, and elsewhere the same in plain
logic.
"""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Mux, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = ["PairMultiplier", "SinglePortRam", "WideMultiplier", "is_ultraplus"]


def is_ultraplus(platform) -> bool:
    """Whether the build is for an iCE40 UltraPlus."""
    return str(getattr(platform, "device", "")).startswith("iCE40UP")


class PairMultiplier(wiring.Component):
    """Two products and their sum: ``o = a0*b0 + a1*b1``, all signed; one DSP block.

    Members
    -------
    a : In(16), b : In(16)   two int8 each, element 0 in the low byte; `a` is taken in every cycle, `b` with
        `take`
    take : In(1)
    o : Out(signed(17))      of what was taken in the cycles before

    Timing
    ------
    The operands are registered, the result is not.
    """

    a: In(16)
    b: In(16)
    take: In(1)
    o: Out(signed(17))

    def __init__(self, *, logic: bool = False) -> None:
        # `logic`: no DSP block on any platform.
        self._logic = logic
        super().__init__()

    def elaborate(self, platform) -> Module:
        m = Module()
        if self._logic or not is_ultraplus(platform):
            a, b = Signal(16, reset_less=True), Signal(16, reset_less=True)
            m.d.sync += a.eq(self.a)
            with m.If(self.take):
                m.d.sync += b.eq(self.b)
            if self._logic:
                (low, low_carry), (high, high_carry) = (
                    _booth(m, a.word_select(i, 8), b.word_select(i, 8), f"product{i}") for i in range(2)
                )
                m.d.comb += self.o.eq(low + high + ((low_carry + high_carry) << _BOOTH_CARRY))
            else:
                m.d.comb += self.o.eq(
                    a[:8].as_signed() * b[:8].as_signed() + a[8:].as_signed() * b[8:].as_signed()
                )
            return m
        out = Signal(32)
        m.submodules.mac = Instance(
            "SB_MAC16",
            p_A_REG=1,
            p_B_REG=1,
            p_MODE_8x8=1,
            p_A_SIGNED=1,
            p_B_SIGNED=1,
            p_TOPADDSUB_LOWERINPUT=1,
            p_TOPADDSUB_UPPERINPUT=1,
            p_TOPOUTPUT_SELECT=0,
            p_BOTOUTPUT_SELECT=2,
            i_CLK=ClockSignal(),
            i_CE=Const(1),
            i_A=self.a,
            i_B=self.b,
            i_AHOLD=Const(0),
            # The lower product goes round to the upper adder.
            i_BHOLD=~self.take,
            i_C=out[:16],
            i_D=Const(0, 16),
            o_O=out,
            **_IDLE,
        )
        # 16 bits hold all sums but one: 2 * (-128 * -128) = 32768. No other has its bits, nor those near it.
        m.d.comb += self.o.eq(Cat(out[16:], out[31] & out[24:31].any()))
        return m


class WideMultiplier(wiring.Component):
    """``o = a*b + c``, unsigned, 16 x 16 + 16 bits; one DSP block.

    Members
    -------
    a, b, c : In(16)   taken in each cycle, `b` with `take`
    o : Out(32)        of what was taken in the cycles before

    Timing
    ------
    The operands are registered, the result is not.
    """

    a: In(16)
    b: In(16)
    c: In(16)
    take: In(1)
    o: Out(32)

    def elaborate(self, platform) -> Module:
        m = Module()
        if not is_ultraplus(platform):
            a, b, c = (Signal(16, name=name, reset_less=True) for name in "abc")
            m.d.sync += [a.eq(self.a), c.eq(self.c)]
            with m.If(self.take):
                m.d.sync += b.eq(self.b)
            m.d.comb += self.o.eq(a * b + c)
            return m
        m.submodules.mac = Instance(
            "SB_MAC16",
            p_A_REG=1,
            p_B_REG=1,
            p_D_REG=1,
            p_TOPADDSUB_LOWERINPUT=2,
            p_TOPADDSUB_UPPERINPUT=1,
            p_TOPADDSUB_CARRYSELECT=2,
            p_BOTADDSUB_LOWERINPUT=2,
            p_BOTADDSUB_UPPERINPUT=1,
            p_TOPOUTPUT_SELECT=0,
            p_BOTOUTPUT_SELECT=0,
            i_CLK=ClockSignal(),
            i_CE=Const(1),
            i_A=self.a,
            i_B=self.b,
            i_AHOLD=Const(0),
            i_BHOLD=~self.take,
            i_C=Const(0, 16),
            i_D=self.c,
            o_O=self.o,
            **_IDLE,
        )
        return m


#: What the carry that `_booth` leaves over is shifted by.
_BOOTH_CARRY = 6
#: Sums of three and more must stay apart for the device's carry chains: merged, they would become twice as
#: many LUTs.
_KEEP = {"keep": "true"}


def _booth(m: Module, a, b, name: str) -> tuple[Signal, Signal]:
    """The product of two int8, as ``result + (carry << _BOOTH_CARRY)``: four rows of 0, 1 or 2 times `a`, by
    pairs of bits of `b`."""
    wide = Signal(signed(9), name=f"{name}_a")
    m.d.comb += wide.eq(a.as_signed())
    bits = Cat(Const(0, 1), b)
    rows, negative = [], []
    for k in range(4):
        one, two, minus = (Signal(name=f"{name}_{what}{k}") for what in ("one", "two", "minus"))
        row = Signal(signed(9), name=f"{name}_row{k}", attrs=_KEEP)
        once = bits[2 * k] ^ bits[2 * k + 1]
        # A row is negated bit by bit; the 1 that is missing enters two rows further up, where its place is
        # free.
        m.d.comb += [
            one.eq(once),
            two.eq((bits[2 * k + 2] ^ bits[2 * k + 1]) & ~once),
            minus.eq(bits[2 * k + 2]),
            row.eq((Mux(one, wide, 0) | Mux(two, wide << 1, 0))[:9] ^ minus.replicate(9)),
        ]
        rows.append(row)
        negative.append(minus)
    halves = []
    for k in (0, 2):
        half = Signal(signed(12), name=f"{name}_half{k}", attrs=_KEEP)
        m.d.comb += half.eq(rows[k] + Cat(negative[k], Const(0, 1), rows[k + 1]).as_signed())
        halves.append(half)
    result = Signal(signed(16), name=f"{name}_result", attrs=_KEEP)
    m.d.comb += result.eq(halves[0] + Cat(Const(0, 2), negative[1], Const(0, 1), halves[1]).as_signed())
    return result, negative[3]


#: Inputs of the DSP block that are not used.
_IDLE = {
    f"i_{name}": Const(0)
    for name in (
        "CHOLD",
        "DHOLD",
        "IRSTTOP",
        "IRSTBOT",
        "ORSTTOP",
        "ORSTBOT",
        "OLOADTOP",
        "OLOADBOT",
        "ADDSUBTOP",
        "ADDSUBBOT",
        "OHOLDTOP",
        "OHOLDBOT",
        "CI",
        "ACCUMCI",
        "SIGNEXTIN",
    )
}


class SinglePortRam(wiring.Component):
    """16,384 words of 16 bits with one port and byte enables.

    Members
    -------
    enable, write : In(1)   an access; whether it writes
    addr, data, mask : In   mask has one bit per byte
    o : Out(16)             what was read, in the cycle after; undefined in the cycle after a write

    Parameters
    ----------
    words : int   that are used, at most 16,384
    """

    def __init__(self, words: int = 1 << 14) -> None:
        if not 2 <= words <= 1 << 14:
            raise ValueError(f"words must be from 2 to 16384, not {words!r}")
        self._words = words
        super().__init__(
            {
                "enable": In(1),
                "write": In(1),
                "addr": In(range(words)),
                "data": In(16),
                "mask": In(2),
                "o": Out(16),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        if not is_ultraplus(platform):
            m.submodules.memory = memory = Memory(shape=unsigned(16), depth=self._words, init=[])
            read, write = memory.read_port(), memory.write_port(granularity=8)
            m.d.comb += [
                read.en.eq(self.enable & ~self.write),
                read.addr.eq(self.addr),
                write.addr.eq(self.addr),
                write.data.eq(self.data),
                write.en.eq(Mux(self.enable & self.write, self.mask, 0)),
                self.o.eq(read.data),
            ]
            return m
        m.submodules.spram = Instance(
            "SB_SPRAM256KA",
            i_ADDRESS=Cat(self.addr, Const(0, 14 - len(self.addr))),
            i_DATAIN=self.data,
            i_MASKWREN=Cat(self.mask[0], self.mask[0], self.mask[1], self.mask[1]),
            i_WREN=self.write,
            i_CHIPSELECT=self.enable,
            i_CLOCK=ClockSignal(),
            i_STANDBY=Const(0),
            i_SLEEP=Const(0),
            i_POWEROFF=Const(1),
            o_DATAOUT=self.o,
        )
        return m
