"""The arithmetic of a recurrent cell for one unit at a time: activation functions and scaled products."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith.spec.cells import GATE, HIDDEN_FRAC, SEGMENT_BITS, SIGMOID, STATE, TANH, UNIT_FRAC
from systolith.spec.numerics import INT8

__all__ = ["FACTOR", "PRE", "CellLane", "saturated"]

#: Factors: a difference of two states, or an unsigned number of as many bits.
FACTOR = signed(STATE.width + 1)
#: What is added to a product before it is rounded.
PRE = signed(STATE.width + GATE.frac)
#: What the hidden state drops beyond the binary point of a product's result.
_HIDDEN_BITS = UNIT_FRAC - HIDDEN_FRAC


def saturated(value, bits: int):
    """`value`, or the bound of signed(bits) that it passes."""
    top = value[bits - 1:]
    bound = Mux(value[-1], -(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    return Mux(top.all() | ~top.any(), value[:bits].as_signed(), bound)


class CellLane(wiring.Component):
    """One multiplier and one ROM with the segments of sigmoid and tanh.

    ``lookup``: ``o = plain ? x : interpolate(tanh ? TANH : SIGMOID, x)``, see `spec.cells`.
    ``multiply``: ``o = saturate(post + round_half_even((pre + a*b) / 2**15))``; with `hidden`, 2**23 and int8.

    Members
    -------
    lookup, plain, tanh, x : In
    multiply, hidden, a, b, pre, post : In
    o : Out                                  stays until the next result

    Timing
    ------
    ``LOOKUP`` and ``MULTIPLY`` cycles, one operation per cycle. A product begun one cycle after a lookup would meet it:
    the owner must not do that.
    """

    LOOKUP, MULTIPLY = 4, 3

    def __init__(self) -> None:
        state = signed(STATE.width)
        super().__init__({
            "lookup": In(1), "plain": In(1), "tanh": In(1), "x": In(signed(GATE.width)),
            "multiply": In(1), "hidden": In(1), "a": In(FACTOR), "b": In(FACTOR), "pre": In(PRE), "post": In(state), "o": Out(state),
        })

    def elaborate(self, platform):
        m = Module()
        segments = (*SIGMOID, *TANH)
        rises = [rise for _, rise in segments]
        layout = data.StructLayout({"value": signed(STATE.width), "rise": range(min(rises), max(rises) + 1)})
        m.submodules.rom = rom = Memory(shape=layout, depth=len(segments),
                                        init=[{"value": value, "rise": rise} for value, rise in segments])
        segment = rom.read_port()

        # -- a lookup's first cycle ------------------------------------------------------------------------------
        found, plain = Signal(), Signal(reset_less=True)
        x = Signal(signed(GATE.width), reset_less=True)
        m.d.comb += [segment.en.eq(1), segment.addr.eq(Cat(self.x[SEGMENT_BITS:], self.tanh))]
        m.d.sync += [found.eq(self.lookup), plain.eq(self.plain), x.eq(self.x)]

        # -- operands --------------------------------------------------------------------------------------------
        a, b = Signal(FACTOR, reset_less=True), Signal(FACTOR, reset_less=True)
        pre, post = Signal(PRE, reset_less=True), Signal(signed(STATE.width), reset_less=True)
        busy, hidden = Signal(), Signal(reset_less=True)
        m.d.sync += [busy.eq(found | self.multiply), a.eq(self.a), b.eq(self.b), pre.eq(self.pre), post.eq(self.post), hidden.eq(self.hidden)]
        with m.If(found):
            # The rest of the argument, aligned so that the product is rounded where all the others are.
            m.d.sync += [a.eq(Mux(plain, 0, segment.data.rise)), b.eq(x[:SEGMENT_BITS] << (UNIT_FRAC - SEGMENT_BITS)), pre.eq(0),
                         post.eq(Mux(plain, x, segment.data.value)), hidden.eq(0)]

        # -- product ---------------------------------------------------------------------------------------------
        product = Signal(signed(2 * FACTOR.width), reset_less=True)
        pre_late, post_late = Signal.like(pre, reset_less=True), Signal.like(post, reset_less=True)
        busy_late, hidden_late = Signal(), Signal(reset_less=True)
        m.d.sync += [product.eq(a * b), pre_late.eq(pre), post_late.eq(post), busy_late.eq(busy), hidden_late.eq(hidden)]

        # -- round and saturate ----------------------------------------------------------------------------------
        total = Signal(signed(2 * FACTOR.width + 1))
        placed = Signal(signed(2 * FACTOR.width + 1))
        whole = Signal(signed(len(placed) - UNIT_FRAC))
        up = Signal()
        result = Signal(signed(len(whole) + 1))
        m.d.comb += [
            total.eq(product + pre_late),
            # Of the bits that a hidden state drops first, one stands for all: it decides ties as they would.
            placed.eq(Mux(hidden_late, Cat(total[:_HIDDEN_BITS + 1].any(), total[_HIDDEN_BITS + 1:]).as_signed(), total)),
            whole.eq(placed >> UNIT_FRAC),
            up.eq(placed[UNIT_FRAC - 1] & (placed[:UNIT_FRAC - 1].any() | whole[0])),
            result.eq(whole + post_late + up),
        ]
        with m.If(busy_late):
            m.d.sync += self.o.eq(Mux(hidden_late, saturated(result, INT8.width), saturated(result, STATE.width)))
        return m
