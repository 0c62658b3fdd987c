"""The vector unit: element-wise add and multiply, and maximum over windows. Executes ADD, MUL and POOL, and
CELL by its cell unit."""

import itertools

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith.hw.engine.cell import CellUnit, target_layout
from systolith.hw.interfaces import (
    ActReadSignature,
    ActWriteSignature,
    BeatWriteSignature,
    EngineSignature,
    chain_layout,
    chunk_layout,
    format_layout,
    touched_blocks,
)
from systolith.hw.leaf.loop import Loop
from systolith.hw.leaf.multiplier import registered_product
from systolith.hw.leaf.request_slot import RequestSlot
from systolith.hw.leaf.rounding import add_clamp, divide_round
from systolith.hw.leaf.table import Table
from systolith.spec import timing
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Engine, Field, OperandA, isa_for

__all__ = ["VectorEngine"]

#: Operands that ADD and MUL have as POOL has them, maybe by another name: kept once.
_COMMON = {
    "ny": "ny",
    "nx": "nx",
    "bytes": "bytes",
    "a": "base",
    "a_row": "oy_addr",
    "a_px": "ox_x",
    "dst": "dst",
    "dst_row": "dst_row",
    "dst_px": "dst_px",
    "table": "table",
    "slot": "slot",
}


