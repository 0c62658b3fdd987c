"""The vector unit: element-wise add and multiply, and maximum over windows. Executes ADD, MUL and POOL, and CELL by its cell unit."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from systolith.hw.engine.cell import CellUnit
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
from systolith.hw.leaf.request_slot import RequestSlot
from systolith.hw.leaf.rounding import add_clamp, round_saturate, shift_right, shifted_layout
from systolith.hw.leaf.table import Table
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Engine, Field, OperandA, isa_for

__all__ = ["VectorEngine"]

#: Operands that ADD and MUL have as POOL has them, maybe by another name: kept once.
_COMMON = {"ny": "ny", "nx": "nx", "bytes": "bytes", "a": "base", "a_row": "oy_addr", "a_px": "ox_x", "dst": "dst", "dst_row": "dst_row",
           "dst_px": "dst_px", "table": "table", "slot": "slot"}


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
    for POOL (CELL: see `CellUnit`); ``LATENCY`` cycles from the grant of a chunk's last read to the offer of its result. An
    instruction starts when the results of the one before have been written. Results wait in a queue, so
    backpressure stops the issue of new chunks and never the pipeline.
    """

    LATENCY = 10 + ActReadSignature.LATENCY
    _QUEUE = 16

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        super().__init__({
            "engine": In(EngineSignature(arch, Engine.VECTOR)), "read": Out(ActReadSignature(arch)),
            "write": Out(ActWriteSignature(arch)),
            "chain": In(stream.Signature(chain_layout(arch))),
            "table_write": In(BeatWriteSignature(arch, arch.table_bytes)),
        })

    def elaborate(self, platform):
        m = Module()
        arch = self._arch
        lanes = arch.lanes
        opcodes = {f.mnemonic: f.opcode for f in isa_for(arch).formats if f.engine is Engine.VECTOR}
        # ADD and MUL have the same fields; what is common to POOL is kept here too.
        b = Signal(format_layout(arch, "ADD"))
        p = Signal(format_layout(arch, "POOL"))
        pool, multiply, active = Signal(), Signal(), Signal()
        flight = Signal(range(self._QUEUE + 1))
        m.submodules.cell = cell = CellUnit(arch)
        m.d.comb += self.engine.idle.eq(1)
        lane_bits = (lanes - 1).bit_length()

        # -- issue: one read per cycle -----------------------------------------------------------------------
        a_bits = (arch.act_bytes - 1).bit_length()
        address = range(arch.act_bytes)
        nx, ny, kx, ky = (Loop(m, len(field), name) for name, field in (("nx", b.nx), ("ny", b.ny), ("kx", p.kx), ("ky", p.ky)))
        chunks = Loop(m, len(b.bytes), "chunks")
        first = Signal()                             # of a window, or of a pair of operands
        #: Where the row, the pixel and the chunk of an operand begin.
        places = {name: [Signal(address, name=f"{name}_{of}", reset_less=True) for of in ("row", "px", "at")] for name in ("a", "b", "dst")}
        k_row, k_at = Signal(a_bits), Signal(a_bits)   # offset of the window's row and position
        # Wide enough for every program: a coordinate that wrapped around could look like one in the window.
        fields = {f.name: f for f in isa_for(arch).by_mnemonic["POOL"].fields}
        y_span = self._span(fields["y0"], (fields["oy_y"], fields["ny"]), (fields["ky_y"], fields["ky"]))
        x_span = self._span(fields["x0"], (fields["ox_x"], fields["nx"]), (fields["kx_x"], fields["kx"]))
        y_out, x_out, y_k, x_k = Signal(y_span), Signal(x_span), Signal(y_span), Signal(x_span)
        issue, last = Signal(), Signal()
        request, source = Signal(), Signal(address)
        chained = Signal()
        tail = Signal(lanes)                         # lanes of a pixel's last chunk
        room = ~flight[-1]                           # `_QUEUE` is a power of two
        tag_layout = data.StructLayout({"first": 1, "last": 1, "second": 1, "addr": address, "mask": lanes,
                                        "end": 1,
                                        "y": y_span, "x": x_span, "a": chunk_layout(arch)})
        tag = Signal(tag_layout)
        m.submodules.slot = slot = RequestSlot(arch, tag_layout)
        m.d.comb += [
            last.eq(kx.last & ky.last),
            request.eq(active & (~first | room) & (~chained | self.chain.valid)),
            issue.eq(request & slot.i.ready), slot.i.valid.eq(request), slot.i.payload.addr.eq(source), slot.i.payload.tag.eq(tag),
            self.engine.stall.eq((active & ~issue) | cell.stall),
            source.eq(Mux(~pool & (chained | ~first), places["b"][2], places["a"][2] + k_at)),
            # The cell unit is active only when nothing else is.
            self.read.valid.eq(slot.valid | cell.read.valid), self.read.addr.eq(Mux(cell.active, cell.read.addr, slot.addr)),
            self.read.blocks.eq(Mux(cell.active, cell.read.blocks, slot.blocks)), slot.ready.eq(self.read.ready),
            cell.read.ready.eq(self.read.ready), cell.read.data.eq(self.read.data),
            self.chain.ready.eq((issue & chained) | cell.chain.ready),
            cell.chain.valid.eq(self.chain.valid), cell.chain.payload.eq(self.chain.payload),
            tag.first.eq(first), tag.last.eq(last), tag.second.eq(chained | ~first),
            *(tag.a[lane].eq(self.chain.payload[lane]) for lane in range(lanes)),
            tag.y.eq(y_out + y_k), tag.x.eq(x_out + x_k),
            tag.addr.eq(places["dst"][2]), tag.mask.eq(Mux(chunks.last, tail, -1)),
            tag.end.eq(last & chunks.last & nx.last & ny.last),
        ]
        popped = Signal()
        m.d.sync += flight.eq(flight + (issue & first) - popped)
        with m.If(issue):
            m.d.sync += first.eq(last)
            with m.If(~last):
                kx.step()
                m.d.sync += [k_at.eq(k_at + p.kx_x), x_k.eq(x_k + p.kx_x)]
                with m.If(kx.last):
                    kx.begin(p.kx)
                    ky.step()
                    m.d.sync += [k_at.eq(k_row + p.ky_addr), k_row.eq(k_row + p.ky_addr), x_k.eq(0), y_k.eq(y_k + p.ky_y)]
            with m.Else():
                kx.begin(p.kx)
                ky.begin(p.ky)
                chunks.step()
                m.d.sync += [*(s.eq(0) for s in (k_row, k_at, y_k, x_k)), *(at.eq(at + lanes) for _, _, at in places.values())]
                with m.If(chunks.last):
                    chunks.begin(b.bytes >> lane_bits)
                    nx.step()
                    m.d.sync += [s.eq(px + b[f"{name}_px"]) for name, (_, px, at) in places.items() for s in (px, at)]
                    m.d.sync += x_out.eq(x_out + b.a_px)
                    with m.If(nx.last):
                        nx.begin(b.nx)
                        ny.step()
                        m.d.sync += [s.eq(row + b[f"{name}_row"]) for name, (row, px, at) in places.items() for s in (row, px, at)]
                        m.d.sync += [x_out.eq(p.x0), y_out.eq(y_out + p.oy_y)]
            with m.If(tag.end):
                m.d.sync += active.eq(0)
        command = self.engine.cmd.payload
        is_cell, is_pool = (command.opcode == opcodes[name] for name in ("CELL", "POOL"))
        m.d.comb += [
            self.engine.cmd.ready.eq(~active & (flight == 0) & cell.cmd.ready), cell.cmd.payload.eq(command.body.CELL),
            cell.cmd.valid.eq(self.engine.cmd.valid & self.engine.cmd.ready & is_cell),
        ]
        with m.If(self.engine.cmd.ready):
            # Also what is no command yet, so that its tokens are on no path but that to `active`.
            add, window = command.body.ADD, command.body.POOL
            fused = ~is_pool & (add.a_source == OperandA.OUTPUT)
            common = {name: Mux(is_pool, window[of_pool], add[name]) for name, of_pool in _COMMON.items()}
            m.d.sync += [b.eq(add), p.eq(window), pool.eq(is_pool), chained.eq(fused),
                         multiply.eq(command.opcode == opcodes["MUL"]), active.eq(self.engine.cmd.valid & ~is_cell)]
            m.d.sync += [b[name].eq(value) for name, value in common.items()]
            # ADD and MUL are windows of two positions, a and b, or of b alone.
            with m.If(~is_pool):
                m.d.sync += [p.kx.eq(~fused), p.ky.eq(0)]
            kx.begin(Mux(is_pool, window.kx, ~fused))
            ky.begin(Mux(is_pool, window.ky, 0))
            nx.begin(common["nx"])
            ny.begin(common["ny"])
            chunks.begin(common["bytes"] >> lane_bits)
            m.d.sync += [first.eq(1), *(s.eq(0) for s in (k_row, k_at, y_k, x_k)),
                         tail.eq(Cat(common["bytes"][:lane_bits] >= lane for lane in range(lanes))),
                         *(s.eq(common[name] if name in common else add[name]) for name, of in places.items() for s in of),
                         x_out.eq(window.x0), y_out.eq(window.y0)]

        # -- responses ---------------------------------------------------------------------------------------
        valid, stage = slot.valid & self.read.ready, slot.tag
        inside = (stage.y >= 0) & (stage.y < p.height) & (stage.x >= 0) & (stage.x < p.row_bytes)
        for step in range(ActReadSignature.LATENCY):
            following_inside = Signal(name=f"inside{step}", reset_less=True)
            m.d.sync += following_inside.eq(inside)
            inside = following_inside
            following_valid = Signal(name=f"response{step}")
            following = Signal(tag_layout, name=f"tag{step}", reset_less=True)
            m.d.sync += [following_valid.eq(valid), following.eq(stage)]
            valid, stage = following_valid, following
        bytes_in = [self.read.data[lane].as_signed() for lane in range(lanes)]
        a, best = Signal(chunk_layout(arch), reset_less=True), Signal(chunk_layout(arch), reset_less=True)
        info_layout = data.StructLayout({"addr": address, "mask": lanes, "end": 1})
        carried = [Signal(info_layout, name=f"info{i}", reset_less=True) for i in range(8)]
        flags = [Signal(name=f"valid{i}") for i in range(8)]
        m.d.sync += [carried[0].addr.eq(stage.addr), carried[0].mask.eq(stage.mask),
                     carried[0].end.eq(stage.end), flags[0].eq(valid & stage.last)]
        for i in range(1, 8):
            m.d.sync += [carried[i].eq(carried[i - 1]), flags[i].eq(flags[i - 1])]
        a9, b9 = [], []
        for lane in range(lanes):
            value = Signal(signed(8), name=f"pool_value{lane}")
            so_far = Signal(signed(8), name=f"pool_best{lane}")
            da = Signal(signed(9), name=f"a9_{lane}", reset_less=True)
            db = Signal(signed(9), name=f"b9_{lane}", reset_less=True)
            m.d.comb += [value.eq(Mux(inside, bytes_in[lane], -128)),
                         so_far.eq(Mux(stage.first | (value > best[lane]), value, best[lane]))]
            with m.If(valid):
                m.d.sync += best[lane].eq(so_far)
                with m.If(~stage.second):
                    m.d.sync += a[lane].eq(bytes_in[lane])
            m.d.sync += [da.eq(Mux(chained, stage.a[lane], a[lane]) - b.a_zero),
                         db.eq(bytes_in[lane] - b.b_zero)]
            a9.append(da), b9.append(db)

        # -- arithmetic: carried[0] is beside a9 and b9 ------------------------------------------------------
        pools = best
        totals = []
        for lane in range(lanes):
            # ADD: a9*a_mult, then + b9*b_mult. MUL: a9*b9, then * a_mult. Two multipliers either way.
            m1 = Signal(signed(27), name=f"m1_{lane}", reset_less=True)
            total = Signal(signed(36), name=f"total{lane}", reset_less=True)
            factor = Signal(signed(17), name=f"factor{lane}")
            scale = Signal(signed(17), name=f"scale{lane}")
            wide = Signal(signed(27), name=f"wide{lane}", reset_less=True)
            delayed = Signal(signed(9), name=f"b9_{lane}_b", reset_less=True)
            m.d.comb += [factor.eq(Mux(multiply, b9[lane], b.a_mult)),
                         scale.eq(Mux(multiply, b.a_mult, b.b_mult))]
            m.d.sync += [m1.eq(a9[lane] * factor), delayed.eq(b9[lane])]
            second_operand = Signal(signed(18), name=f"second{lane}")
            m.d.comb += second_operand.eq(Mux(multiply, m1, delayed))
            product = Signal(signed(36), name=f"product{lane}", reset_less=True)
            m.d.sync += [product.eq(second_operand * scale), wide.eq(m1)]
            m.d.sync += total.eq(Mux(multiply, product, product + wide))
            totals.append(total)
        rounded = []
        for lane in range(lanes):
            shifted = Signal(shifted_layout(len(totals[lane])), name=f"shifted{lane}", reset_less=True)
            value = Signal(signed(11), name=f"rounded{lane}", reset_less=True)
            m.d.sync += [shifted.eq(shift_right(m, totals[lane], b.shift, f"lane{lane}")),
                         value.eq(round_saturate(m, shifted, f"lane{lane}"))]
            rounded.append(value)
        for i in range(5):
            following = Signal(chunk_layout(arch), name=f"pool{i}", reset_less=True)
            m.d.sync += following.eq(pools)
            pools = following
        clamped = Signal(chunk_layout(arch), reset_less=True)
        for lane in range(lanes):
            requantised = add_clamp(m, rounded[lane], b.zero, b.low, b.high, f"lane{lane}")
            m.d.sync += clamped[lane].eq(Mux(pool, pools[lane], requantised))
        m.submodules.table = table = Table(arch)
        wiring.connect(m, wiring.flipped(self.table_write), table.write)
        plain = Signal(chunk_layout(arch), reset_less=True)
        m.d.comb += [table.i.eq(clamped), table.slot.eq(b.slot)]
        m.d.sync += plain.eq(clamped)
        result = Signal(chunk_layout(arch))
        m.d.comb += result.eq(Mux(b.table, table.o.as_value(), plain.as_value()))

        entry = data.StructLayout({"addr": address, "blocks": arch.act_blocks, "mask": lanes, "end": 1, "data": chunk_layout(arch)})
        m.submodules.queue = queue = SyncFIFOBuffered(width=entry.size, depth=self._QUEUE)
        head, made = Signal(entry), Signal(entry)
        m.d.comb += [
            made.addr.eq(carried[-1].addr), made.blocks.eq(touched_blocks(arch, carried[-1].addr)), made.mask.eq(carried[-1].mask),
            made.end.eq(carried[-1].end), made.data.eq(result),
            queue.w_en.eq(flags[-1]), queue.w_data.eq(made), head.eq(queue.r_data),
            self.write.valid.eq(queue.r_rdy | cell.write.valid), self.write.addr.eq(Mux(cell.active, cell.write.addr, head.addr)),
            self.write.blocks.eq(Mux(cell.active, cell.write.blocks, head.blocks)),
            self.write.mask.eq(Mux(cell.active, cell.write.mask, head.mask)),
            self.write.data.eq(Mux(cell.active, cell.write.data.as_value(), head.data.as_value())),
            cell.write.ready.eq(self.write.ready), popped.eq(queue.r_rdy & self.write.ready), queue.r_en.eq(popped),
            self.engine.done.eq((popped & head.end) | cell.done),
        ]
        return m

    @staticmethod
    def _span(first: Field, *loops: tuple[Field, Field]) -> range:
        """All values of a coordinate: its first value plus, for each (step, count), up to count - 1 steps."""
        return range(first.min, first.max + sum(step.max * (count.max - 1) for step, count in loops) + 1)
