"""Loops one inside the other whose ends are known from registers."""

from itertools import accumulate
from operator import and_

from amaranth.hdl import Module, Mux, Signal, Value

__all__ = ["Nest"]


class Nest:
    """Counts nested loops of `count` + 1 rounds each, the innermost first.

    Which loops end with a step is decided a step ahead, so that no chain of comparisons lies before what the
    step moves.

    Parameters
    ----------
    m : Module        receives the statements, also those of the methods, which are called inside `m.If`
    bits : dict       loop -> width of its count, from the innermost to the outermost

    Attributes
    ----------
    last : dict       loop -> register: it is in its last round
    ends : dict       loop -> register: it and all inside it are in their last round, so a step takes the next
           loop on
    """

    def __init__(self, m: Module, bits: dict[str, int], name: str) -> None:
        self._m = m
        self.ends = {loop: Signal(name=f"{name}_{loop}_ends", reset_less=True) for loop in bits}
        self._left = {
            loop: Signal(width, name=f"{name}_{loop}_left", reset_less=True) for loop, width in bits.items()
        }

        def flags(of: str) -> dict[str, Signal]:
            return {loop: Signal(name=f"{name}_{loop}_{of}", reset_less=True) for loop in bits}

        #: In the last round, in the last but one; whether the loop's first round is that.
        self.last, self._near, self._one, self._two = flags("last"), flags("near"), flags("one"), flags("two")

    def begin(self, counts) -> Value:
        """The next round is the first of all loops, of `counts[loop]` + 1 each; returns whether it is the
        last of all."""
        first = {loop: counts[loop] == 0 for loop in self.ends}
        for loop, last in first.items():
            near = counts[loop] == 1
            self._m.d.sync += [
                self._left[loop].eq(counts[loop]),
                self.last[loop].eq(last),
                self._one[loop].eq(last),
                self._near[loop].eq(near),
                self._two[loop].eq(near),
            ]
        return self._set_ends(first)

    def step(self, counts) -> Value:
        """The next round follows, `counts` are still those of `begin`; returns whether it is the last of
        all."""
        m = self._m
        following = {}
        inside = 1
        for loop, ends in self.ends.items():
            left, last, near = self._left[loop], self.last[loop], self._near[loop]
            turned = Signal(name=f"{last.name}_next")
            m.d.comb += turned.eq(Mux(last, self._one[loop], near))
            following[loop] = Mux(inside, turned, last)
            with m.If(inside):
                m.d.sync += [
                    left.eq(Mux(last, counts[loop], left - 1)),
                    last.eq(turned),
                    near.eq(Mux(last, self._two[loop], left == 2)),
                ]
            inside = ends
        return self._set_ends(following)

    def _set_ends(self, last: dict[str, Value]) -> Value:
        for ends, value in zip(self.ends.values(), accumulate(last.values(), and_), strict=True):
            self._m.d.sync += ends.eq(value)
        return value
