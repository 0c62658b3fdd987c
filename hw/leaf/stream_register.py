"""A register slice for streams."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["StreamRegister"]


class StreamRegister(wiring.Component):
    """Passes a stream on with registers on all of it, `ready` too: no path goes through.

    Members
    -------
    i : In(stream)
    o : Out(stream)

    Timing
    ------
    Latency 1, one transfer per cycle. It has room for two.
    """

    def __init__(self, shape) -> None:
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform) -> Module:
        m = Module()
        waits = Signal()
        second = Signal.like(self.i.payload, reset_less=True)
        first = Signal.like(self.i.payload, reset_less=True)
        m.d.comb += [self.i.ready.eq(~waits), self.o.payload.eq(first)]
        with m.If(~waits):
            m.d.sync += second.eq(self.i.payload)
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [
                waits.eq(0),
                self.o.valid.eq(self.i.valid | waits),
                first.eq(Mux(waits, second, self.i.payload)),
            ]
        with m.Elif(self.i.valid):
            m.d.sync += waits.eq(1)
        return m
