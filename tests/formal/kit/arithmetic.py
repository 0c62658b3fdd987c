"""The arithmetic that rounding and clamping stand for, in wide numbers."""

from amaranth.hdl import Module, Mux, Signal, Value, signed

__all__ = ["half_to_even", "later", "nearest_even", "saturated"]


def nearest_even(m: Module, value: Value, shift: Value, name: str) -> Signal:
    """``value / 2**shift`` to the nearest integer, ties to even: by the remainder of the division."""
    bits = len(value)
    wide = bits + (1 << len(shift))
    floor = Signal(signed(bits), name=f"{name}_floor")
    twice, one = Signal(wide, name=f"{name}_twice"), Signal(wide, name=f"{name}_one")
    nearest = Signal(signed(bits + 1), name=f"{name}_nearest")
    m.d.comb += [
        floor.eq(value >> shift),
        one.eq(1 << shift),
        # Twice the remainder, against the divisor.
        twice.eq((value - (floor << shift)) << 1),
        nearest.eq(floor + Mux(twice == one, floor[0], twice > one)),
    ]
    return nearest


def saturated(m: Module, value: Value, low: Value | int, high: Value | int, name: str) -> Signal:
    """``min(max(value, low), high)``."""
    least, result = Signal(signed(len(value)), name=f"{name}_least"), Signal(signed(len(value)), name=name)
    m.d.comb += [least.eq(Mux(value < low, low, value)), result.eq(Mux(least > high, high, least))]
    return result


def later(m: Module, value: Value | int, cycles: int, name: str) -> Value:
    """The value so many cycles later, through any reset; 0 where there is none yet."""
    value = Value.cast(value)
    for cycle in range(cycles):
        register = Signal.like(value, name=f"{name}_later{cycle}", reset_less=True)
        m.d.sync += register.eq(value)
        value = register
    return value


def half_to_even(m: Module, value: Value, point: int, name: str) -> Signal:
    """``value / 2**point`` to the nearest integer, ties to even: floor(value + half), less one for an odd
    tie."""
    shifted = Signal(signed(len(value) + 1 - point), name=f"{name}_shifted")
    tie = value[:point] == 1 << (point - 1)
    m.d.comb += shifted.eq((value + (1 << (point - 1))) >> point)
    nearest = Signal(signed(len(shifted) + 1), name=f"{name}_nearest")
    m.d.comb += nearest.eq(shifted - (tie & shifted[0]))
    return nearest
