"""The arithmetic of a recurrent cell for one unit at a time: activation functions and scaled products."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith.hw.leaf.multiplier import registered_product
from systolith.hw.leaf.rounding import add_saturate
from systolith.spec import timing
from systolith.spec.cells import GATE, HIDDEN_FRAC, SEGMENT_BITS, SIGMOID, STATE, TANH, UNIT_FRAC
from systolith.spec.numerics import INT8

__all__ = ["FACTOR", "PRE", "CellLane"]

#: Factors: a difference of two states, or an unsigned number of as many bits.
FACTOR = signed(STATE.width + 1)
#: What is added to a product before it is rounded.
PRE = signed(STATE.width + GATE.frac)
#: Binary point of the product of a gate and a hidden state as int8 from it.
_HIDDEN_POINT = 2 * UNIT_FRAC - HIDDEN_FRAC


class CellLane(wiring.Component):
    """One multiplier and one ROM with the segments of sigmoid and tanh.

    ``lookup``: ``o = plain ? x : interpolate(tanh ? TANH : SIGMOID, x)``, see `spec.cells`.
    Else ``o = saturate(post + round_half_even((pre + a*b) / 2**15))``; where `pre` and `post` are 0, also
    ``hidden = saturate(round_half_even(a*b / 2**23))`` as int8.

    Members
    -------
    lookup, plain, tanh, x : In
    a, b, pre, post : In
    o, hidden : Out

    Timing
    ------
    ``LOOKUP`` and ``MULTIPLY`` cycles, one operation per cycle, whose result is there for one cycle. A
    product begun one cycle after a lookup would meet it: the owner must not do that.
    """

    LOOKUP, MULTIPLY = timing.CELL_LOOKUP, timing.CELL_PRODUCT

    def __init__(self) -> None:
        state = signed(STATE.width)
        super().__init__(
            {
                "lookup": In(1),
                "plain": In(1),
                "tanh": In(1),
                "x": In(signed(GATE.width)),
                "a": In(FACTOR),
                "b": In(FACTOR),
                "pre": In(PRE),
                "post": In(state),
                "o": Out(state),
                "hidden": Out(signed(INT8.width)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        segments = (*SIGMOID, *TANH)
        rises = [rise for _, rise in segments]
        layout = data.StructLayout({"value": signed(STATE.width), "rise": range(min(rises), max(rises) + 1)})
        m.submodules.rom = rom = Memory(
            shape=layout,
            depth=len(segments),
            init=[{"value": value, "rise": rise} for value, rise in segments],
        )
        segment = rom.read_port()

        # -- a lookup's first cycle
        # ------------------------------------------------------------------------------
        found, plain = Signal(reset_less=True), Signal(reset_less=True)
        x = Signal(signed(GATE.width), reset_less=True)
        m.d.comb += [segment.en.eq(1), segment.addr.eq(Cat(self.x[SEGMENT_BITS:], self.tanh))]
        m.d.sync += [found.eq(self.lookup), plain.eq(self.plain), x.eq(self.x)]

        # -- operands
        # --------------------------------------------------------------------------------------------
        a, b = Signal(FACTOR), Signal(FACTOR)
        pre, post = Signal(PRE, reset_less=True), Signal(signed(STATE.width), reset_less=True)
        m.d.comb += [a.eq(self.a), b.eq(self.b)]
        m.d.sync += [pre.eq(self.pre), post.eq(self.post)]
        with m.If(found):
            # The rest of the argument, aligned so that the product is rounded where all the others are.
            m.d.comb += [
                a.eq(Mux(plain, 0, segment.data.rise)),
                b.eq(x[:SEGMENT_BITS] << (UNIT_FRAC - SEGMENT_BITS)),
            ]
            m.d.sync += [pre.eq(0), post.eq(Mux(plain, x, segment.data.value))]

        # -- product
        # ---------------------------------------------------------------------------------------------
        product = registered_product(m, platform, a, b, "product")
        # `post` is added before the rounding, which it may not decide: whether the integer part is even, it
        # says beside.
        addend, odd = Signal(signed(STATE.width + UNIT_FRAC + 1), reset_less=True), Signal(reset_less=True)
        m.d.sync += [addend.eq(pre + (post << UNIT_FRAC)), odd.eq(post[0])]

        # -- round and saturate
        # ----------------------------------------------------------------------------------
        total = Signal(signed(2 * FACTOR.width + 1))
        m.d.comb += total.eq(product + addend)
        # Not reset: a reset of registers behind so long a path would come late.
        o, hidden = Signal(signed(STATE.width), reset_less=True), Signal(signed(INT8.width), reset_less=True)
        m.d.sync += [
            o.eq(self._rounded(m, total, odd, "o", UNIT_FRAC, STATE.width)),
            hidden.eq(self._rounded(m, total, 0, "hidden", _HIDDEN_POINT, INT8.width)),
        ]
        m.d.comb += [self.o.eq(o), self.hidden.eq(hidden)]
        return m

    @staticmethod
    def _rounded(m: Module, total: Signal, odd, name: str, point: int, bits: int) -> Signal:
        """``total / 2**point`` to the nearest integer, ties to those that are even without `odd`, saturated
        to signed(bits)."""
        whole = Signal(signed(len(total) - point), name=f"{name}_whole")
        up = Signal(name=f"{name}_up")
        m.d.comb += [
            whole.eq(total >> point),
            up.eq(total[point - 1] & (total[: point - 1].any() | (whole[0] ^ odd))),
        ]
        return add_saturate(m, whole, up, name, bits)
