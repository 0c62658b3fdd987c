"""Registers that are held more than once, so that each can lie beside what it drives."""

from amaranth.hdl import Module, Shape, Signal

from systolith.hw.leaf.delay import delayed

__all__ = ["register_copies", "register_twins"]


def register_twins(m: Module, value, name: str) -> tuple[Signal, Signal]:
    """The value one cycle later, twice, not reset.

    Synthesis makes one register of two that are alike, so the bits of one begin as zeros and those of the
    other as ones.
    """
    shape = Shape.cast(value.shape())
    first, second = (
        Signal(shape, name=f"{name}_{index}", init=init, reset_less=True)
        for index, init in enumerate((0, -1 if shape.signed else (1 << shape.width) - 1))
    )
    m.d.sync += [first.eq(value), second.eq(value)]
    return first, second


def register_copies(m: Module, value, count: int, name: str) -> list[Signal]:
    """The value two cycles later, two or four times, not reset."""
    copies = []
    for half, twin in enumerate(register_twins(m, value, name)):
        copies += (
            register_twins(m, twin, f"{name}{half}") if count == 4 else [delayed(m, twin, 1, f"{name}{half}")]
        )
    return copies
