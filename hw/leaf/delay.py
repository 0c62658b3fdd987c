"""A value some cycles later."""

from amaranth.hdl import Module, Signal

__all__ = ["delayed"]


def delayed(m: Module, value, cycles: int, name: str):
    """The value so many cycles later, through registers ``NAME_0`` and so on that are not reset; with none,
    the value itself."""
    for cycle in range(cycles):
        late = Signal.like(value, name=f"{name}_{cycle}", reset_less=True)
        m.d.sync += late.eq(value)
        value = late
    return value
