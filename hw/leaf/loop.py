"""Loop counters whose end is known from a register."""

from amaranth.hdl import Module, Signal

__all__ = ["Loop"]


class Loop:
    """Counts a loop of `count` + 1 rounds; `last` says that this is the last one, without a comparison on the
    way, and `nears` that the next one is.

    Parameters
    ----------
    m : Module    receives the statements, also those of the methods, which are called inside `m.If`
    bits : int    of `count`
    """

    def __init__(self, m: Module, bits: int, name: str) -> None:
        self._m = m
        self._left = Signal(bits, name=f"{name}_left", reset_less=True)
        self.last = Signal(name=f"{name}_last", reset_less=True)
        self.nears = self._left == 1

    def begin(self, count) -> None:
        """The next round is the first of `count` + 1."""
        self._m.d.sync += [self._left.eq(count), self.last.eq(count == 0)]

    def step(self) -> None:
        """The next round is the following one."""
        self._m.d.sync += [self._left.eq(self._left - 1), self.last.eq(self.nears)]
