"""The recurrent cell: LSTM, GRU and leaky RNN on gates from the output stage. Executes CELL for the vector
unit."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith.hw.interfaces import chain_layout, chunk_layout, format_layout
from systolith.hw.leaf.cell_lane import FACTOR, CellLane
from systolith.hw.leaf.loop import Loop
from systolith.spec import timing
from systolith.spec.arch import ArchConfig
from systolith.spec.cells import GATE, STATE, UNIT_FRAC
from systolith.spec.isa import Cell
from systolith.spec.numerics import INT8

__all__ = ["CellUnit", "target_layout"]

LOOKUP, MULTIPLY = CellLane.LOOKUP, CellLane.MULTIPLY
#: Steps in which a chunk's operations begin; step 0 looks up the last gate. A result is an operand, or kept,
#: in the step in which it is there. But for an argument of the hyperbolic tangent, which is scaled in one
#: step more.
_LSTM_ENTER, _LSTM_STATE, _LSTM_TANH = LOOKUP, LOOKUP + MULTIPLY, LOOKUP + 2 * MULTIPLY + 1
_LSTM_HIDE = _LSTM_TANH + LOOKUP
_GRU_NEW, _GRU_TANH = LOOKUP, LOOKUP + MULTIPLY + 1
_GRU_STATE = _GRU_TANH + LOOKUP
_GRU_HIDE = _GRU_STATE + MULTIPLY
_RNN_STATE, _RNN_HIDE = LOOKUP, LOOKUP + MULTIPLY
#: Step in which the new state is there, and in which the hidden state is.
_KEEP = {Cell.LSTM: _LSTM_STATE + MULTIPLY, Cell.GRU: _GRU_HIDE, Cell.RNN: _RNN_HIDE}
_END = {Cell.LSTM: _LSTM_HIDE + MULTIPLY, Cell.GRU: _GRU_HIDE + MULTIPLY, Cell.RNN: _RNN_HIDE + MULTIPLY}
#: Gates before the last.
_EARLY = Cell.LSTM.gates - 1


def target_layout(arch: ArchConfig) -> data.StructLayout:
    """Where a result goes, and whether it is the last of its instruction."""
    return data.StructLayout({"addr": range(arch.act_bytes), "mask": arch.lanes, "end": 1})


class CellUnit(wiring.Component):
    """Updates the state of `units` units, chunk by chunk, by the rules of `spec.cells`. Its owner reads and
    writes for it.

    Members
    -------
    cmd : In(stream of operands)       taken when nothing is under way
    active : Out                       an instruction is under way
    chain : In(stream of chunks)       the gates: all chunks of the first, all of the second, ...
    read : Out(stream of addresses)    per chunk: low bytes of the state, high bytes; `ready` is not looked
           at, there must be room for two
    arrives, data : In                 the bytes of the oldest read, and in the cycle before that they come
    target : Out(stream)               where a result will go, two cycles or more before the result; always
             taken
    result : Out(stream of chunks)     per chunk: low bytes, high bytes, hidden state; of 16 bits: its high
             bytes, its low bytes; always taken
    room : In                          for the results of a chunk
    written, done : In                 a result is written, and it is the last
    stall : Out                        waits for a gate or the state, or for the write port

    Timing
    ------
    Gates before the last are looked up as they come, one chunk per cycle, and kept. A chunk of the last gate
    is taken when the state of its units has been read and the chunk before it is nearly made;
    `timing.CELL_HIDDEN` cycles later its hidden state is written, by an owner that offers a result a cycle
    later. From chunk to chunk it takes `timing.cell_chunk` cycles where reads are granted at once.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        super().__init__(
            {
                "cmd": In(stream.Signature(format_layout(arch, "CELL"))),
                "active": Out(1),
                "chain": In(stream.Signature(chain_layout(arch))),
                "read": Out(stream.Signature(range(arch.act_bytes), always_ready=True)),
                "arrives": In(1),
                "data": In(data.ArrayLayout(unsigned(8), arch.act_width)),
                "target": Out(stream.Signature(target_layout(arch), always_ready=True)),
                "result": Out(stream.Signature(chunk_layout(arch), always_ready=True)),
                "room": In(1),
                "written": In(1),
                "done": In(1),
                "stall": Out(1),
            }
        )

    def elaborate(self, platform):
        assert {kind: step + 1 for kind, step in _END.items()} == timing.CELL_HIDDEN
        m = Module()
        arch = self._arch
        self._lane_bits = (arch.lanes - 1).bit_length()
        self._c = c = Signal(format_layout(arch, "CELL"), reset_less=True)
        self._kind = {kind: Signal(name=kind.name.lower()) for kind in Cell}
        #: The chunk that comes or is computed, and the gate that comes, which is the last; the steps that are
        #: under way after step 0.
        self._chunk, self._chunks = Signal(range(max(2, arch.chunks))), Loop(m, len(c.units), "chunks")
        self._gate, self._last_gate = Signal(range(Cell.LSTM.gates)), Signal()
        self._steps = Signal(max(_END.values()))
        self._begin, self._taken, self._taken_last = Signal(), Signal(), Signal()
        self._state, self._state_valid = (
            Signal(data.ArrayLayout(signed(STATE.width), arch.lanes), reset_less=True),
            Signal(),
        )
        self._lanes = [CellLane() for _ in range(arch.lanes)]
        for index, lane in enumerate(self._lanes):
            m.submodules[f"lane{index}"] = lane
        taken, last_gate, operands = self._taken, self._last_gate, self.cmd.payload
        self._keep, self._soon = (
            self._flag(m, name, *((kind, step - before) for kind, step in _KEEP.items()))
            for name, before in (("keep", 0), ("soon", 1))
        )
        m.d.comb += [
            self.cmd.ready.eq(~self.active),
            self._begin.eq(self.cmd.valid & self.cmd.ready),
            taken.eq(self.chain.valid & self.chain.ready),
            self._taken_last.eq(taken & last_gate),
        ]
        free = Signal()
        state_there, made, last_of_early = self._read_state(m), self._write_results(m, free), Signal()
        self._operate(m, self._keep_gates(m))
        # -- the order of it all
        # -----------------------------------------------------------------------------------
        open_, may = Signal(), Signal()
        m.d.comb += [
            self.chain.ready.eq(open_),
            last_of_early.eq((self._gate == _EARLY - 1) & self._chunks.last),
            may.eq((free | made) & state_there & self.room),
        ]
        m.d.sync += self._steps.eq(Cat(self._taken_last, self._steps[:-1]))
        with m.If(made):
            m.d.sync += free.eq(1)
        with m.If(self._taken_last):
            m.d.sync += free.eq(0)
        with m.If(made | (taken & ~last_gate)):
            self._chunks.step()
            m.d.sync += self._chunk.eq(self._chunk + 1)
            with m.If(self._chunks.last):
                self._chunks.begin(c.units >> self._lane_bits)
                m.d.sync += self._chunk.eq(0)
        with m.If(taken & ~last_gate & self._chunks.last):
            m.d.sync += [self._gate.eq(self._gate + 1), last_gate.eq(last_of_early)]
        m.d.sync += open_.eq(Mux(taken, ~last_gate & (~last_of_early | may), ~last_gate | may))
        with m.If(self.done):
            m.d.sync += self.active.eq(0)
        with m.If(~self.active):
            # Latched even when `valid` is low, which keeps the token logic off the operand path.
            m.d.sync += [
                c.eq(operands),
                self.active.eq(self._begin),
                self._chunk.eq(0),
                self._gate.eq(0),
                last_gate.eq(operands.kind == Cell.RNN),
                self._steps.eq(0),
                free.eq(1),
                open_.eq(self._begin & (operands.kind != Cell.RNN)),
            ]
            m.d.sync += [flag.eq(operands.kind == kind) for kind, flag in self._kind.items()]
            self._chunks.begin(operands.units >> self._lane_bits)
        return m

    def _flag(self, m: Module, name: str, *steps: tuple[Cell, int]) -> Signal:
        """A register that is 1 in those of the steps that are of the kind under way."""
        flag = Signal(name=name)
        m.d.sync += flag.eq(Cat(self._kind[kind] & self._steps[step - 2] for kind, step in steps).any())
        return flag

    def _read_state(self, m: Module):
        """Two reads for the next chunk, whose bytes come after those of the new state have been taken;
        returns that they are there."""
        c, arch, read = self._c, self._arch, self.read
        low, high = Signal(), Signal()
        fetched = Signal.like(self._chunk)
        m.d.comb += read.valid.eq(low | high)
        m.d.sync += [
            low.eq(self._begin | (self._soon & ~self._chunks.last)),
            high.eq(low),
            # The address of the next request. While nothing is under way, that of a command that may come.
            read.payload.eq(
                Mux(
                    self.active,
                    Mux(low, c.state_high, c.state) + (fetched << self._lane_bits),
                    self.cmd.payload.state,
                )
            ),
        ]
        with m.If(high):
            m.d.sync += fetched.eq(fetched + 1)
        second, low_there, high_there = Signal(), Signal(), Signal()
        m.d.sync += [
            low_there.eq(self.arrives & ~second),
            high_there.eq(self.arrives & second),
            second.eq(second ^ self.arrives),
        ]
        for lane in range(arch.lanes):
            state = self._state[lane]
            with m.If(self._keep):
                m.d.sync += state.eq(self._lanes[lane].o)
            with m.If(low_there):
                m.d.sync += state[:8].eq(self.data[lane])
            with m.If(high_there):
                m.d.sync += state[8:].eq(self.data[lane])
        with m.If(high_there):
            m.d.sync += self._state_valid.eq(1)
        with m.If(self._taken_last):
            m.d.sync += self._state_valid.eq(0)
        with m.If(~self.active):
            m.d.sync += [fetched.eq(0), self._state_valid.eq(0)]
        return self._state_valid | high_there

    def _keep_gates(self, m: Module) -> list[list]:
        """Memories for the results of the gates; returns those of the chunk under way, by gate and lane."""
        arch = self._arch
        row = data.ArrayLayout(signed(STATE.width), arch.lanes)
        tag = Signal(data.StructLayout({"gates": _EARLY, "chunk": len(self._chunk)}))
        m.d.comb += [
            tag.gates.eq(
                Cat(self._taken & ~self._last_gate & (self._gate == gate) for gate in range(_EARLY))
            ),
            tag.chunk.eq(self._chunk),
        ]
        for i in range(LOOKUP):
            following = Signal.like(tag, name=f"tag{i}")
            m.d.sync += following.eq(tag)
            tag = following
        kept = []
        for gate in range(_EARLY):
            m.submodules[f"gate{gate}"] = memory = Memory(shape=row, depth=max(2, arch.chunks), init=[])
            write, read = memory.write_port(), memory.read_port(domain="comb")
            m.d.comb += [
                write.en.eq(tag.gates[gate]),
                write.addr.eq(tag.chunk),
                read.addr.eq(self._chunk),
                *(write.data[lane].eq(self._lanes[lane].o) for lane in range(arch.lanes)),
            ]
            kept.append([read.data[lane] for lane in range(arch.lanes)])
        # The last gate is kept one chunk at a time: its results are used as they come.
        last = Signal(row, name="last_gate", reset_less=True)
        with m.If(self._steps[LOOKUP - 1]):
            m.d.sync += [last[lane].eq(self._lanes[lane].o) for lane in range(arch.lanes)]
        kept.append([last[lane] for lane in range(arch.lanes)])
        return kept

    def _operate(self, m: Module, gates: list[list]) -> None:
        """The operands of every lane, step by step."""
        c, kind = self._c, self._kind

        def chosen(*pairs):
            """The operand whose flag is set, or 0."""
            return reduce(or_, (Mux(flag, operand, 0) for flag, operand in pairs))

        lstm, gru, rnn = Cell.LSTM, Cell.GRU, Cell.RNN
        lookup = self._flag(m, "lookup", (lstm, _LSTM_TANH), (gru, _GRU_TANH))
        # LSTM: first * third; second * state + that; last * tanh. GRU: first * o + third; second * (state -
        # o) + o; o. RNN: -alpha * (state - o) + state; o.
        a_first = self._flag(m, "a_first", (lstm, _LSTM_ENTER), (gru, _GRU_NEW))
        a_second = self._flag(m, "a_second", (lstm, _LSTM_STATE), (gru, _GRU_STATE))
        a_last = self._flag(m, "a_last", (lstm, _LSTM_HIDE))
        a_alpha = self._flag(m, "a_alpha", (rnn, _RNN_STATE))
        a_one = self._flag(m, "a_one", (gru, _GRU_HIDE), (rnn, _RNN_HIDE))
        b_third = self._flag(m, "b_third", (lstm, _LSTM_ENTER))
        b_state = self._flag(m, "b_state", (lstm, _LSTM_STATE))
        b_rest = self._flag(m, "b_rest", (gru, _GRU_STATE), (rnn, _RNN_STATE))
        b_o = self._flag(m, "b_o", (lstm, _LSTM_HIDE), (gru, _GRU_NEW), (gru, _GRU_HIDE), (rnn, _RNN_HIDE))
        post_third = self._flag(m, "post_third", (gru, _GRU_NEW))
        post_o = self._flag(m, "post_o", (gru, _GRU_STATE))
        # Constant while an instruction runs, and ready long before they are used.
        align, shift, alpha = Signal(range(GATE.frac + 1)), Signal.like(c.shift), Signal(FACTOR)
        #: Bits below the sign that the shift drops.
        dropped = Signal((1 << len(c.shift)) - 1)
        m.d.sync += [
            align.eq(GATE.frac - c.shift),
            shift.eq(Mux(kind[gru], 0, c.shift)),
            alpha.eq(-c.alpha),
            dropped.eq(Cat(shift > i for i in range(len(dropped)))),
        ]
        plain, tanh = Signal(), Signal()
        m.d.comb += [
            plain.eq(kind[gru] & ~lookup & self._gate[1]),
            tanh.eq(lookup | kind[rnn] | (self._gate == 2)),
        ]
        for index, lane in enumerate(self._lanes):
            state, o = self._state[index], lane.o
            first, second, third, last = (gate[index] for gate in gates)
            moved, argument = (
                Signal(signed(STATE.width), name=f"{name}{index}", reset_less=True)
                for name in ("moved", "argument")
            )
            over = Cat((o[-2 - i] ^ o[-1]) & bit for i, bit in enumerate(dropped)).any()
            m.d.sync += argument.eq(Mux(over, Mux(o[-1], STATE.min, STATE.max), moved))
            m.d.comb += [
                moved.eq(o << shift),
                lane.x.eq(Mux(lookup, argument, self.chain.payload[index])),
                lane.lookup.eq(self._taken | lookup),
                lane.plain.eq(plain),
                lane.tanh.eq(tanh),
                lane.a.eq(
                    chosen(
                        (a_first, first),
                        (a_second, second),
                        (a_last, last),
                        (a_alpha, alpha),
                        (a_one, 1 << UNIT_FRAC),
                    )
                ),
                lane.b.eq(chosen((b_third, third), (b_state, state), (b_rest, state - o), (b_o, o))),
                lane.pre.eq(Mux(b_state, o << align, 0)),
                lane.post.eq(chosen((post_third, third), (post_o, o), (a_alpha, state))),
            ]

    def _write_results(self, m: Module, free: Signal):
        """Low bytes, high bytes and hidden state of the chunk under way, the latter in one or two parts;
        returns that the next part is the last."""
        c, arch, target, result, keep = self._c, self._arch, self.target, self.result, self._keep
        # Where they go.
        to_low, to_hide = (
            self._soon,
            self._flag(m, "to_hide", *((kind, step - 2) for kind, step in _END.items())),
        )
        to_rest, tail = Signal(), Signal(arch.lanes)
        base = Mux(to_low, c.state, Mux(keep, c.state_high, Mux(to_hide, c.dst, c.dst_low)))
        m.d.sync += [
            to_rest.eq(to_hide & c.wide),
            tail.eq(Cat(c.units[: self._lane_bits] >= lane for lane in range(arch.lanes))),
        ]
        m.d.comb += [
            target.valid.eq(to_low | keep | to_hide | to_rest),
            target.payload.addr.eq(base + (self._chunk << self._lane_bits)),
            target.payload.mask.eq(Mux(self._chunks.last, tail, -1)),
            target.payload.end.eq(((to_hide & ~c.wide) | to_rest) & self._chunks.last),
        ]
        # What they are.
        next_hide, hide, low, high, rest, valid = (
            Signal(name=name) for name in ("next_hide", "hide", "low", "high", "rest", "valid")
        )
        next_made, made, offered = Signal(), Signal(), Signal()
        m.d.comb += [result.valid.eq(valid), next_made.eq(Mux(c.wide, hide, next_hide))]
        m.d.sync += [
            low.eq(keep),
            high.eq(low),
            next_hide.eq(to_hide),
            hide.eq(next_hide),
            rest.eq(hide & c.wide),
            valid.eq(keep | low | next_hide | (hide & c.wide)),
            made.eq(next_made),
            offered.eq(made),
        ]
        for lane in range(arch.lanes):
            state, o = self._state[lane], self._lanes[lane].o
            # Beyond WIDE_MAX the rounded high byte would be no int8: both bytes are then the largest.
            rounded, beyond, low_part = (
                Signal(INT8.width, name=f"rounded{lane}"),
                Signal(name=f"beyond{lane}"),
                Signal(INT8.width, name=f"low_part{lane}", reset_less=True),
            )
            m.d.comb += [rounded.eq(o[8:] + o[7]), beyond.eq(~o[-1] & rounded[-1])]
            m.d.sync += low_part.eq(Mux(beyond, INT8.max, o[:8]))
            hidden = Mux(
                rest, low_part, Mux(c.wide, Mux(beyond, INT8.max, rounded), self._lanes[lane].hidden)
            )
            m.d.comb += result.payload[lane].eq(Mux(low, state[:8], Mux(high, state[8:], hidden)))
        computes = Signal()
        m.d.comb += self.stall.eq(self.active & ~self._taken & ~computes & ~self.written)
        # Where the next chunk is already taken, it is still busy.
        with m.If((offered & free) | ~self.active):
            m.d.sync += computes.eq(0)
        with m.If(self._taken_last):
            m.d.sync += computes.eq(1)
        return next_made
