"""Rounding and clamping as combinational helpers: `spec.numerics` in hardware."""

from amaranth.hdl import Cat, Mux, Signal, signed
from amaranth.lib import data

__all__ = [
    "add_clamp",
    "add_saturate",
    "coarse_layout",
    "divide_round",
    "round_saturate",
    "shift_coarse",
    "shift_fine",
    "shifted_layout",
]

#: Bits of a shift that its second step does.
_FINE = 3


def shifted_layout(bits: int) -> data.StructLayout:
    """A number of so many bits after a right shift: its integer part, and of what was dropped the first bit
    and whether any
    other was 1."""
    return data.StructLayout({"whole": signed(bits), "half": 1, "rest": 1})


def coarse_layout(bits: int) -> data.StructLayout:
    """A number of so many bits on the way through a right shift: doubled, so that its first bit is the half,
    and whether any dropped bit was 1."""
    return data.StructLayout({"doubled": signed(bits + 1), "rest": 1})


def shift_coarse(m, value: Signal, shift: Signal, name: str) -> data.View:
    """The first step of ``value / 2**shift``, by multiples of 2**8; `shift_fine` takes it on, a cycle later
    where the clock asks for it."""
    doubled = Signal(signed(len(value) + 1), name=f"{name}_doubled")
    result = Signal(coarse_layout(len(value)), name=f"{name}_coarse")
    steps, groups = shift[_FINE:], range(0, len(doubled), 1 << _FINE)
    m.d.comb += [
        doubled.eq(value << 1),
        result.doubled.eq(doubled >> (steps << _FINE)),
        result.rest.eq(
            Cat(
                doubled[at : at + (1 << _FINE)].any() & (steps > step) for step, at in enumerate(groups)
            ).any()
        ),
    ]
    return result


def shift_fine(m, coarse: data.View, shift: Signal, name: str) -> data.View:
    """The rest of ``value / 2**shift``, exact enough to be rounded by `round_saturate`."""
    moved = Signal.like(coarse.doubled, name=f"{name}_moved")
    result = Signal(shifted_layout(len(moved) - 1), name=f"{name}_shifted")
    rest = shift[:_FINE]
    # What the shift drops below the half decides a tie.
    m.d.comb += [
        moved.eq(coarse.doubled >> rest),
        result.whole.eq(moved >> 1),
        result.half.eq(moved[0]),
        result.rest.eq(
            coarse.rest | Cat(coarse.doubled[at] & (rest > at) for at in range((1 << _FINE) - 1)).any()
        ),
    ]
    return result


def add_saturate(m, whole: Signal, up: Signal, name: str, bits: int) -> Signal:
    """``whole + up`` for a bit `up`, saturated to signed(bits). The bounds are looked for while the sum is
    made."""
    result = Signal(signed(bits), name=f"{name}_result")
    top, negative = whole[bits - 1 : -1], whole[-1]
    # Rounding up cannot bring a number back into the range, nor out of it where it is below the largest.
    m.d.comb += result.eq(
        Mux(
            ~negative & (top.any() | whole[: bits - 1].all()),
            (1 << (bits - 1)) - 1,
            Mux(negative & ~top.all(), -(1 << (bits - 1)), whole[:bits].as_signed() + up),
        )
    )
    return result


def round_saturate(m, shifted: data.View, name: str, bits: int = 11) -> Signal:
    """The nearest integer, ties to even, saturated to signed(bits).

    11 bits are enough for any int8 result with any zero point.
    """
    up = Signal(name=f"{name}_up")
    m.d.comb += up.eq(shifted.half & (shifted.rest | shifted.whole[0]))
    return add_saturate(m, shifted.whole, up, name, bits)


def divide_round(m, value: Signal, shift: Signal, lane: int, bits: int = 11) -> Signal:
    """``value / 2**shift`` to the nearest integer, ties to even, saturated to signed(bits); `timing.ROUND`
    cycles later, one per cycle."""
    name = f"lane{lane}"
    coarse = Signal(coarse_layout(len(value)), name=f"coarse{lane}", reset_less=True)
    late_shift = Signal(_FINE, name=f"fine_shift{lane}", reset_less=True)
    shifted = Signal(shifted_layout(len(value)), name=f"shifted{lane}", reset_less=True)
    rounded = Signal(signed(bits), name=f"rounded{lane}", reset_less=True)
    m.d.sync += [
        coarse.eq(shift_coarse(m, value, shift, name)),
        late_shift.eq(shift),
        shifted.eq(shift_fine(m, coarse, late_shift, name)),
        rounded.eq(round_saturate(m, shifted, name, bits)),
    ]
    return rounded


def add_clamp(m, value: Signal, zero: Signal, low: Signal, high: Signal, name: str) -> Signal:
    """``min(max(value + zero, low), high)``, as wide as the bounds."""
    total = Signal(signed(len(value) + 1), name=f"{name}_total")
    result = Signal(signed(len(low)), name=f"{name}_clamped")
    # The upper bound has the last word, also where the bounds contradict each other.
    m.d.comb += [
        total.eq(value + zero),
        result.eq(Mux((total > high) | (low > high), high, Mux(total < low, low, total))),
    ]
    return result
