"""The systolic array with its sequencers and accumulators: executes MATMUL.

Two sequencers walk the same nest. The weight sequencer reads tiles into the shadow registers, one tile ahead
and into the next instruction; the vector sequencer streams activations. Neither ever stalls inside a tile, so
everything behind them is a fixed pipeline: with the first vector of a tile requested in cycle t and L =
`ActReadSignature.LATENCY` + 1, row r swaps its weights at the end of cycle t + L + r, multiplies in t + L + 1
+ r, and the sums meet the accumulators in cycle t + L + R + 2.
"""

import itertools
from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith.hw.interfaces import (
    AccReadSignature,
    AccTraceSignature,
    ActReadSignature,
    EngineSignature,
    HwErrorCode,
    WeightReadSignature,
    format_layout,
    touched_blocks,
)
from systolith.hw.leaf.delay import delayed
from systolith.hw.leaf.multiplier import registered_product
from systolith.hw.leaf.nest import Nest
from systolith.hw.leaf.twins import register_copies, register_twins
from systolith.spec import timing
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Engine, Mode
from systolith.spec.numerics import ACC

__all__ = ["MatrixEngine"]

#: Cycles from a request to the vector at the array.
_VECTOR = timing.MATRIX_VECTOR
#: Cycles from the beginning of a tile in the weight sequencer to its first weight's address, so that the
#: weight swaps in step with the vectors.
_WEIGHT_LEAD = _VECTOR - WeightReadSignature.LATENCY


def _of_banks(active, entry) -> tuple:
    """For each bank of the accumulators whether it holds this entry, where `active`."""
    return active & ~entry[0], active & entry[0]


