"""The output stage: accumulators to int8 (gates of a cell: int16), through bias, multiply, round, clamp and
table. Executes OUTPUT."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from systolith.hw.interfaces import (
    AccReadSignature,
    ActWriteSignature,
    BeatWriteSignature,
    EngineSignature,
    HwErrorCode,
    ParamReadSignature,
    chain_layout,
    format_layout,
    param_layout,
    touched_blocks,
)
from systolith.hw.leaf.multiplier import registered_product
from systolith.hw.leaf.nest import Nest
from systolith.hw.leaf.rounding import add_clamp, divide_round
from systolith.hw.leaf.stream_register import StreamRegister
from systolith.hw.leaf.table import Table
from systolith.spec import timing
from systolith.spec.arch import ArchConfig
from systolith.spec.cells import GATE
from systolith.spec.isa import Destination, Engine
from systolith.spec.numerics import INT8, MULT_BITS, SHIFT_BITS

__all__ = ["OutputEngine"]

#: Bits of a sum that the first of two multipliers takes, without its sign.
_LOW_BITS = 17


class OutputEngine(wiring.Component):
    """Drains released accumulator entries.

    Members
    -------
    engine : In(EngineSignature)           OUTPUT commands
    acc : Out(AccReadSignature)
    params : Out(ParamReadSignature)
    act : Out(ActWriteSignature)           results with destination ACT
    chain : Out(stream of chunks)          for the chain (destination VECTOR) and for cells
    table_write : In(BeatWriteSignature)

    Timing
    ------
    One chunk of `lanes` elements per cycle, with one cycle between instructions; ``LATENCY`` cycles from the
    accumulator's grant to the offer of the result to the vector unit, ``WRITE_LATENCY`` to the SRAM, and one
    more through a table. Results wait in a queue, so backpressure stops the issue of new chunks and never the
    pipeline.
    """

    LATENCY, WRITE_LATENCY = timing.OUTPUT_CHAIN, timing.OUTPUT_WRITE
    _QUEUE = 16

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        super().__init__(
            {
                "engine": In(EngineSignature(arch, Engine.OUTPUT)),
                "acc": Out(AccReadSignature(arch)),
                "params": Out(ParamReadSignature(arch)),
                "act": Out(ActWriteSignature(arch)),
                "chain": Out(stream.Signature(chain_layout(arch))),
                "table_write": In(BeatWriteSignature(arch, arch.table_bytes)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        arch = self._arch
        lanes, chunks = arch.lanes, arch.chunks
        layout = format_layout(arch, "OUTPUT")
        # What travels beside a chunk.
        info_layout = data.StructLayout(
            {
                "zero": signed(INT8.width),
                "low": signed(GATE.width),
                "high": signed(GATE.width),
                "table": 1,
                "slot": layout["slot"].shape,
                "dest": layout["dest"].shape,
                "addr": range(arch.act_bytes),
                "mask": lanes,
                "last": 1,
            }
        )
        c = Signal(layout, reset_less=True)
        active, dead = Signal(), Signal()
        m.d.comb += self.engine.idle.eq(1)

        # -- issue: one chunk per cycle ----------------------------------------------------------------------
        credits = Signal(range(2 * arch.acc_depth))
        flight = Signal(range(self._QUEUE + 1))
        chunk = Signal(range(max(2, chunks)))
        first_chunk = Signal()
        nest = Nest(
            m,
            {"chunks": max(1, len(c.channels) - (lanes - 1).bit_length()), "nx": len(c.nx), "ny": len(c.ny)},
            "pixels",
        )

        def counts(command) -> dict:
            return {
                "chunks": command.channels >> (lanes - 1).bit_length(),
                "nx": command.nx,
                "ny": command.ny,
            }

        # An entry is to be read; the rest of one is to be taken: what a chunk's issue needs but room, credit
        # and grant.
        active_next, first_chunk_next = Signal(), Signal()
        reading, taking = Signal(), Signal()
        owed = Signal()  # credits != 0
        acc = Signal(range(2 * arch.acc_depth), reset_less=True)
        row_addr, px_addr = (
            Signal(range(arch.act_bytes), reset_less=True),
            Signal(range(arch.act_bytes), reset_less=True),
        )
        issue, popped = Signal(), Signal()
        last_chunk, last_px, last = nest.ends["chunks"], nest.ends["nx"], nest.ends["ny"]
        room = ~flight[-1]  # `_QUEUE` is a power of two
        info = Signal(info_layout)
        kept = Signal(range(arch.cols + 1))
        overflow = Signal()
        gate = Signal()
        m.d.comb += [
            overflow.eq(acc[-1]),
            self.acc.addr.eq(acc),
            self.acc.valid.eq(reading & owed & room & ~overflow),
            issue.eq(room & (taking | (reading & owed & ~overflow & self.acc.ready))),
            active_next.eq(Mux(self.engine.cmd.ready, self.engine.cmd.valid, active & ~(issue & last))),
            first_chunk_next.eq(Mux(issue, last_chunk, first_chunk) | ~active),
            self.engine.stall.eq(active & ~issue),
            kept.eq(c.channels + 1 - (chunk << (lanes - 1).bit_length())),
            self.params.en.eq(1),
            self.params.addr.eq((c.param << (chunks - 1).bit_length()) | chunk),
            gate.eq(c.dest == Destination.CELL),
            info.zero.eq(Mux(gate, 0, c.zero)),
            info.low.eq(Mux(gate, GATE.min, c.low)),
            info.high.eq(Mux(gate, GATE.max, c.high)),
            info.table.eq(c.table & ~gate),
            info.slot.eq(c.slot),
            info.dest.eq(c.dest),
            info.addr.eq(px_addr + (chunk << (lanes - 1).bit_length())),
            info.last.eq(last),
            info.mask.eq(Cat(kept > lane for lane in range(lanes))),
            self.engine.cmd.ready.eq(~active & ~dead),
        ]
        granted = self.acc.valid & self.acc.ready
        m.d.sync += [
            credits.eq(credits + self.acc.release - granted),
            owed.eq(self.acc.release | (credits > 1) | ((credits != 0) & ~granted)),
            flight.eq(flight + issue - popped),
        ]
        bad = Signal()
        # Only when nothing is in flight is this the oldest instruction that is not done.
        m.d.comb += bad.eq(reading & overflow & (flight == 0) & ~self.act.valid)
        m.d.sync += [
            self.engine.error.eq(bad),
            self.engine.error_code.eq(HwErrorCode.OPERAND_RANGE),
            active.eq(active_next),
            first_chunk.eq(first_chunk_next),
            reading.eq(active_next & first_chunk_next & ~dead & ~bad),
            taking.eq(active_next & ~first_chunk_next & ~dead & ~bad),
        ]
        with m.If(bad):
            m.d.sync += dead.eq(1)
        following = Signal(range(arch.act_bytes))
        m.d.comb += following.eq(row_addr + c.dst_row)
        with m.If(issue):
            nest.step(counts(c))
            m.d.sync += chunk.eq(Mux(last_chunk, 0, chunk + 1))
        with m.If(issue & last_chunk):
            m.d.sync += [acc.eq(acc + 1), px_addr.eq(Mux(last_px, following, px_addr + c.dst_px))]
        with m.If(issue & last_px):
            m.d.sync += row_addr.eq(following)
        with m.If(self.engine.cmd.ready):
            # Latched even when `valid` is low, which keeps the token logic off the operand path.
            command = self.engine.cmd.payload.body.OUTPUT
            nest.begin(counts(command))
            m.d.sync += [
                c.eq(command),
                chunk.eq(0),
                acc.eq(command.acc),
                row_addr.eq(command.dst),
                px_addr.eq(command.dst),
            ]

        # -- pipeline ----------------------------------------------------------------------------------------
        valid, stage, steps = issue, info, 0

        def advance(step):
            nonlocal valid, stage, steps
            steps += 1
            following_valid = Signal(name=f"valid{step}")
            following = Signal(info_layout, name=f"info{step}", reset_less=True)
            m.d.sync += [following_valid.eq(valid), following.eq(stage)]
            valid, stage = following_valid, following

        where, held_where = Signal.like(chunk), Signal.like(chunk)
        params = Signal.like(self.params.data, reset_less=True)
        m.d.sync += [where.eq(chunk), held_where.eq(where), params.eq(self.params.data)]
        for step in range(AccReadSignature.LATENCY):
            advance(f"_read{step}")
        sums, chosen = [], []
        for lane in range(lanes):
            total = Signal(signed(32), name=f"sum{lane}", reset_less=True)
            param = Signal(param_layout(), name=f"param{lane}", reset_less=True)
            m.d.sync += param.eq(params[lane])
            with m.Switch(held_where):
                for index in range(chunks):
                    with m.Case(index):
                        m.d.sync += total.eq(self.acc.data[index * lanes + lane])
            sums.append(total), chosen.append(param)
        advance("_chosen")
        # Two multipliers, as wide as a device has them: the second has the bits from this one on.
        products, shifts = [], []
        for lane in range(lanes):
            total, product = (
                Signal(signed(33), name=f"biased{lane}"),
                Signal(signed(33 + MULT_BITS), name=f"product{lane}", reset_less=True),
            )
            m.d.comb += total.eq(sums[lane] + chosen[lane].bias)
            low, high = (
                registered_product(m, platform, part, chosen[lane].mult, f"{name}{lane}")
                for part, name in (
                    (total[:_LOW_BITS], "low_product"),
                    (total[_LOW_BITS:].as_signed(), "high_product"),
                )
            )
            m.d.sync += product.eq(low + (high << _LOW_BITS))
            shift = chosen[lane].shift
            for step in range(3):
                before, shift = shift, Signal(SHIFT_BITS, name=f"shift{lane}_{step}", reset_less=True)
                m.d.sync += shift.eq(before)
            products.append(product), shifts.append(shift)
        for step in ("_biased", "_parts", "_product"):
            advance(step)
        # As wide as a gate, whose zero point is 0; more than an int8 needs with any zero point.
        rounded = [divide_round(m, products[lane], shifts[lane], lane, GATE.width) for lane in range(lanes)]
        for step in ("_coarse", "_shifted", "_rounded"):
            advance(step)
        clamped = Signal(chain_layout(arch), reset_less=True)
        for lane in range(lanes):
            m.d.sync += clamped[lane].eq(
                add_clamp(m, rounded[lane], stage.zero, stage.low, stage.high, f"lane{lane}")
            )
        advance("_clamped")
        m.submodules.table = table = Table(arch)
        wiring.connect(m, wiring.flipped(self.table_write), table.write)
        m.d.comb += [table.slot.eq(stage.slot), *(table.i[lane].eq(clamped[lane]) for lane in range(lanes))]
        # What goes through the table comes a cycle later than what does not; between them there is the cycle
        # between instructions.
        plain = Signal(chain_layout(arch), reset_less=True)
        m.d.sync += plain.eq(clamped)
        advance("_plain")
        assert steps + timing.OUTPUT_QUEUE == self.LATENCY
        plain_valid, plain_stage = valid & ~stage.table, stage
        for step in range(1, Table.LATENCY):
            advance(f"_table{step}")
        looked_up, looked_up_info = Signal(), stage
        m.d.comb += looked_up.eq(valid & stage.table)
        valid = plain_valid | looked_up
        stage = Signal(info_layout, name="result_info")
        m.d.comb += stage.eq(Mux(looked_up, looked_up_info, plain_stage))
        result = Signal(chain_layout(arch))
        for lane in range(lanes):
            m.d.comb += result[lane].eq(Mux(looked_up, table.o[lane], plain[lane]))

        # -- queue -------------------------------------------------------------------------------------------
        entry = data.StructLayout(
            {
                "addr": range(arch.act_bytes),
                "blocks": arch.act_blocks,
                "mask": lanes,
                "dest": layout["dest"].shape,
                "last": 1,
                "data": chain_layout(arch),
            }
        )
        m.submodules.queue = queue = SyncFIFOBuffered(width=entry.size, depth=self._QUEUE)
        # The scratchpad's arbiter begins with registers.
        m.submodules.writes = writes = StreamRegister(entry)
        written = writes.o.payload
        head = Signal(entry)
        tail = Signal(entry)
        m.d.comb += [
            tail.addr.eq(stage.addr),
            tail.blocks.eq(touched_blocks(arch, stage.addr)),
            tail.mask.eq(stage.mask),
            tail.dest.eq(stage.dest),
            tail.last.eq(stage.last),
            tail.data.eq(result),
            queue.w_en.eq(valid),
            queue.w_data.eq(tail),
            head.eq(queue.r_data),
            writes.i.valid.eq(queue.r_rdy & (head.dest == Destination.ACT)),
            writes.i.payload.eq(head),
            # In the order of the instructions, so not before what is on its way to the SRAM.
            self.chain.valid.eq(queue.r_rdy & (head.dest != Destination.ACT) & ~writes.o.valid),
            self.chain.payload.eq(head.data),
            popped.eq((writes.i.valid & writes.i.ready) | (self.chain.valid & self.chain.ready)),
            queue.r_en.eq(popped),
            self.act.valid.eq(writes.o.valid),
            writes.o.ready.eq(self.act.ready),
            self.act.addr.eq(written.addr),
            self.act.blocks.eq(written.blocks),
            self.act.mask.eq(written.mask),
            *(self.act.data[lane].eq(written.data[lane]) for lane in range(lanes)),
            self.engine.done.eq(
                (self.act.valid & self.act.ready & written.last)
                | (self.chain.valid & self.chain.ready & head.last)
            ),
        ]
        return m
