"""Rounding and clamping as combinational helpers: `spec.numerics` in hardware."""

from amaranth.hdl import Const, Mux, Signal, signed
from amaranth.lib import data

__all__ = ["add_clamp", "round_saturate", "shift_right", "shifted_layout"]


def shifted_layout(bits: int) -> data.StructLayout:
    """A number of so many bits after a right shift: its integer part, and of what was dropped the first bit and whether any
    other was 1."""
    return data.StructLayout({"whole": signed(bits), "half": 1, "rest": 1})


def shift_right(m, value: Signal, shift: Signal, name: str) -> data.View:
    """``value / 2**shift``, exact enough to be rounded by `round_saturate`, a cycle later where the clock asks for it."""
    width = len(value)
    doubled = Signal(signed(width + 1), name=f"{name}_doubled")
    moved = Signal(signed(width + 1), name=f"{name}_moved")
    dropped = Signal(width + 1, name=f"{name}_dropped")
    result = Signal(shifted_layout(width), name=f"{name}_shifted")
    # One more bit below the point, which is the half. What the shift drops from it decides a tie.
    m.d.comb += [
        doubled.eq(value << 1), moved.eq(doubled >> shift), dropped.eq(doubled & ((Const(1, 1) << shift) - 1)),
        result.whole.eq(moved >> 1), result.half.eq(moved[0]), result.rest.eq(dropped.any()),
    ]
    return result


def round_saturate(m, shifted: data.View, name: str, bits: int = 11) -> Signal:
    """The nearest integer, ties to even, saturated to signed(bits).

    11 bits are enough for any int8 result with any zero point.
    """
    result = Signal(signed(bits), name=f"{name}_result")
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    up = Signal(name=f"{name}_up")
    # Rounding up cannot bring a number back into the range, nor out of it where it is below `high`.
    m.d.comb += [
        up.eq(shifted.half & (shifted.rest | shifted.whole[0])),
        result.eq(Mux(shifted.whole >= high, high, Mux(shifted.whole < low, low, shifted.whole[:bits].as_signed() + up))),
    ]
    return result


def add_clamp(m, value: Signal, zero: Signal, low: Signal, high: Signal, name: str) -> Signal:
    """``min(max(value + zero, low), high)``, as wide as the bounds."""
    total = Signal(signed(len(value) + 1), name=f"{name}_total")
    result = Signal(signed(len(low)), name=f"{name}_clamped")
    # The upper bound has the last word, also where the bounds contradict each other.
    m.d.comb += [total.eq(value + zero),
                 result.eq(Mux((total > high) | (low > high), high, Mux(total < low, low, total)))]
    return result
