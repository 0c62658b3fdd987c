"""A serial line: 8 bits, least significant first, no parity, one stop bit, at a fixed divisor of the
clock."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

__all__ = ["UartReceiver", "UartTransmitter"]


def _check_divisor(divisor: int) -> None:
    if not 2 <= divisor <= 1 << 16:
        raise ValueError(f"the divisor must be from 2 to {1 << 16} clock cycles per bit, not {divisor!r}")


class UartReceiver(wiring.Component):
    """Bytes from a line that idles high.

    A start bit that is gone at its middle is taken for a glitch. A byte whose stop bit is low is dropped, and
    nothing begins before the line is high again, so a break gives no bytes.

    Parameters
    ----------
    divisor : int   clock cycles per bit, at least 2

    Members
    -------
    rx : In(1)          asynchronous; two registers synchronise it
    o : Out(stream)     bytes, without backpressure

    Timing
    ------
    A byte is offered for one cycle, in the middle of its stop bit. Bits are sampled in their middle, by the
    edge of the start bit.

    Raises
    ------
    ValueError   If the divisor is out of range.
    """

    def __init__(self, *, divisor: int) -> None:
        _check_divisor(divisor)
        self._divisor = divisor
        super().__init__({"rx": In(1), "o": Out(stream.Signature(8, always_ready=True))})

    def elaborate(self, platform) -> Module:
        m = Module()
        line = Signal(init=1)
        m.submodules.synchroniser = FFSynchronizer(self.rx, line, init=1)
        timer = Signal(range(self._divisor))
        # The one behind the data moves down as bits come in; at the bottom, all eight are there.
        bits = Signal(9)
        m.d.comb += self.o.payload.eq(bits[1:])
        m.d.sync += timer.eq(Mux(timer == 0, self._divisor - 1, timer - 1))
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += timer.eq(self._divisor // 2 - 1)
                with m.If(~line):
                    m.next = "START"
            with m.State("START"):
                m.d.sync += bits.eq(1 << 8)
                with m.If(timer == 0):
                    m.next = "BITS"
                    with m.If(line):
                        m.next = "IDLE"
            with m.State("BITS"):
                with m.If(timer == 0):
                    with m.If(~bits[0]):
                        m.d.sync += bits.eq(Cat(bits[1:], line))
                    with m.Elif(line):
                        m.d.comb += self.o.valid.eq(1)
                        m.next = "IDLE"
                    with m.Else():
                        m.next = "BREAK"
            with m.State("BREAK"):
                with m.If(line):
                    m.next = "IDLE"
        return m


class UartTransmitter(wiring.Component):
    """Bytes onto a line that idles high.

    Parameters
    ----------
    divisor : int   clock cycles per bit, at least 2

    Members
    -------
    i : In(stream)   bytes
    tx : Out(1)      registered

    Timing
    ------
    One byte per ``10 * divisor`` cycles; `tx` falls in the cycle after a byte was taken.

    Raises
    ------
    ValueError   If the divisor is out of range.
    """

    def __init__(self, *, divisor: int) -> None:
        _check_divisor(divisor)
        self._divisor = divisor
        super().__init__({"i": In(stream.Signature(8)), "tx": Out(1, init=1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        timer = Signal(range(self._divisor))
        # What is still to be sent: data and, as the highest one, the stop bit.
        bits = Signal(9)
        m.d.comb += self.i.ready.eq((timer == 0) & (bits == 0))
        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Elif(bits != 0):
            m.d.sync += [self.tx.eq(bits[0]), bits.eq(bits[1:]), timer.eq(self._divisor - 1)]
        with m.Elif(self.i.valid):
            m.d.sync += [self.tx.eq(0), bits.eq(Cat(self.i.payload, 1)), timer.eq(self._divisor - 1)]
        return m