class VectorEngine(wiring.Component):
    """Element-wise operations on activations.

    Members
    -------
    engine : In(EngineSignature)           ADD, MUL, POOL and CELL commands
    read : Out(ActReadSignature)           operands
    write : Out(ActWriteSignature)         results
    chain : In(stream of chunks)           operand a of ADD and MUL with a_source OUTPUT; gates of CELL
    table_write : In(BeatWriteSignature)

    Timing
    ------
    One read per cycle: a chunk of `lanes` elements takes one (chained) or two reads for ADD and MUL, ky * kx
    for POOL (CELL: see `CellUnit`); ``LATENCY`` cycles from the grant of a chunk's last read to the offer of
    its result. An instruction starts when the results of the one before have been written. Results wait in a
    queue, so backpressure stops the issue of new chunks and never the pipeline.
    """

    LATENCY = timing.VECTOR_WRITE
    #: Results for which there is room, and how many of them may be under way when one more is begun; the
    #: count lags behind by four at most.
    _QUEUE, _FULL = 32, 27
    #: Reads under way: two in the request slot, and those that are granted.
    _READS = 16

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        super().__init__(
            {
                "engine": In(EngineSignature(arch, Engine.VECTOR)),
                "read": Out(ActReadSignature(arch)),
                "write": Out(ActWriteSignature(arch)),
                "chain": In(stream.Signature(chain_layout(arch))),
                "table_write": In(BeatWriteSignature(arch, arch.table_bytes)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        arch = self._arch
        lanes = arch.lanes
        opcodes = {f.mnemonic: f.opcode for f in isa_for(arch).formats if f.engine is Engine.VECTOR}
        # ADD and MUL have the same fields; what is common to POOL is kept here too.
        b = Signal(format_layout(arch, "ADD"), reset_less=True)
        p = Signal(format_layout(arch, "POOL"), reset_less=True)
        pool, multiply, busy, starts, active = Signal(), Signal(), Signal(), Signal(), Signal()
        m.submodules.cell = cell = CellUnit(arch)
        m.d.comb += self.engine.idle.eq(1)
        lane_bits = (lanes - 1).bit_length()

        # -- issue: one read per cycle -----------------------------------------------------------------------
        address = range(arch.act_bytes)
        nx, ny, kx, ky = (
            Loop(m, len(field), name)
            for name, field in (("nx", b.nx), ("ny", b.ny), ("kx", p.kx), ("ky", p.ky))
        )
        chunks = Loop(m, len(b.bytes), "chunks")
        first = Signal()  # the first chunk of a window, or of a pair of operands
        #: Where the row, the pixel and the chunk of an operand begin.
        places = {
            name: [Signal(address, name=f"{name}_{of}", reset_less=True) for of in ("row", "px", "at")]
            for name in ("a", "b", "dst")
        }
        k_row, k_at = (
            Signal(address, name=name, reset_less=True) for name in ("k_row", "k_at")
        )  # row and position of a window
        a_row, a_px, a_at = places["a"]
        # Wide enough for every program: a coordinate that wrapped around could look like one in the window.
        fields = {f.name: f for f in isa_for(arch).by_mnemonic["POOL"].fields}
        y_span = self._span(fields["y0"], (fields["oy_y"], fields["ny"]), (fields["ky_y"], fields["ky"]))
        x_span = self._span(fields["x0"], (fields["ox_x"], fields["nx"]), (fields["kx_x"], fields["kx"]))
        y_out, x_out, y_k, x_k = (
            Signal(span, name=name, reset_less=True)
            for name, span in (("y_out", y_span), ("x_out", x_span), ("y_k", y_span), ("x_k", x_span))
        )
        #: The nest takes a step; but for the first, which begins an instruction, with it a read is made.
        step, issue = Signal(), Signal()
        #: That read is the last of a window's line, a chunk, a pixel, a row, the instruction. All are 1 where
        #: there is none.
        line, last, pixel, row, end = (
            Signal(name=name, init=1) for name in ("line", "last", "pixel", "row", "end")
        )
        from_b = Signal()  # the read is of operand b
        free, bound = Signal(), Signal()  # a step may be taken; it may where the chain has its chunk
        chained = Signal()
        tail = Signal(lanes)  # lanes of a pixel's last chunk
        room = Signal()
        tag_layout = data.StructLayout({"first": 1, "last": 1, "second": 1, "a": chunk_layout(arch)})
        tag = Signal(tag_layout)
        m.submodules.slot = slot = RequestSlot(arch)
        m.d.comb += [
            step.eq((free | (bound & self.chain.valid)) & slot.i.ready),
            issue.eq(step & active),
            # The cell unit is active only when nothing else is.
            slot.i.valid.eq((active & (free | (bound & self.chain.valid))) | cell.read.valid),
            slot.i.payload.addr.eq(Mux(cell.active, cell.read.payload, Mux(from_b, places["b"][2], k_at))),
            self.engine.stall.eq((active & ~issue) | cell.stall),
            self.read.valid.eq(slot.valid),
            self.read.addr.eq(slot.addr),
            self.read.blocks.eq(slot.blocks),
            slot.ready.eq(self.read.ready),
            self.chain.ready.eq((bound & slot.i.ready) | cell.chain.ready),
            cell.chain.valid.eq(self.chain.valid),
            cell.chain.payload.eq(self.chain.payload),
            cell.room.eq(room),
            cell.data.eq(self.read.data),
            tag.first.eq(first),
            tag.last.eq(last),
            tag.second.eq(chained | ~first),
            *(tag.a[lane].eq(self.chain.payload[lane]) for lane in range(lanes)),
        ]
        command = self.engine.cmd.payload
        is_cell, is_pool = (command.opcode == opcodes[name] for name in ("CELL", "POOL"))
        accepted = self.engine.cmd.valid & ~busy
        may = starts | Mux(step, ~end & (~last | room), active & (~first | room))
        m.d.sync += [
            starts.eq(accepted & ~is_cell),
            free.eq((accepted & ~is_cell) | (may & ~chained)),
            bound.eq(may & chained),
        ]
        # Whether the next read is the last of a level, and of all within: known a cycle before, from
        # registers.
        levels = ((kx, p.kx), (ky, p.ky), (chunks, b.bytes >> lane_bits), (nx, b.nx), (ny, b.ny))
        at_end, at_begin = 1, 1
        for (loop, count), carry, flag in zip(
            levels, (1, line, last, pixel, row), (line, last, pixel, row, end), strict=True
        ):
            at_end &= Mux(carry, Mux(loop.last, count == 0, loop.nears), loop.last)
            at_begin &= count == 0
            with m.If(step):
                m.d.sync += flag.eq(Mux(active, end | at_end, at_begin))
        # The registers of each level of the nest are one step behind `step`.
        with m.If(step):
            m.d.sync += [
                first.eq(last),
                from_b.eq(~pool & (chained | ~last)),
                k_at.eq(k_at + p.kx_x),
                x_k.eq(x_k + p.kx_x),
            ]
            kx.step()
            with m.If(line):
                kx.begin(p.kx)
                m.d.sync += [k_at.eq(k_row + p.ky_addr), x_k.eq(0)]
            with m.If(last):
                m.d.sync += k_at.eq(a_at + lanes)
            with m.If(pixel):
                m.d.sync += k_at.eq(a_px + b.a_px)
            with m.If(row):
                m.d.sync += k_at.eq(Mux(active, a_row + b.a_row, b.a))
        with m.If(step & line):
            m.d.sync += [k_row.eq(k_row + p.ky_addr), y_k.eq(y_k + p.ky_y)]
            ky.step()
            with m.If(last):
                ky.begin(p.ky)
                m.d.sync += [k_row.eq(a_at + lanes), y_k.eq(0)]
            with m.If(pixel):
                m.d.sync += k_row.eq(a_px + b.a_px)
            with m.If(row):
                m.d.sync += k_row.eq(Mux(active, a_row + b.a_row, b.a))
        with m.If(step & last):
            chunks.step()
            with m.If(pixel):
                chunks.begin(b.bytes >> lane_bits)
        with m.If(step & pixel):
            nx.step()
            m.d.sync += x_out.eq(x_out + b.a_px)
            with m.If(row):
                nx.begin(b.nx)
                m.d.sync += x_out.eq(p.x0)
        with m.If(step & row):
            ny.step()
            m.d.sync += y_out.eq(y_out + p.oy_y)
            with m.If(~active):
                ny.begin(b.ny)
                m.d.sync += y_out.eq(p.y0)
        for name, (of_row, of_px, at) in places.items():
            next_row = Mux(active, of_row + b[f"{name}_row"], b[name])
            next_px = Mux(row, next_row, of_px + b[f"{name}_px"])
            for register, flag, following in (
                (of_row, row, next_row),
                (of_px, pixel, next_px),
                (at, last, Mux(pixel, next_px, at + lanes)),
            ):
                with m.If(step & flag):
                    m.d.sync += register.eq(following)
        with m.If(step & end):
            m.d.sync += active.eq(~active)
        m.d.sync += tail.eq(Cat(b.bytes[:lane_bits] >= lane for lane in range(lanes)))
        m.d.comb += [
            self.engine.cmd.ready.eq(~busy),
            cell.cmd.payload.eq(command.body.CELL),
            cell.cmd.valid.eq(accepted & is_cell),
        ]
        with m.If(self.engine.done):
            m.d.sync += busy.eq(0)
        with m.If(~busy):
            # Latched even when `valid` is low, which keeps the token logic off the operand path.
            add, window = command.body.ADD, command.body.POOL
            fused = ~is_pool & (add.a_source == OperandA.OUTPUT)
            m.d.sync += [
                b.eq(add),
                p.eq(window),
                pool.eq(is_pool),
                chained.eq(fused),
                multiply.eq(command.opcode == opcodes["MUL"]),
                busy.eq(self.engine.cmd.valid),
            ]
            m.d.sync += [
                b[name].eq(Mux(is_pool, window[of_pool], add[name])) for name, of_pool in _COMMON.items()
            ]
            # ADD and MUL are windows of two positions, a and b, or of b alone.
            with m.If(~is_pool):
                m.d.sync += [p.kx.eq(~fused), p.ky.eq(0)]

        # -- responses: what belongs to a read waits for its bytes ------------------------------------------
        arrives = slot.valid & self.read.ready
        for step in range(ActReadSignature.LATENCY - 1):
            following = Signal(name=f"arrives{step}")
            m.d.sync += following.eq(arrives)
            arrives = following
        y, x, window_inside = (
            Signal(y_span, reset_less=True),
            Signal(x_span, reset_less=True),
            Signal(reset_less=True),
        )
        issued = [issue, Signal(name="issued1"), Signal(name="issued2")]
        m.d.sync += [
            y.eq(y_out + y_k),
            x.eq(x_out + x_k),
            window_inside.eq((y >= 0) & (y < p.height) & (x >= 0) & (x < p.row_bytes)),
            *(late.eq(early) for early, late in itertools.pairwise(issued)),
        ]
        own = arrives & ~cell.active
        m.d.comb += cell.arrives.eq(arrives & cell.active)
        stage, inside, valid = Signal(tag_layout, reset_less=True), Signal(reset_less=True), Signal()
        m.d.sync += [
            stage.eq(self._queued(m, "tags", tag, issue, own, self._READS)[0]),
            inside.eq(self._queued(m, "insides", window_inside, issued[2], own, self._READS)[0]),
            valid.eq(own),
        ]
        bytes_in = [self.read.data[lane].as_signed() for lane in range(lanes)]
        a, best = Signal(chunk_layout(arch), reset_less=True), Signal(chunk_layout(arch), reset_less=True)
        # The first one cycle after the bytes, the last one before the result is offered.
        flags = [Signal(name=f"valid{i}") for i in range(self.LATENCY - ActReadSignature.LATENCY - 1)]
        m.d.sync += [
            flags[0].eq(valid & stage.last),
            *(late.eq(early) for early, late in itertools.pairwise(flags)),
        ]
        compares, restarts = Signal(), Signal(reset_less=True)
        m.d.sync += [compares.eq(valid), restarts.eq(stage.first)]
        a9, b9, factors = [], [], []
        for lane in range(lanes):
            candidate = Signal(signed(8), name=f"candidate{lane}", reset_less=True)
            da, db = (
                Signal(signed(9), name=f"a9_{lane}"),
                Signal(signed(9), name=f"b9_{lane}", reset_less=True),
            )
            m.d.sync += candidate.eq(Mux(inside, bytes_in[lane], -128))
            with m.If(compares & (restarts | (candidate > best[lane]))):
                m.d.sync += best[lane].eq(candidate)
            with m.If(valid & ~stage.second):
                m.d.sync += a[lane].eq(bytes_in[lane])
            factor = Signal(signed(17), name=f"factor{lane}")
            m.d.comb += [
                da.eq(Mux(chained, stage.a[lane], a[lane]) - b.a_zero),
                factor.eq(Mux(multiply, bytes_in[lane] - b.b_zero, b.a_mult)),
            ]
            m.d.sync += db.eq(bytes_in[lane] - b.b_zero)
            a9.append(da), b9.append(db), factors.append(factor)

        # -- arithmetic: flags[0] is beside the first multiplier's operands and b9 ---------------------------
        pools = best  # one cycle later than that
        scale = Signal(signed(17), reset_less=True)
        m.d.sync += scale.eq(Mux(multiply, b.a_mult, b.b_mult))
        rounded = []
        for lane in range(lanes):
            # ADD: a9*a_mult, then + b9*b_mult. MUL: a9*b9, then * a_mult. Two multipliers either way.
            m1 = registered_product(m, platform, a9[lane], factors[lane], f"m1_{lane}")
            late_b9 = Signal(signed(9), name=f"late_b9_{lane}", reset_less=True)
            second_operand = Signal(signed(18), name=f"second{lane}")
            addend, wide = (
                Signal(signed(27), name=f"{name}{lane}", reset_less=True) for name in ("addend", "wide")
            )
            total = Signal(signed(36), name=f"total{lane}", reset_less=True)
            m.d.comb += second_operand.eq(Mux(multiply, m1, late_b9))
            product = registered_product(m, platform, second_operand, scale, f"product{lane}")
            m.d.sync += [
                late_b9.eq(b9[lane]),
                addend.eq(Mux(multiply, 0, m1)),
                wide.eq(addend),
                total.eq(product + wide),
            ]
            rounded.append(divide_round(m, total, b.shift, lane))
        # What is compared has spent two cycles so far.
        for i in range(timing.VECTOR_ARITHMETIC - 2):
            following = Signal(chunk_layout(arch), name=f"pool{i}", reset_less=True)
            m.d.sync += following.eq(pools)
            pools = following
        clamped = Signal(chunk_layout(arch), reset_less=True)
        for lane in range(lanes):
            requantised = add_clamp(m, rounded[lane], b.zero, b.low, b.high, f"lane{lane}")
            m.d.sync += clamped[lane].eq(Mux(pool, pools[lane], requantised))
        m.submodules.table = table = Table(arch)
        wiring.connect(m, wiring.flipped(self.table_write), table.write)
        plain = clamped
        for step in range(Table.LATENCY):
            before, plain = plain, Signal(chunk_layout(arch), name=f"plain{step}", reset_less=True)
            m.d.sync += plain.eq(before)
        m.d.comb += [table.i.eq(clamped), table.slot.eq(b.slot)]
        result = Signal(chunk_layout(arch))
        m.d.comb += result.eq(Mux(b.table, table.o.as_value(), plain.as_value()))

        # -- queue: results, which may pass it, and where they go, which is known long before
        # -------------------
        target, target_valid = Signal(target_layout(arch), reset_less=True), Signal()
        entry_layout = data.StructLayout({"target": target_layout(arch), "blocks": arch.act_blocks})
        entry, head = Signal(entry_layout), Signal(entry_layout, reset_less=True)
        made, made_valid = Signal(chunk_layout(arch)), Signal()
        head_data = Signal(chunk_layout(arch), reset_less=True)
        moves, stored, leaves, popped = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            entry.target.eq(target),
            entry.blocks.eq(touched_blocks(arch, target.addr)),
            made_valid.eq(flags[-1] | cell.result.valid),
            made.eq(Mux(cell.active, cell.result.payload.as_value(), result.as_value())),
            moves.eq(~self.write.valid | self.write.ready),
            popped.eq(self.write.valid & self.write.ready),
            leaves.eq(moves & (stored | made_valid)),
            self.write.addr.eq(head.target.addr),
            self.write.blocks.eq(head.blocks),
            self.write.mask.eq(head.target.mask),
            *(self.write.data[lane].eq(head_data[lane]) for lane in range(lanes)),
            self.engine.done.eq(popped & head.target.end),
            cell.written.eq(popped),
            cell.done.eq(self.engine.done),
        ]
        m.d.sync += [
            target_valid.eq((issue & last) | cell.target.valid),
            target.addr.eq(Mux(cell.active, cell.target.payload.addr, places["dst"][2])),
            target.mask.eq(Mux(cell.active, cell.target.payload.mask, Mux(chunks.last, tail, -1))),
            target.end.eq(Mux(cell.active, cell.target.payload.end, end)),
        ]
        targets, _ = self._queued(m, "targets", entry, target_valid, leaves, self._QUEUE)
        results, some = self._queued(m, "results", made, made_valid, leaves, self._QUEUE)
        m.d.comb += stored.eq(some)
        with m.If(moves):
            m.d.sync += [
                self.write.valid.eq(stored | made_valid),
                head.eq(targets),
                head_data.eq(Mux(stored, results, made.as_value())),
            ]
        # -- room: results that are begun and not written
        # ------------------------------------------------------
        flight, begun, ended = Signal(range(self._QUEUE)), Signal(), Signal()
        m.d.sync += [
            begun.eq((issue & first) | cell.result.valid),
            ended.eq(popped),
            flight.eq(flight + begun - ended),
            room.eq(flight < self._FULL),
        ]
        return m

    @staticmethod
    def _queued(m: Module, name: str, value, enter, leave, depth: int):
        """A memory that `value` enters and the oldest leaves: that one, and whether there is any. Its user
        sees to it that it is never full."""
        m.submodules[name] = memory = Memory(shape=value.shape(), depth=depth, init=[])
        write, read = memory.write_port(), memory.read_port(domain="comb")
        first, end = (Signal(range(depth), name=f"{name}_{of}") for of in ("first", "end"))
        m.d.comb += [write.en.eq(enter), write.addr.eq(end), write.data.eq(value), read.addr.eq(first)]
        with m.If(enter):
            m.d.sync += end.eq(end + 1)
        with m.If(leave):
            m.d.sync += first.eq(first + 1)
        return read.data, first != end

    @staticmethod
    def _span(first: Field, *loops: tuple[Field, Field]) -> range:
        """All values of a coordinate: its first value plus, for each (step, count), up to count - 1 steps."""
        return range(first.min, first.max + sum(step.max * (count.max - 1) for step, count in loops) + 1)
