"""The output stage of a compact core: one element every two cycles, through one multiplier of 16 x 16 bits.
Executes OUTPUT.

Rounding and saturation work on magnitudes: halves go to even on both sides of zero alike, and ~v stands for
the magnitude minus one of a negative v. An element spends a pair of cycles in each of three stages: bias
(both words of its parameters come), multiply (lower half, upper half), round (shift by 16 and 32; the rest
and the zero point), and one cycle for the bounds and the write.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith.hw.compact.matrix import AccPort
from systolith.hw.compact.memory import WordWritePort
from systolith.hw.compact.operands import UnitSignature, capture, operand
from systolith.hw.interfaces import HwErrorCode, param_layout
from systolith.hw.leaf.ice40 import WideMultiplier
from systolith.spec.arch import ArchConfig
from systolith.spec.numerics import ACC

__all__ = ["CompactOutput"]

#: Bits of a rounded magnitude: what is more is out of bounds with any zero point.
_WHOLE = 9


class CompactOutput(wiring.Component):
    """Drains released accumulator entries.

    Members
    -------
    unit : In(UnitSignature)
    acc : Out(AccPort)
    params : In                a beat that LOAD writes: ``valid``, ``beat``, ``data``
    write : Out(WordWritePort) results, gathered to words
    result : Out               each result: ``valid``, ``addr``, ``data``, for a checker
    read : Out                 each entry that was read: ``valid``, ``addr``, ``data``, for a checker

    Timing
    ------
    A pixel every 8 cycles. The last byte of a word is written with the read of the pixel after the next, so
    that both hold up the array once.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        super().__init__(
            {
                "unit": In(UnitSignature(arch)),
                "acc": Out(AccPort(arch)),
                "params": In(
                    wiring.Signature(
                        {"valid": Out(1), "beat": Out(range(arch.param_bytes // 4)), "data": Out(32)}
                    )
                ),
                "write": Out(WordWritePort(arch)),
                "result": Out(
                    wiring.Signature({"valid": Out(1), "addr": Out(range(arch.act_bytes)), "data": Out(8)})
                ),
                "read": Out(
                    wiring.Signature(
                        {
                            "valid": Out(1),
                            "addr": Out(range(arch.acc_depth)),
                            "data": Out(ACC.width * arch.cols),
                        }
                    )
                ),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        arch = self._arch
        names = ("ny", "nx", "channels", "dst_row", "dst_px", "param", "zero", "low", "high")
        self._o = o = {name: operand(arch, "OUTPUT", name) for name in names}
        self._index = Signal(range(2 * arch.acc_depth), reset_less=True)
        self._px = operand(arch, "OUTPUT", "dst")
        self._row = Signal.like(self._px, name="row", reset_less=True)
        capture(m, arch, self.unit, "OUTPUT", {**o, "acc": self._index, "dst": self._px})
        pixel = data.StructLayout({"row_end": 1, "last": 1})
        self._tag = data.StructLayout({"channel": 2, "pixel": pixel})
        starts, tag, head, phase = self._fetch(m, pixel)
        valid, tag, magnitude, shift, sign = self._multiply(m, starts, tag, head, phase)
        self._round(m, valid, tag, magnitude, shift, sign)
        return m

    def _fetch(self, m: Module, pixel):
        """Reads the pixels' entries; four elements follow each other, two cycles each: `starts` in the second
        of them."""
        arch, unit, o, index = self._arch, self.unit, self._o, self._index
        nx, ny = (
            Signal.like(o["nx"], name="at_nx", reset_less=True),
            Signal.like(o["ny"], name="at_ny", reset_less=True),
        )
        active, running = Signal(), Signal()
        credits = Signal(range(2 * arch.acc_depth))
        phase = Signal(3)
        way = Signal(AccPort.LATENCY)
        fetch, arrives, past = Signal(), Signal(), Signal()
        fetched = Signal(pixel)
        on_way, now = Signal(pixel, reset_less=True), Signal(pixel, reset_less=True)
        hold = Signal(ACC.width * arch.cols, reset_less=True)
        m.d.comb += [
            past.eq(index[-1]),
            arrives.eq(way[-1]),
            # Its data comes when the last element of the pixel before leaves.
            fetch.eq(active & (credits != 0) & ~way.any() & (~running | phase[2]) & ~past),
            self.acc.valid.eq(fetch),
            self.acc.addr.eq(index),
            fetched.row_end.eq(nx == o["nx"]),
            fetched.last.eq(fetched.row_end & (ny == o["ny"])),
            unit.error.eq(active & past),
            unit.error_code.eq(HwErrorCode.OPERAND_RANGE),
        ]
        m.d.sync += [
            credits.eq(credits + self.acc.release - fetch),
            way.eq(Cat(fetch, way)),
            phase.eq(phase + running),
        ]
        with m.If(fetch):
            m.d.sync += [index.eq(index + 1), nx.eq(nx + 1), on_way.eq(fetched)]
            with m.If(fetched.row_end):
                m.d.sync += [nx.eq(0), ny.eq(ny + 1)]
            with m.If(fetched.last):
                m.d.sync += active.eq(0)
        with m.If(unit.begin):
            m.d.sync += [active.eq(1), nx.eq(0), ny.eq(0)]
        with m.If(unit.error):
            m.d.sync += active.eq(0)
        with m.If(arrives):
            m.d.sync += [hold.eq(self.acc.data), running.eq(1), phase.eq(0), now.eq(on_way)]
        with m.Else():
            with m.If(phase[0]):
                m.d.sync += hold.eq(Cat(hold[ACC.width :], Const(0, ACC.width)))
            with m.If(phase == 7):
                m.d.sync += running.eq(0)
        read_at = Signal.like(self.acc.addr)
        with m.If(fetch):
            m.d.sync += read_at.eq(index)
        m.d.comb += [
            self.read.valid.eq(arrives),
            self.read.addr.eq(read_at),
            self.read.data.eq(self.acc.data),
        ]
        tag = Signal(self._tag)
        m.d.comb += [tag.channel.eq(phase[1:]), tag.pixel.eq(now)]
        return running & phase[0], tag, hold[: ACC.width].as_signed(), phase

    def _multiply(self, m: Module, starts, tag, head, phase):
        """Bias and product; returns the magnitude in the cycle in which it is whole, with its tag, shift and
        sign."""
        arch, o = self._arch, self._o
        m.submodules.params = memory = Memory(shape=32, depth=arch.param_bytes // 4, init=[])
        read, write = memory.read_port(), memory.write_port()
        m.d.comb += [
            write.addr.eq(self.params.beat),
            write.data.eq(self.params.data),
            write.en.eq(self.params.valid),
            read.addr.eq(Cat(phase, o["param"])),
            read.en.eq(1),
        ]
        # The bias comes in the second cycle of an element, multiplier and shift in the one after.
        param = data.View(param_layout(), Cat(Const(0, 32), read.data))
        biased = Signal(signed(33), reset_less=True)
        tag1, tag2 = Signal(self._tag, reset_less=True), Signal(self._tag, reset_less=True)
        valid = Signal(3)
        m.d.sync += valid.eq(Cat(starts, valid))
        with m.If(starts):
            m.d.sync += [biased.eq(head + read.data.as_signed()), tag1.eq(tag)]
        m.submodules.multiplier = multiplier = WideMultiplier()
        negative = biased[32]
        shift = Signal.like(param.shift, reset_less=True)
        low = Signal(16, reset_less=True)
        sign = Signal(reset_less=True)
        m.d.comb += [
            multiplier.a.eq(Mux(valid[1], biased[16:32], biased[:16]) ^ negative.replicate(16)),
            multiplier.b.eq(param.mult),
            multiplier.c.eq(Mux(valid[1], multiplier.o[16:], Mux(negative, param.mult, 0))),
            multiplier.take.eq(valid[0]),
        ]
        with m.If(valid[0]):
            m.d.sync += shift.eq(param.shift)
        with m.If(valid[1]):
            m.d.sync += [low.eq(multiplier.o[:16]), tag2.eq(tag1), sign.eq(negative)]
        return valid[2], tag2, Cat(low, multiplier.o), shift, sign

    def _round(self, m: Module, valid, tag, magnitude, shift, sign) -> None:
        """Shift, round half to even, zero point, bounds; gathers words."""
        o = self._o
        over, sticky = Const(0, 1), Const(0, 1)
        # One bit below the point is kept: the guard bit.
        value = Signal(len(magnitude) + 1, name="doubled")
        m.d.comb += value.eq(magnitude << 1)

        def step(value, level: int, select, over, sticky):
            """Shift by ``2**level`` if `select`, and keep what the shifts after it can bring into the
            result."""
            width = 1 + _WHOLE + (1 << level) - 1
            result = Signal(width, name=f"shifted{level}")
            m.d.comb += result.eq(Mux(select, value >> (1 << level), value))
            return (
                result,
                over | (~select & value[width:].any()),
                sticky | (select & value[: 1 << level].any()),
            )

        for level in (5, 4):
            value, over, sticky = step(value, level, shift[level], over, sticky)
        half, half_over, half_sticky = (
            Signal.like(value, name="half", reset_less=True),
            Signal(reset_less=True),
            Signal(reset_less=True),
        )
        fine = Signal(4, reset_less=True)
        m.d.sync += [half.eq(value), half_over.eq(over), half_sticky.eq(sticky), fine.eq(shift)]
        value, over, sticky = half, half_over, half_sticky
        for level in (3, 2, 1, 0):
            value, over, sticky = step(value, level, fine[level], over, sticky)
        whole, up = Signal(_WHOLE), Signal()
        rounded = Signal(_WHOLE + 1)
        total = Signal(signed(_WHOLE + 3), reset_less=True)
        least, result = Signal(signed(_WHOLE + 3)), Signal(signed(8))
        m.d.comb += [
            whole.eq(value[1:] | over.replicate(_WHOLE)),
            up.eq(value[0] & (sticky | whole[0]) & ~over),
            rounded.eq(whole + up),
            least.eq(Mux(total < o["low"], o["low"], total)),
            result.eq(Mux(least > o["high"], o["high"], least)),
        ]
        ready = Signal(2)
        bounded = Signal.like(tag, reset_less=True)
        m.d.sync += [
            ready.eq(Cat(valid, ready)),
            bounded.eq(tag),
            total.eq(o["zero"] + Cat(rounded ^ sign.replicate(_WHOLE + 1), sign).as_signed() + sign),
        ]
        self._gather(m, ready[1], bounded, result)

    def _gather(self, m: Module, ready, tag, result) -> None:
        """Puts results where they belong in their word, and writes it when it is full or the pixel ends."""
        o, px, row = self._o, self._px, self._row
        kept, ends, flush, ended = Signal(), Signal(), Signal(), Signal()
        lane = Signal(3)
        word, mask = Signal(32, reset_less=True), Signal(4)
        with_this, with_mask = Signal(32), Signal(4)
        following = Signal.like(px)
        m.d.comb += [
            kept.eq(ready & (tag.channel <= o["channels"]) & ~ended),
            ends.eq(tag.channel == o["channels"]),
            lane.eq(px[:2] + tag.channel),
            following.eq(Mux(tag.pixel.row_end, row, px) + Mux(tag.pixel.row_end, o["dst_row"], o["dst_px"])),
            flush.eq(kept & (ends | (lane[:2] == 3))),
            with_this.eq(word),
            with_mask.eq(mask),
            self.write.valid.eq(flush),
            self.write.word.eq(px[2:] + lane[2]),
            self.write.data.eq(with_this),
            self.write.mask.eq(with_mask),
            self.unit.done.eq(kept & ends & tag.pixel.last),
            self.result.valid.eq(kept),
            self.result.addr.eq(px + tag.channel),
            self.result.data.eq(result),
        ]
        for i in range(4):
            with m.If(lane[:2] == i):
                m.d.comb += [with_this[8 * i : 8 * i + 8].eq(result), with_mask[i].eq(1)]
        # Behind `done` the unused channels of the last pixel still come; by then the operands may be those of
        # the next instruction.
        with m.If(ready):
            m.d.sync += ended.eq((ended | (ends & tag.pixel.last)) & (tag.channel != 3))
        with m.If(kept):
            m.d.sync += [word.eq(with_this), mask.eq(Mux(flush, 0, with_mask))]
            with m.If(ends):
                m.d.sync += px.eq(following)
                with m.If(tag.pixel.row_end):
                    m.d.sync += row.eq(following)
        with m.If(self.unit.begin):
            m.d.sync += row.eq(px)
