"""Rounding and clamping as combinational helpers: `spec.numerics` in hardware."""

from amaranth.hdl import Const, Mux, Signal, signed

__all__ = ["add_clamp", "round_shift"]


def round_shift(m, value: Signal, shift: Signal, name: str, bits: int = 11) -> Signal:
    """``value / 2**shift``, nearest, ties to even, saturated to signed(bits).

    11 bits are enough for any int8 result with any zero point.
    """
    width = len(value)
    doubled = Signal(signed(width + 1), name=f"{name}_doubled")
    shifted = Signal(signed(width + 1), name=f"{name}_shifted")
    dropped = Signal(width + 1, name=f"{name}_dropped")
    whole = Signal(signed(width), name=f"{name}_whole")
    up = Signal(name=f"{name}_up")
    rounded = Signal(signed(width + 1), name=f"{name}_rounded")
    # One more bit below the point: the guard bit. What the shift drops from it decides a tie.
    m.d.comb += [
        doubled.eq(value << 1), shifted.eq(doubled >> shift), whole.eq(shifted >> 1),
        dropped.eq(doubled & ((Const(1, 1) << shift) - 1)),
        up.eq(shifted[0] & (dropped.any() | whole[0])), rounded.eq(whole + up),
    ]
    result = Signal(signed(bits), name=f"{name}_result")
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    m.d.comb += result.eq(Mux(rounded > high, high, Mux(rounded < low, low, rounded)))
    return result


def add_clamp(m, value: Signal, zero: Signal, low: Signal, high: Signal, name: str) -> Signal:
    """``min(max(value + zero, low), high)``, as wide as the bounds."""
    total = Signal(signed(len(value) + 1), name=f"{name}_total")
    result = Signal(signed(len(low)), name=f"{name}_clamped")
    # The upper bound has the last word, also where the bounds contradict each other.
    m.d.comb += [total.eq(value + zero),
                 result.eq(Mux((total > high) | (low > high), high, Mux(total < low, low, total)))]
    return result
