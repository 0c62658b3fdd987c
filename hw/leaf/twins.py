"""A register that is held twice, so that each of the two can lie beside what it drives."""

from amaranth.hdl import Module, Shape, Signal

__all__ = ["register_twins"]


def register_twins(m: Module, value, name: str) -> tuple[Signal, Signal]:
    """The value one cycle later, twice, not reset.

    Synthesis makes one register of two that are alike, so the bits of one begin as zeros and those of the other as ones.
    """
    shape = Shape.cast(value.shape())
    first, second = (Signal(shape, name=f"{name}_{index}", init=init, reset_less=True) for index, init in enumerate((0, -1 if shape.signed else (1 << shape.width) - 1)))
    m.d.sync += [first.eq(value), second.eq(value)]
    return first, second
