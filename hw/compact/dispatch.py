"""Fetch, decode and order of a compact core: instructions stream through a small buffer, beat by beat, into
the unit that executes them.

There is no queue: an instruction waits at the head of the stream until its tokens are there and its unit is
idle, and those behind it wait with it. LOAD and STORE share one unit. A unit has one instruction at a time.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith.hw.compact.operands import UnitSignature
from systolith.hw.interfaces import HwErrorCode
from systolith.hw.soc.axi import ReadSignature
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Engine, isa_for, semaphore_bits

__all__ = ["CompactDispatch"]

#: Engines of a compact core, by their bit in `wait` and `signal`.
_ENGINES = (Engine.LOAD, Engine.STORE, Engine.MATRIX, Engine.OUTPUT)
#: Units, by what they are called here, and their engines.
_UNITS = {"transfer": (Engine.LOAD, Engine.STORE), "matrix": (Engine.MATRIX,), "output": (Engine.OUTPUT,)}
#: Beats of one burst of fetch, and of its buffer.
_BURST, _BUFFER = 4, 32


class CompactDispatch(wiring.Component):
    """The instruction stream, and the instructions that are not done.

    Members
    -------
    start, stop : In(1)           begin at `entry`, first thing after reset; begin nothing more
    entry, base, size : In        the PROGRAM region; multiples of 16
    bus : Out(ReadSignature)
    transfer, matrix, output : Out(UnitSignature)
    store : Out(1)                what `transfer` has is a STORE
    done : Out                    one bit per engine: an instruction is done
    retired : Out(1)              HALT or NOP
    error, error_code, error_offset : Out   in the cycle in which it happens
    offset, oldest : Out          places of the instruction at the head, and of one that waits for something
                     outside its unit
    moved : Out(1)                something happened, for the watchdog
    finished : Out(1)             HALT has come and every unit is idle
    idle : Out(1)                 no burst is under way
    """

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        super().__init__(
            {
                "start": In(1),
                "stop": In(1),
                "entry": In(arch.addr_bits),
                "base": In(arch.addr_bits),
                "size": In(arch.addr_bits + 1),
                "bus": Out(ReadSignature(arch)),
                **{name: Out(UnitSignature(arch)) for name in _UNITS},
                "store": Out(1),
                "done": Out(len(Engine)),
                "retired": Out(1),
                "error": Out(1),
                "error_code": Out(HwErrorCode),
                "error_offset": Out(arch.addr_bits),
                "offset": Out(arch.addr_bits),
                "oldest": Out(arch.addr_bits),
                "moved": Out(1),
                "finished": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        self._offset = Signal(self._arch.addr_bits - 4, reset_less=True)
        self._halted = Signal()
        valid, data, take, exhausted, broken = self._fetch(m)
        self._dispatch(m, valid, data, take, exhausted, broken)
        return m

    # -- fetch
    # ---------------------------------------------------------------------------------------------------
    def _fetch(self, m: Module):
        """The buffer's head: valid, beat, and `take` to remove it; whether nothing more will come, and
        whether for a bus error."""
        arch, bus = self._arch, self.bus
        m.submodules.buffer = memory = Memory(shape=arch.bus_bits, depth=_BUFFER, init=[])
        read_port, write_port = memory.read_port(), memory.write_port()
        ask = Signal(arch.addr_bits - 3, reset_less=True)  # next burst, in units of 16 bytes
        active, under_way, broken = Signal(), Signal(), Signal()
        at_write, at_read = Signal(range(_BUFFER)), Signal(range(_BUFFER))
        level = Signal(range(_BUFFER + 1))
        take, ended, written, shown = Signal(), Signal(), Signal(), Signal()
        following = Signal.like(at_read)
        beat = bus.beats.valid
        m.d.comb += [
            ended.eq(ask >= self.size[4:]),
            bus.bursts.valid.eq(under_way & active),
            bus.bursts.payload.len.eq(_BURST - 1),
            bus.bursts.payload.addr.eq(Cat(Const(0, 4), self.base[4:] + ask)),
            bus.beats.ready.eq(1),
            self.idle.eq(~under_way),
            written.eq(beat & ~bus.beats.payload.error & ~broken & ~self.stop),
            following.eq(at_read + take),
            write_port.addr.eq(at_write),
            write_port.data.eq(bus.beats.payload.data),
            write_port.en.eq(written),
            read_port.en.eq(1),
            read_port.addr.eq(following),
        ]
        # What is written in one cycle is read in the next, and shown in the one after.
        m.d.sync += [
            shown.eq(written),
            at_write.eq(at_write + written),
            at_read.eq(following),
            level.eq(level + shown - take),
        ]
        with m.If(self.start):
            m.d.sync += [ask.eq(self.entry >> 4), active.eq(1), self._offset.eq(self.entry >> 4)]
        with m.If(
            active
            & ~under_way
            & ~self._halted
            & ~self.stop
            & ~broken
            & ~ended
            & (level <= _BUFFER - 2 * _BURST)
        ):
            m.d.sync += under_way.eq(1)
        with m.If(bus.bursts.valid & bus.bursts.ready):
            # Off while its beats come.
            m.d.sync += active.eq(0)
        with m.If(beat):
            with m.If(bus.beats.payload.error):
                m.d.sync += broken.eq(1)
            with m.If(bus.beats.payload.last):
                m.d.sync += [under_way.eq(0), active.eq(1), ask.eq(ask + 1)]
        return (
            level != 0,
            read_port.data,
            take,
            active & ~under_way & ~shown & (level == 0) & (ended | broken),
            broken,
        )

    # -- dispatch
    # ------------------------------------------------------------------------------------------------
    def _dispatch(self, m: Module, valid, data, take, exhausted, broken) -> None:
        arch, isa = self._arch, isa_for(self._arch)
        beats = isa.word_bytes // arch.bus_bytes
        index = Signal(range(beats))
        count = len(_ENGINES)
        opcode, waits, signals = data[:4], data[4 : 4 + count], data[4 + count : 4 + 2 * count]
        formats = {fmt.mnemonic: fmt for fmt in isa.formats}
        now = Signal(len(Engine), name="engine")  # one bit per engine, of the instruction whose beats come
        held = Signal(len(Engine), name="held_engine", reset_less=True)
        held_waits, held_signals = Signal(count, reset_less=True), Signal(count, reset_less=True)
        halts, held_halts = Signal(), Signal(reset_less=True)
        illegal, was_illegal = Signal(), Signal(reset_less=True)
        begin = Signal()
        halted, ends = self._halted, Signal()
        busy = {name: Signal(name=f"busy_{name}") for name in _UNITS}
        head = index == 0
        known = Signal()
        with m.If(head):
            with m.Switch(opcode):
                for fmt in isa.formats:
                    with m.Case(fmt.opcode):
                        m.d.comb += known.eq(1)
                        if fmt.engine is not None:
                            m.d.comb += now[int(fmt.engine)].eq(1)
            m.d.comb += halts.eq(opcode == formats["HALT"].opcode)
        with m.Else():
            m.d.comb += [now.eq(held), halts.eq(held_halts), known.eq(1)]
        self._legal(m, isa, now, index, data, illegal, known, beats)
        present = self._tokens(m, now, Mux(begin, held, 0), held_waits)
        unit_busy = Cat(
            busy[name] & Cat(now[int(e)] for e in engines).any() for name, engines in _UNITS.items()
        ).any()
        ready = ~head | (~unit_busy & (((waits & ~present) == 0) | ~now.any()))
        m.d.comb += [take.eq(valid & ready & ~halted & ~self.stop & ~ends)]
        m.d.sync += ends.eq(take & (index == beats - 1))
        with m.If(take):
            m.d.sync += [index.eq(index + 1), was_illegal.eq(illegal | (was_illegal & ~head))]
            with m.If(head):
                m.d.sync += [
                    held.eq(now),
                    held_waits.eq(waits),
                    held_signals.eq(signals),
                    held_halts.eq(halts),
                ]
        # The cycle behind the last beat: the instruction begins, or it was none.
        bad = Signal()
        m.d.comb += [
            begin.eq(ends & ~was_illegal),
            bad.eq((ends & was_illegal) | (exhausted & ~halted & ~self.stop & ~ends)),
        ]
        with m.If(begin):
            m.d.sync += self._offset.eq(self._offset + isa.word_bytes // 16)
            with m.If(held_halts):
                m.d.sync += halted.eq(1)
        any_busy = Cat(busy.values()).any()
        m.d.comb += [
            self.retired.eq(begin & ~held.any()),
            self.finished.eq(halted & ~any_busy),
            self.offset.eq(Cat(Const(0, 4), self._offset)),
            self.moved.eq(take | self.done.any()),
        ]
        m.d.comb += [
            self.error.eq(bad),
            self.error_offset.eq(self.offset),
            self.error_code.eq(HwErrorCode.ILLEGAL_INSTRUCTION),
        ]
        with m.If(~ends):
            m.d.comb += self.error_code.eq(Mux(broken, HwErrorCode.BUS_READ.value, HwErrorCode.REGION.value))
        m.d.comb += self.oldest.eq(self.offset)
        for name, engines in _UNITS.items():
            self._unit(m, name, engines, now, held, held_signals, take, index, data, begin, busy[name])

    def _unit(
        self, m: Module, name: str, engines, now, held, held_signals, take, index, data, begin, busy
    ) -> None:
        """What one unit receives, and what is kept of its instruction."""
        unit = getattr(self, name)
        mine, begins = Cat(now[int(e)] for e in engines).any(), Signal(name=f"{name}_begins")
        offset = Signal(len(self._offset), name=f"{name}_offset", reset_less=True)
        signals = Signal(len(_ENGINES), name=f"{name}_signals", reset_less=True)
        m.d.comb += [
            unit.load.eq(take & mine),
            unit.index.eq(index),
            unit.data.eq(data),
            begins.eq(begin & Cat(held[int(e)] for e in engines).any()),
            unit.begin.eq(begins),
        ]
        with m.If(begins):
            m.d.sync += [busy.eq(1), offset.eq(self._offset), signals.eq(held_signals)]
            if name == "transfer":
                m.d.sync += self.store.eq(held[int(Engine.STORE)])
        with m.If(unit.done):
            m.d.sync += busy.eq(0)
        if name != "matrix":
            with m.If(busy):
                m.d.comb += self.oldest.eq(Cat(Const(0, 4), offset))
        for engine in engines:
            mine = {Engine.LOAD: ~self.store, Engine.STORE: self.store}.get(engine, 1)
            m.d.comb += self.done[int(engine)].eq(unit.done & mine)
            self._give(m, engine, self.done[int(engine)], signals, offset)
        with m.If(unit.error):
            m.d.comb += [
                self.error.eq(1),
                self.error_code.eq(unit.error_code),
                self.error_offset.eq(Cat(Const(0, 4), offset)),
            ]

    def _legal(self, m: Module, isa, now, index, data, illegal, known, beats: int) -> None:
        """Reserved bits, and what NOP and HALT must not have; sets `illegal` for the beat at hand."""
        bits = self._arch.bus_bits
        with m.If(~known):
            m.d.comb += illegal.eq(1)
        used = {
            int(fmt.engine): sum(f.bits for f in isa.fields(fmt.mnemonic))
            for fmt in isa.formats
            if fmt.engine is not None
        }
        with m.Switch(index):
            for beat in range(beats):
                with m.Case(beat):
                    for engine, width in used.items():
                        first = max(0, width - beat * bits)
                        if first < bits:
                            with m.If(now[engine] & data[first:].any()):
                                m.d.comb += illegal.eq(1)
                    with m.If(~now.any() & data[4 if beat == 0 else 0 :].any()):
                        m.d.comb += illegal.eq(1)

    def _tokens(self, m: Module, now, begins, held_waits) -> Signal:
        """The semaphores; returns which engines' tokens are there for the instruction at hand."""
        bits = semaphore_bits(self._arch)
        present = Signal(len(_ENGINES))
        self._gives = {}
        for taker in _ENGINES:
            mine = now[int(taker)]
            for giver in _ENGINES:
                tokens = Signal(bits, name=f"tokens_{giver.name.lower()}_{taker.name.lower()}")
                give = Signal(name=f"give_{giver.name.lower()}_{taker.name.lower()}")
                takes = begins[int(taker)] & held_waits[int(giver)]
                m.d.sync += tokens.eq(tokens + give - takes)
                with m.If(mine & (tokens != 0)):
                    m.d.comb += present[int(giver)].eq(1)
                self._gives[giver, taker] = (give, tokens, takes)
        return present

    def _give(self, m: Module, engine: Engine, done, signals, offset) -> None:
        """The tokens of an instruction that is done; one too many is an error."""
        for taker in _ENGINES:
            give, tokens, takes = self._gives[engine, taker]
            m.d.comb += give.eq(done & signals[int(taker)])
            with m.If(give & ~takes & tokens.all()):
                m.d.comb += [
                    self.error.eq(1),
                    self.error_code.eq(HwErrorCode.SEMAPHORE),
                    self.error_offset.eq(Cat(Const(0, 4), offset)),
                ]