class MatrixEngine(wiring.Component):
    """Array, weight registers, accumulators.

    Members
    -------
    engine : In(EngineSignature)       MATMUL commands
    act : Out(ActReadSignature)        must always be granted
    weights : Out(WeightReadSignature)
    acc : In(AccReadSignature)         the output stage's reads, and the releases
    sums : Out(AccTraceSignature)      each write to the accumulators, for a checker

    Timing
    ------
    One vector per cycle; consecutive tiles follow every max(vectors, G) cycles, across instructions too
    (where an instruction takes less than three, one in three: its words take longer to fetch). A vector's
    sums are written ``LATENCY`` + R cycles after its request; `done` comes with the last of them.
    Reset drops what is in flight and keeps the accumulators.

    Errors
    ------
    ILLEGAL_INSTRUCTION   DEPTHWISE with kt > 1, or on a core without it.
    OPERAND_RANGE         An accumulator entry or a weight tile past the last.

    An error travels down the pipeline like a vector, so every earlier instruction is done when it comes out.
    """

    #: Cycles from a vector's request to its accumulator write, beyond the R rows.
    LATENCY = timing.MATRIX_WRITE

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        super().__init__(
            {
                "engine": In(EngineSignature(arch, Engine.MATRIX)),
                "act": Out(ActReadSignature(arch)),
                "weights": Out(WeightReadSignature(arch)),
                "acc": In(AccReadSignature(arch)),
                "sums": Out(AccTraceSignature(arch)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        arch = self._arch
        self._layout = format_layout(arch, "MATMUL")
        self._tag = data.StructLayout(
            {
                "write": 1,
                "accumulate": 1,
                "release": 1,
                "last": 1,
                "fault": 1,
                "illegal": 1,
                "high": 1,
                "acc": range(arch.acc_depth),
            }
        )

        dead = Signal()
        command = self.engine.cmd.payload.body.MATMUL
        pending = Signal(self._layout, reset_less=True)
        pending_valid = Signal()
        pending_illegal = Signal()
        free = Signal(init=1)  # the vector sequencer takes the pending command, if there is one
        begin = Signal()  # the weight sequencer begins a tile
        swap = Signal()  # the vector sequencer begins a tile
        shadow_full, shadow_full_next = Signal(), Signal()
        fault = Signal()
        m.d.comb += shadow_full_next.eq(begin | (shadow_full & ~swap))
        m.d.sync += [shadow_full.eq(shadow_full_next), dead.eq(dead | fault)]

        # A command waits for each of the two sequencers separately; the weights' part of an illegal one is
        # dropped.
        tiles = Signal(
            data.StructLayout({name: command[name].shape() for name in ("kt", "kx", "ky", "tile")})
        )
        tiles_valid, tiles_free = Signal(), Signal()
        accept = Signal()
        pending_next, tiles_next = Signal(), Signal()
        # The sequencer may be far away, so it has its own.
        ready_there, ready = register_twins(m, ~tiles_next & ~pending_next & ~dead & ~fault, "ready")
        illegal = (command.mode == Mode.DEPTHWISE) & ((command.kt != 0) | (not arch.depthwise))
        m.d.comb += [
            pending_next.eq(accept | (pending_valid & ~free)),
            tiles_next.eq((accept & ~illegal) | (tiles_valid & ~tiles_free)),
            accept.eq(self.engine.cmd.valid & ready),
            self.engine.cmd.ready.eq(ready_there),
            self.engine.idle.eq(1),
        ]
        m.d.sync += [pending_valid.eq(pending_next), tiles_valid.eq(tiles_next)]
        with m.If(ready):
            m.d.sync += [
                *(tiles[name].eq(command[name]) for name in ("kt", "kx", "ky", "tile")),
                pending.eq(command),
                pending_illegal.eq(illegal),
            ]

        tile_bad = self._weight_sequencer(
            m, tiles, tiles_valid, tiles_free, begin, swap, shadow_full, dead | fault
        )
        tag, mode, x, y, fields = self._vector_sequencer(
            m,
            pending,
            pending_valid,
            pending_illegal,
            free,
            swap,
            shadow_full,
            shadow_full_next,
            tile_bad,
            dead,
        )
        m.d.comb += fault.eq(tag.fault)

        vector = self._window(m, x, y, fields)
        psums = self._array(m, platform, vector, begin, swap, mode)
        # From the sequencer, one cycle before the request, to three cycles before the sums, for the
        # accumulator read.
        stage = tag
        for i in range(arch.rows + self.LATENCY - 3):
            before, stage = stage, Signal(self._tag, name=f"tag{i}")
            m.d.sync += stage.eq(before)
        again, again_next = Signal(), Signal()
        m.d.comb += again_next.eq(stage.write & (before.acc == stage.acc))
        m.d.sync += again.eq(again_next)
        # Whether each bank is read for `stage`, and at which address.
        reads = register_twins(
            m,
            Cat(*_of_banks(before.write & before.accumulate & ~again_next, before.acc), before.acc[1:]),
            "reads",
        )
        self._accumulators(m, stage, again, reads, psums)
        return m

    # -- weights ---------------------------------------------------------------------------------------------
    def _weight_sequencer(self, m, command, valid, free, begin, swap, shadow_full, dead_next):
        """Reads the tiles of each command in order; returns whether the next tile lies past the last."""
        arch = self._arch
        lines = arch.weight_load_cycles
        idle, ending = Signal(init=1), Signal()
        m.d.comb += free.eq(idle | ending)
        nest = Nest(m, {name: len(command[name]) for name in ("kt", "kx", "ky")}, "weights")
        counts = {
            name: Signal.like(command[name], name=f"weights_{name}_count", reset_less=True)
            for name in nest.ends
        }
        tile = Signal(range(arch.weight_tiles + 1), reset_less=True)
        line = Signal(range(max(2, lines)))
        last_line = Signal(init=lines == 1)
        busy = Signal()  # in the middle of a tile
        may_begin, bad = (
            Signal(),
            Signal(),
        )  # between tiles, where one is left: it is one of the memory's; it lies past its last
        reading = Signal()
        m.d.comb += [
            begin.eq(may_begin & (~shadow_full | swap)),
            reading.eq(begin | busy),
        ]
        done = Signal()
        m.d.comb += [
            # A tile of more than one line does not end where it begins.
            done.eq(last_line & (busy if lines > 1 else begin)),
            ending.eq(done & nest.ends["ky"]),
        ]
        idle_next, busy_next, between_next, past_last = Signal(), Signal(), Signal(), Signal()
        following_tile = Signal.like(tile)
        m.d.comb += [
            idle_next.eq(Mux(free, ~valid, idle)),
            busy_next.eq(Mux(reading, ~last_line, busy)),
            between_next.eq(~idle_next & ~busy_next & ~dead_next),
            following_tile.eq(tile + 1),
            # There is a power of two of tiles; that of a command is one of them.
            past_last.eq(~free & Mux(done, following_tile[-1], tile[-1])),
        ]
        m.d.sync += [
            idle.eq(idle_next),
            busy.eq(busy_next),
            may_begin.eq(between_next & ~past_last),
            bad.eq(between_next & past_last),
        ]
        with m.If(reading):
            m.d.sync += [
                line.eq(Mux(last_line, 0, line + 1)),
                last_line.eq((line == lines - 2) | (lines == 1)),
            ]
        with m.If(done):
            m.d.sync += tile.eq(following_tile)
            nest.step(counts)
        with m.If(free):
            # Latched even when `valid` is low. The line is 0: the last tile was read to its end.
            m.d.sync += [tile.eq(command.tile), *(count.eq(command[name]) for name, count in counts.items())]
            nest.begin(command)
        # Bank b sees the address sequence b*G cycles after bank 0.
        address = Signal(range(arch.weight_tiles * lines))
        m.d.comb += address.eq((tile << (lines - 1).bit_length()) | line)
        enable, current = reading, address
        for bank in range(arch.weight_rows_per_cycle):
            # What follows is in the cycle of the request, and at the array with the vectors.
            for i in range(_WEIGHT_LEAD if bank == 0 else lines):
                next_enable = Signal(name=f"weight_en_{bank}_{i}")
                next_address = Signal(
                    range(arch.weight_tiles * lines), name=f"weight_line_{bank}_{i}", reset_less=True
                )
                m.d.sync += [next_enable.eq(enable), next_address.eq(current)]
                enable, current = next_enable, next_address
            m.d.comb += [self.weights.en[bank].eq(enable), self.weights.line[bank].eq(current)]
        return bad

    # -- vectors ---------------------------------------------------------------------------------------------
    def _vector_sequencer(
        self,
        m,
        pending,
        pending_valid,
        pending_illegal,
        free,
        swap,
        shadow_full,
        shadow_full_next,
        tile_bad,
        dead,
    ):
        """Requests the vectors of each command; returns tag, mode, x, y of the current one and the window."""
        arch = self._arch
        c = Signal(self._layout, reset_less=True)
        # What moves on with a vector is much, so whether one is due (`go`) is in a register, as is `free`:
        # both are worked out a cycle ahead.
        active, active_next = Signal(), Signal()
        running, running_next = Signal(), Signal()  # active, and nothing is wrong
        first_of_tile, first_of_tile_next = Signal(), Signal()
        go, go_next = Signal(), Signal()  # a vector is due and its weights are there
        illegal = Signal()
        write = Signal()
        past_end = Signal()
        a_bits = len(pending.base)
        nest = Nest(m, {name: len(pending[name]) for name in ("ox", "oy", "kt", "kx", "ky")}, "vectors")
        ends = nest.ends
        # Wide enough for every operand: a coordinate that wrapped could enter the window again.
        x_steps = (
            len(pending.kx) + len(pending.kx_x),
            len(pending.kt) + arch.rows.bit_length(),
            len(pending.ox) + len(pending.ox_x),
        )
        y_steps = (len(pending.ky) + len(pending.ky_y), len(pending.oy) + len(pending.oy_y))
        x_shape, y_shape = (
            signed(max(len(pending.x0), *x_steps) + 3),
            signed(max(len(pending.y0), *y_steps) + 3),
        )
        address, row_address, tile_address, kx_address, ky_address = (
            Signal(a_bits, name=f"{name}_address", reset_less=True)
            for name in ("vector", "row", "tile", "kx", "ky")
        )
        x, tile_x, kx_x = (
            Signal(x_shape, name=f"{name}_x", reset_less=True) for name in ("vector", "tile", "kx")
        )
        y, ky_y = (Signal(y_shape, name=f"{name}_y", reset_less=True) for name in ("vector", "ky"))
        first_tile = Signal(reset_less=True)
        lead = Signal(pending.taps.shape(), reset_less=True)
        phase = Signal(pending.stride.shape(), reset_less=True)
        index = Signal(range(2 * arch.acc_depth), reset_less=True)
        tag = Signal(self._tag)
        last_vector = ends["ky"]
        m.d.comb += [
            write.eq((lead == c.taps) & (phase == 0)),
            past_end.eq(write & index[-1]),
            # A vector at fault enters the array too, but has no effect.
            active_next.eq(Mux(free, pending_valid, active)),
            running_next.eq(Mux(free, pending_valid & ~pending_illegal, running) & ~dead & ~tag.fault),
            first_of_tile_next.eq(free | Mux(go, ends["oy"], first_of_tile)),
            go_next.eq(running_next & (~first_of_tile_next | shadow_full_next)),
            self.engine.stall.eq(active & ~go),
            tag.write.eq(go & write & ~past_end),
            tag.accumulate.eq(c.accumulate | ~first_tile),
            tag.release.eq(tag.write & nest.last["kt"] & nest.last["kx"] & nest.last["ky"] & c.final),
            tag.last.eq(go & last_vector & ~past_end),
            tag.fault.eq(
                (go & past_end) | (active & ~dead & (illegal | (first_of_tile & ~shadow_full & tile_bad)))
            ),
            tag.illegal.eq(illegal),
            tag.high.eq(c.high),
            tag.acc.eq(index),
        ]
        ends_next = Signal()  # what `last_vector` will be
        m.d.comb += ends_next.eq(last_vector)
        m.d.sync += [
            active.eq(active_next),
            running.eq(running_next),
            first_of_tile.eq(first_of_tile_next),
            go.eq(go_next),
            swap.eq(go_next & first_of_tile_next),
            free.eq(~active_next | (go_next & ends_next)),
            self.act.valid.eq(go),
            self.act.addr.eq(address),
            self.act.blocks.eq(touched_blocks(arch, address)),
        ]
        new_address, new_x, new_y = Signal(a_bits), Signal(x_shape), Signal(y_shape)
        m.d.comb += [new_address.eq(address + c.ox_x), new_x.eq(x + c.ox_x), new_y.eq(y)]
        for loop, moves in (
            ("ox", (row_address + c.oy_addr, tile_x, y + c.oy_y)),
            ("oy", (tile_address + arch.rows, tile_x + arch.rows, ky_y)),
            ("kt", (kx_address + c.kx_x, kx_x + c.kx_x, ky_y)),
            ("kx", (ky_address + c.ky_addr, c.x0, ky_y + c.ky_y)),
        ):
            with m.If(ends[loop]):
                m.d.comb += [
                    new.eq(moved) for new, moved in zip((new_address, new_x, new_y), moves, strict=True)
                ]
        with m.If(go):
            m.d.comb += ends_next.eq(nest.step(c))
            with m.If(write):
                m.d.sync += index.eq(index + 1)
            with m.If(lead == c.taps):
                m.d.sync += phase.eq(Mux(phase == c.stride, 0, phase + 1))
            with m.Else():
                m.d.sync += lead.eq(lead + 1)
            m.d.sync += [address.eq(new_address), x.eq(new_x), y.eq(new_y)]
        # Not one inside the other, so that each enable is made of two registers.
        with m.If(go & ends["ox"]):
            m.d.sync += [lead.eq(0), phase.eq(0), row_address.eq(new_address)]
        with m.If(go & ends["oy"]):
            m.d.sync += [first_tile.eq(0), index.eq(c.acc), tile_address.eq(new_address), tile_x.eq(new_x)]
        with m.If(go & ends["kt"]):
            m.d.sync += [kx_address.eq(new_address), kx_x.eq(new_x)]
        with m.If(go & ends["kx"]):
            m.d.sync += [ky_address.eq(new_address), ky_y.eq(new_y)]
        with m.If(free):
            # Latched even when `valid` is low.
            m.d.comb += ends_next.eq(nest.begin(pending))
            m.d.sync += [
                c.eq(pending),
                illegal.eq(pending_illegal),
                first_tile.eq(1),
                lead.eq(0),
                phase.eq(0),
                index.eq(pending.acc),
                *(s.eq(pending.base) for s in (address, row_address, tile_address, kx_address, ky_address)),
                *(s.eq(pending.x0) for s in (x, tile_x, kx_x)),
                *(s.eq(pending.y0) for s in (y, ky_y)),
            ]
        mode = Signal()
        m.d.comb += mode.eq(c.mode)
        fields = data.StructLayout(
            {"height": pending.height.shape(), "row_bytes": pending.row_bytes.shape(), "pad": signed(8)}
        )
        window = Signal(fields)
        m.d.comb += [window.height.eq(c.height), window.row_bytes.eq(c.row_bytes), window.pad.eq(c.pad)]
        return tag, mode, x, y, window

    def _window(self, m, x, y, window):
        """The bytes of the vector, in the cycle of its data, with padding where it is outside."""
        arch = self._arch
        width = max(arch.rows, arch.cols)
        # The position of the request.
        early_x, early_y, early_window = (
            Signal.like(x, reset_less=True),
            Signal.like(y, reset_less=True),
            Signal.like(window, reset_less=True),
        )
        m.d.sync += [early_x.eq(x), early_y.eq(y), early_window.eq(window)]
        x, y, window = early_x, early_y, early_window
        lead, tail = Signal(range(width + 1)), Signal(range(width + 1))
        outside = Signal()
        remaining = Signal(signed(len(x) + 1))
        m.d.comb += remaining.eq(window.row_bytes - x)
        m.d.sync += [
            lead.eq(Mux(x >= 0, 0, Mux(x <= -width, width, (-x)[: lead.shape().width]))),
            tail.eq(Mux(remaining <= 0, 0, Mux(remaining >= width, width, remaining[: tail.shape().width]))),
            outside.eq((y < 0) | (y >= window.height)),
        ]
        # The comparisons take two cycles from the request, so the rest is delay.
        inside, pad = Cat((lead <= j) & (tail > j) & ~outside for j in range(width)), window.pad
        for i in range(ActReadSignature.LATENCY):
            late_pad = Signal(signed(8), name=f"pad{i}", reset_less=True)
            m.d.sync += late_pad.eq(pad)
            pad = late_pad
            if i > 0:
                late_inside = Signal(width, name=f"inside{i}", reset_less=True)
                m.d.sync += late_inside.eq(inside)
                inside = late_inside
        return [Mux(inside[j], self.act.data[j].as_signed(), pad) for j in range(width)]

    # -- array -----------------------------------------------------------------------------------------------
    def _array(self, m, platform, vector, begin, swap, mode):
        """R x C multipliers; returns the C sums that leave the last row."""
        arch = self._arch
        rows, cols = arch.rows, arch.cols

        # Nothing is reset here: what moves down the array is in order, so nothing stale comes after what
        # follows a reset. The array spans the die: each half of the columns has its own copy of the
        # activations, each quarter its own copy of the flags, each half of the rows its own copy of the
        # weights.
        half_of = [2 * c // cols for c in range(cols)]
        flags = Cat(
            delayed(m, begin, _VECTOR - 1, "load"),
            delayed(m, swap, _VECTOR - 1, "swap"),
            delayed(m, mode, _VECTOR - 1, "mode"),
        )
        flags = register_copies(m, flags, 4, "flags")
        quarter_of = [4 * c // cols for c in range(cols)]
        weights = register_twins(m, self.weights.data.as_value(), "weights")
        # What each row multiplies in the next cycle.
        vectors = register_twins(m, Cat(vector), "vector")
        pixels = [vectors[half_of[c]].word_select(c, 8).as_signed() for c in range(cols)]
        lanes = [[of.word_select(r, 8).as_signed() for r in range(rows)] for of in vectors]
        previous = None
        for r in range(rows):
            shadow = Signal(data.ArrayLayout(signed(8), cols), name=f"shadow{r}", reset_less=True)
            row = weights[int(r >= rows // 2)].word_select(r // arch.weight_load_cycles, 8 * cols)
            for c in range(cols):
                with m.If(flags[quarter_of[c]][0]):
                    m.d.sync += shadow[c].eq(row[8 * c : 8 * c + 8])
            sums = Signal(data.ArrayLayout(signed(arch.psum_bits), cols), name=f"sum{r}", reset_less=True)
            for c in range(cols):
                _, change, depthwise = flags[quarter_of[c]]
                x = (
                    Mux(depthwise, pixels[c], lanes[half_of[c]][r])
                    if arch.depthwise
                    else lanes[half_of[c]][r]
                )
                product = registered_product(m, platform, x, shadow[c], f"product{r}_{c}", take=change)
                m.d.sync += sums[c].eq(product if previous is None else previous[c] + product)
            previous = sums
            flags = [delayed(m, of, 1, f"flags{r}_{quarter}") for quarter, of in enumerate(flags)]
            for half, of in enumerate(lanes):
                of[r + 1 :] = [
                    delayed(m, lane, 1, f"lane{r + 1 + later}_{r}_{half}")
                    for later, lane in enumerate(of[r + 1 :])
                ]
            if arch.depthwise and r + 1 < rows:
                # Pixels fall at half the speed of the sums.
                half = Signal(data.ArrayLayout(signed(8), cols), name=f"pixels{r}_half", reset_less=True)
                full = Signal(data.ArrayLayout(signed(8), cols), name=f"pixels{r}_full", reset_less=True)
                for c in range(cols):
                    m.d.sync += [half[c].eq(pixels[c]), full[c].eq(half[c])]
                pixels = full
        return previous

    # -- accumulators ----------------------------------------------------------------------------------------
    def _accumulators(self, m, tag, again, reads, psums):
        """Read, add, write; `again`: the entry is the one that is written just before, so that it need not be
        read."""
        arch = self._arch
        # The accumulators span the die like the array: each half of the columns has memories, addresses and
        # enables of its own.
        cols = arch.cols // 2
        row = data.ArrayLayout(signed(ACC.width), cols)
        # There are registers behind and before the memories, and nothing enables their reads.
        early, late, now, written = (
            Signal(self._tag, name=name) for name in ("early", "late", "now", "written")
        )
        m.d.sync += [early.eq(tag), late.eq(early), now.eq(late), written.eq(now)]
        m.d.comb += self.acc.ready.eq(~Mux(self.acc.addr[0], reads[0][1], reads[0][0]))
        granted = register_twins(
            m, Cat(*_of_banks(self.acc.valid & self.acc.ready, self.acc.addr)), "granted"
        )
        # The sums of the four vectors before had not reached the memory when an entry was read, so they are
        # kept as long. The last one's is there just in time to be added to. Which of them or which bank
        # becomes the base is known a cycle before.
        stored = [now, written, Signal(self._tag, name="stored")]
        m.d.sync += stored[-1].eq(written)
        uses, meets = [], Const(0, 1)
        for of in stored:
            meet = of.write & (of.acc == early.acc)
            uses.append(early.accumulate & meet & ~meets)
            meets = meets | meet
        use = register_twins(m, Cat(*uses, *_of_banks(early.accumulate & ~meets, early.acc)), "use")
        late_again, later_again = Signal(), Signal()
        m.d.sync += [late_again.eq(again), later_again.eq(late_again)]
        step = register_twins(m, Cat(later_again & late.accumulate, late.high), "step")
        writes = register_twins(m, Cat(*_of_banks(now.write, now.acc), now.acc[1:]), "writes")
        sums = []
        for half in range(2):
            fetched, held, ports = [], [], []
            held_bank = Signal(name=f"held_bank{half}", reset_less=True)
            for bank in range(2):
                memory = Memory(shape=row, depth=arch.acc_depth // 2, init=[])
                m.submodules[f"acc{bank}_{half}"] = memory
                read, write = memory.read_port(), memory.write_port()
                ports.append(write)
                m.d.comb += [
                    read.en.eq(1),
                    read.addr.eq(Mux(reads[half][bank], reads[half][2:], self.acc.addr[1:])),
                ]
                fetched.append(Signal(row, name=f"fetched{bank}_{half}", reset_less=True))
                held.append(Signal(row, name=f"held{bank}_{half}", reset_less=True))
                m.d.sync += fetched[-1].eq(read.data)
                with m.If(granted[half][bank]):
                    m.d.sync += [held[-1].eq(read.data), held_bank.eq(bank)]
            base, total = Signal(row, name=f"base{half}", reset_less=True), Signal(row, name=f"new_sum{half}")
            kept = [Signal(row, name=f"kept{age}_{half}", reset_less=True) for age in range(3)]
            m.d.sync += [kept[0].eq(total), *(older.eq(newer) for newer, older in itertools.pairwise(kept))]
            forward, high = step[half]
            for c in range(cols):
                psum = psums[half * cols + c]
                m.d.sync += base[c].eq(
                    reduce(
                        or_,
                        (Mux(bit, of[c], 0) for bit, of in zip(use[half], (*kept, *fetched), strict=True)),
                    )
                )
                m.d.comb += total[c].eq(Mux(forward, kept[0][c], base[c]) + Mux(high, psum << 8, psum))
                m.d.comb += self.acc.data[half * cols + c].eq(Mux(held_bank, held[1][c], held[0][c]))
            for bank, write in enumerate(ports):
                m.d.comb += [
                    write.en.eq(writes[half][bank]),
                    write.addr.eq(writes[half][2:]),
                    write.data.eq(kept[0]),
                ]
            sums.append(kept[0].as_value())
        m.d.comb += [
            self.sums.valid.eq(written.write),
            self.sums.addr.eq(written.acc),
            self.sums.data.eq(Cat(sums)),
            self.acc.release.eq(written.release),
            self.engine.done.eq(written.last),
            self.engine.error.eq(written.fault),
            self.engine.error_code.eq(
                Mux(written.illegal, HwErrorCode.ILLEGAL_INSTRUCTION, HwErrorCode.OPERAND_RANGE)
            ),
        ]
