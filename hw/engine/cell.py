"""The recurrent cell: LSTM, GRU and leaky RNN on gates from the output stage. Executes CELL for the vector unit."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systolith.hw.interfaces import (
    ActReadSignature,
    ActWriteSignature,
    chain_layout,
    format_layout,
    touched_blocks,
)
from systolith.hw.leaf.cell_lane import CellLane, saturated
from systolith.spec.arch import ArchConfig
from systolith.spec.cells import GATE, STATE, UNIT_FRAC
from systolith.spec.isa import Cell
from systolith.spec.numerics import INT8

__all__ = ["CellUnit"]

LOOKUP, MULTIPLY = CellLane.LOOKUP, CellLane.MULTIPLY
#: Steps in which a chunk's operations begin; step 0 looks up the last gate. A result can be an operand as soon as it is there.
_LSTM_ENTER, _LSTM_STATE, _LSTM_TANH = LOOKUP, LOOKUP + MULTIPLY, LOOKUP + 2 * MULTIPLY
_LSTM_HIDE = _LSTM_TANH + LOOKUP
_GRU_NEW, _GRU_TANH = LOOKUP, LOOKUP + MULTIPLY
_GRU_STATE = _GRU_TANH + LOOKUP
_GRU_HIDE = _GRU_STATE + MULTIPLY
_RNN_STATE, _RNN_HIDE = LOOKUP, LOOKUP + MULTIPLY
#: Step in which the new state is there, and in which the hidden state is.
_KEEP = {Cell.LSTM: _LSTM_TANH, Cell.GRU: _GRU_HIDE, Cell.RNN: _RNN_HIDE}
_END = {Cell.LSTM: _LSTM_HIDE + MULTIPLY, Cell.GRU: _GRU_HIDE + MULTIPLY, Cell.RNN: _RNN_HIDE + MULTIPLY}


class CellUnit(wiring.Component):
    """Updates the state of `units` units, chunk by chunk, by the rules of `spec.cells`.

    Members
    -------
    cmd : In(stream of operands)     taken when nothing is under way
    active : Out                     an instruction is under way
    chain : In(stream of chunks)     the gates: all chunks of the first, all of the second, ...
    read : Out(ActReadSignature)     per chunk: low bytes of the state, high bytes
    write : Out(ActWriteSignature)   per chunk: low bytes, high bytes, hidden state; of 16 bits: its high bytes, its low bytes
    done : Out                       with the last write
    stall : Out                      waits for a gate, or for the write port

    Timing
    ------
    Gates before the last are looked up as they come, one chunk per cycle, and kept. A chunk of the last gate is taken
    when the state of its units has been read and the chunk before it is written; ``CYCLES`` cycles later its hidden
    state is offered. From chunk to chunk those are 19 (LSTM), 23 (GRU) and 16 (RNN) cycles.
    """

    #: From taking the last gate to the offer of the hidden state.
    CYCLES = _END

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        super().__init__({
            "cmd": In(stream.Signature(format_layout(arch, "CELL"))), "active": Out(1), "chain": In(stream.Signature(chain_layout(arch))),
            "read": Out(ActReadSignature(arch)), "write": Out(ActWriteSignature(arch)), "done": Out(1), "stall": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        arch = self._arch
        self._lane_bits = (arch.lanes - 1).bit_length()
        chunks = arch.chunks
        self._c = c = Signal(format_layout(arch, "CELL"))
        #: The chunk that comes or is computed, and the gate that comes; the step of the chunk under way, 0 where there is none.
        self._chunk, self._gate = Signal(range(max(2, chunks))), Signal(range(Cell.LSTM.gates))
        self._step = Signal(range(max(_END.values()) + 1))
        self._last_chunk, self._last_gate, self._end = Signal(), Signal(), Signal()
        self._state, self._state_valid = Signal(data.ArrayLayout(signed(STATE.width), arch.lanes)), Signal()
        self._taken, self._high_written = Signal(), Signal()
        self._lanes = [CellLane() for _ in range(arch.lanes)]
        for index, lane in enumerate(self._lanes):
            m.submodules[f"lane{index}"] = lane
        m.d.comb += [
            self.cmd.ready.eq(~self.active),
            self._last_chunk.eq(self._chunk == (c.units >> self._lane_bits)),
            self._last_gate.eq((c.kind == Cell.RNN) | (self._gate == Cell.LSTM.gates - 1)),
            self.chain.ready.eq(self.active & (~self._last_gate | ((self._step == 0) & self._state_valid))),
            self._taken.eq(self.chain.valid & self.chain.ready),
            self.done.eq(self._end & self._last_chunk),
            self.stall.eq(self.active & Mux(self._step == 0, ~self._taken, self.write.valid & ~self.write.ready)),
        ]
        self._read_state(m)
        self._operate(m, self._keep_gates(m))
        self._write_results(m)
        # -- the order of it all -----------------------------------------------------------------------------------
        with m.If(self._taken & self._last_gate):
            m.d.sync += self._step.eq(1)
        with m.Elif((self._step != 0) & (self._step != self._of_kind(_END))):
            m.d.sync += self._step.eq(self._step + 1)
        with m.If(self._end | (self._taken & ~self._last_gate)):
            m.d.sync += self._chunk.eq(Mux(self._last_chunk, 0, self._chunk + 1))
        with m.If(self._taken & ~self._last_gate & self._last_chunk):
            m.d.sync += self._gate.eq(self._gate + 1)
        with m.If(self._end):
            m.d.sync += self._step.eq(0)
        with m.If(self.done):
            m.d.sync += self.active.eq(0)
        with m.If(self.cmd.valid & self.cmd.ready):
            m.d.sync += [c.eq(self.cmd.payload), self.active.eq(1), self._chunk.eq(0), self._gate.eq(0)]
        return m

    def _of_kind(self, steps: dict[Cell, int]):
        """The step for the kind under way."""
        return Mux(self._c.kind == Cell.LSTM, steps[Cell.LSTM], Mux(self._c.kind == Cell.GRU, steps[Cell.GRU], steps[Cell.RNN]))

    def _read_state(self, m: Module) -> None:
        """Two reads for the next chunk, as soon as the state of the one before is on its way to memory."""
        c, read, arch = self._c, self.read, self._arch
        low, high = Signal(), Signal()
        granted = Signal()
        begin = Signal()
        following = Signal.like(read.addr)
        # The address of the next request, before its register. While nothing is under way, that of a command that may come.
        following_chunk = self._high_written & ~self._last_chunk
        m.d.comb += [
            read.valid.eq(low | high), granted.eq(read.valid & read.ready),
            begin.eq((self.cmd.valid & self.cmd.ready) | following_chunk),
            following.eq(Mux(~self.active, self.cmd.payload.state,
                             Mux(self._high_written, c.state + ((self._chunk + 1) << self._lane_bits), read.addr - c.state + c.state_high))),
        ]
        with m.If(granted):
            m.d.sync += [low.eq(0), high.eq(low)]
        with m.If(begin):
            m.d.sync += [low.eq(1), high.eq(0)]
        with m.If(granted | self._high_written | ~self.active):
            m.d.sync += [read.addr.eq(following), read.blocks.eq(touched_blocks(arch, following))]
        with m.If(self._taken & self._last_gate):
            m.d.sync += self._state_valid.eq(0)
        arrives_low, arrives_high = granted & low, granted & ~low
        for i in range(ActReadSignature.LATENCY):
            following = [Signal(name=f"arrives_{part}{i}") for part in ("low", "high")]
            m.d.sync += [following[0].eq(arrives_low), following[1].eq(arrives_high)]
            arrives_low, arrives_high = following
        for lane in range(arch.lanes):
            with m.If(arrives_low):
                m.d.sync += self._state[lane][:8].eq(read.data[lane])
            with m.If(arrives_high):
                m.d.sync += self._state[lane][8:].eq(read.data[lane])
        with m.If(arrives_high):
            m.d.sync += self._state_valid.eq(1)

    def _keep_gates(self, m: Module) -> list[list]:
        """Registers for the results of the gates; returns those of the chunk under way, by gate and lane."""
        arch = self._arch
        row = data.ArrayLayout(signed(STATE.width), arch.lanes)
        tag_layout = data.StructLayout({"valid": 1, "gate": len(self._gate), "chunk": len(self._chunk)})
        tag = Signal(tag_layout)
        m.d.comb += [tag.valid.eq(self._taken), tag.gate.eq(self._gate), tag.chunk.eq(self._chunk)]
        for i in range(LOOKUP):
            following = Signal(tag_layout, name=f"tag{i}")
            m.d.sync += following.eq(tag)
            tag = following
        kept = []
        for gate in range(Cell.LSTM.gates):
            # Of the last gate, one chunk at a time: its results are used as they come.
            last = gate == Cell.LSTM.gates - 1
            rows = Signal(data.ArrayLayout(row, 1 if last else arch.chunks), name=f"gate{gate}", reset_less=True)
            with m.If(tag.valid & (tag.gate == gate)):
                for lane in range(arch.lanes):
                    m.d.sync += rows[0 if last else tag.chunk][lane].eq(self._lanes[lane].o)
            kept.append([rows[0 if last else self._chunk][lane] for lane in range(arch.lanes)])
        return kept

    def _operate(self, m: Module, gates: list[list]) -> None:
        """The operands of every lane, step by step."""
        c, step = self._c, self._step
        gru = c.kind == Cell.GRU
        multiply, lookup, hidden = Signal(), Signal(), Signal()
        with m.Switch(c.kind):
            for kind, products, lookups, hide in (
                (Cell.LSTM, (_LSTM_ENTER, _LSTM_STATE, _LSTM_HIDE), (_LSTM_TANH,), _LSTM_HIDE),
                (Cell.GRU, (_GRU_NEW, _GRU_STATE, _GRU_HIDE), (_GRU_TANH,), _GRU_HIDE),
                (Cell.RNN, (_RNN_STATE, _RNN_HIDE), (), _RNN_HIDE),
            ):
                with m.Case(kind):
                    m.d.comb += [multiply.eq(Cat(step == s for s in products).any()), hidden.eq((step == hide) & ~c.wide),
                                 lookup.eq(Cat(step == s for s in lookups).any() if lookups else 0)]
        # Constant while an instruction runs, and ready long before they are used.
        align, shift = Signal(range(GATE.frac + 1)), Signal.like(c.shift)
        m.d.sync += [align.eq(GATE.frac - c.shift), shift.eq(Mux(gru, 0, c.shift))]
        for index, lane in enumerate(self._lanes):
            state, o = self._state[index], lane.o
            first, second, third, last = (gate[index] for gate in gates)
            scaled = Signal(signed(STATE.width + (1 << len(c.shift)) - 1), name=f"scaled{index}")
            argument = Signal(signed(STATE.width), name=f"argument{index}")
            m.d.comb += [
                scaled.eq(o << shift), argument.eq(saturated(scaled, STATE.width)),
                lane.x.eq(Mux(lookup, argument, self.chain.payload[index])),
                lane.lookup.eq(self._taken | lookup),
                lane.plain.eq(gru & ~lookup & self._gate[1]),
                lane.tanh.eq(lookup | (c.kind == Cell.RNN) | (self._gate == 2)),
                lane.multiply.eq(multiply), lane.hidden.eq(hidden),
            ]
            with m.Switch(c.kind):
                with m.Case(Cell.LSTM):
                    with m.Switch(step):
                        with m.Case(_LSTM_ENTER):
                            m.d.comb += [lane.a.eq(first), lane.b.eq(third)]
                        with m.Case(_LSTM_STATE):
                            m.d.comb += [lane.a.eq(second), lane.b.eq(state), lane.pre.eq(o << align)]
                        with m.Default():
                            m.d.comb += [lane.a.eq(last), lane.b.eq(o)]
                with m.Case(Cell.GRU):
                    with m.Switch(step):
                        with m.Case(_GRU_NEW):
                            m.d.comb += [lane.a.eq(first), lane.b.eq(o), lane.post.eq(third)]
                        with m.Case(_GRU_STATE):
                            m.d.comb += [lane.a.eq(second), lane.b.eq(state - o), lane.post.eq(o)]
                        with m.Default():
                            m.d.comb += [lane.a.eq(1 << UNIT_FRAC), lane.b.eq(o)]
                with m.Case(Cell.RNN):
                    with m.Switch(step):
                        with m.Case(_RNN_STATE):
                            m.d.comb += [lane.a.eq(c.alpha), lane.b.eq(o - state), lane.post.eq(state)]
                        with m.Default():
                            m.d.comb += [lane.a.eq(1 << UNIT_FRAC), lane.b.eq(o)]
            with m.If(step == self._of_kind(_KEEP)):
                m.d.sync += state.eq(o)

    def _write_results(self, m: Module) -> None:
        """Low bytes, high bytes and hidden state of the chunk under way, the latter in one or two parts."""
        c, write, arch = self._c, self.write, self._arch
        low, high, hide, rest = Signal(), Signal(), Signal(), Signal()
        left = Signal(range(arch.cols + 1))
        accepted = Signal()
        keep = self._step == self._of_kind(_KEEP)
        following = Signal.like(write.addr)
        m.d.comb += [
            left.eq(c.units + 1 - (self._chunk << self._lane_bits)),
            # The address of the next request, before its register.
            following.eq(Mux(keep, c.state, Mux(low, c.state_high, Mux(high, c.dst, c.dst_low))) + (self._chunk << self._lane_bits)),
            write.valid.eq(low | high | ((hide | rest) & (self._step == self._of_kind(_END)))),
            accepted.eq(write.valid & write.ready), self._high_written.eq(accepted & high), self._end.eq(accepted & (rest | (hide & ~c.wide))),
        ]
        for lane in range(arch.lanes):
            state, o = self._state[lane], self._lanes[lane].o
            # Beyond WIDE_MAX the rounded high byte would be no int8: both bytes are then the largest.
            beyond = (o >= 0) & o[7:STATE.width - 1].all()
            rounded = Mux(beyond, INT8.max, o[8:] + o[7])[:8]
            hidden = Mux(hide & c.wide, rounded, Mux(rest & beyond, INT8.max, o[:8]))
            m.d.comb += write.data[lane].eq(Mux(low, state[:8], Mux(high, state[8:], hidden)))
        m.d.sync += write.mask.eq(Cat(left > lane for lane in range(arch.lanes)))
        with m.If(accepted):
            m.d.sync += [low.eq(0), high.eq(low), hide.eq(high), rest.eq(hide & c.wide)]
        with m.If(keep):
            m.d.sync += low.eq(1)
        with m.If(accepted | keep):
            m.d.sync += [write.addr.eq(following), write.blocks.eq(touched_blocks(arch, following))]
