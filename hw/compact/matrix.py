"""The array of a compact core with its sequencer and accumulators: executes MATMUL.

All four rows work in the same cycle, in DSP blocks of two multipliers each. With a vector requested in cycle
t, its bytes and (for the first of a tile) the weights are registered in t + 1, multiplied and summed in t +
2, and added to the accumulators in t + 3.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith.hw.compact.memory import ReadPort
from systolith.hw.compact.operands import UnitSignature, capture, operand
from systolith.hw.interfaces import AccTraceSignature, HwErrorCode
from systolith.hw.leaf.ice40 import PairMultiplier
from systolith.spec import timing
from systolith.spec.arch import ArchConfig
from systolith.spec.numerics import ACC

__all__ = ["AccPort", "CompactMatrix"]


class AccPort(wiring.Signature):
    """OUTPUT reading accumulators: granted in the cycle of `valid`, `data` for one cycle, ``LATENCY``
    cycles later.

    `release` pulses when one more final entry has been written.
    """

    LATENCY = timing.COMPACT_ACC_READ

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "addr": Out(range(arch.acc_depth)),
                "data": In(ACC.width * arch.cols),
                "release": In(1),
            }
        )


class CompactMatrix(wiring.Component):
    """Sequencer, weights, multipliers, accumulators.

    Members
    -------
    unit : In(UnitSignature)
    act : Out(ReadPort)            the vectors, and
    vector : In(32)                what comes of them
    acc : In(AccPort)              OUTPUT's reads; no vector is requested in such a cycle
    weights : In                   a beat that LOAD writes: ``valid``, ``beat``, ``data``
    sums : Out(AccTraceSignature)  each write to the accumulators, for a checker

    Timing
    ------
    One vector per cycle where the activation SRAM grants it, `timing.COMPACT_TILE` cycles between tiles.
    `done` comes with the last write.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        super().__init__(
            {
                "unit": In(UnitSignature(arch)),
                "act": Out(ReadPort(arch)),
                "vector": In(32),
                "acc": In(AccPort(arch)),
                "weights": In(
                    wiring.Signature(
                        {"valid": Out(1), "beat": Out(range(arch.weight_bytes // 4)), "data": Out(32)}
                    )
                ),
                "sums": Out(AccTraceSignature(arch)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        arch = self._arch
        self._tag = data.StructLayout(
            {"write": 1, "accumulate": 1, "release": 1, "last": 1, "first": 1, "acc": range(arch.acc_depth)}
        )
        tag, read_weights, tile, inside, pad = self._sequence(m)
        taken = Signal(self._tag)
        vector = Signal(32)
        within = Signal(4, reset_less=True)
        m.d.sync += [taken.eq(tag), within.eq(inside)]
        for lane in range(4):
            m.d.comb += vector[8 * lane : 8 * lane + 8].eq(
                Mux(within[lane], self.vector[8 * lane : 8 * lane + 8], pad)
            )
        sums = self._multiply(m, vector, taken.first, read_weights, tile)
        summed = Signal(self._tag)
        m.d.sync += summed.eq(taken)
        self._accumulate(m, summed, sums)
        return m

    # -- sequencer
    # -----------------------------------------------------------------------------------------------
    def _sequence(self, m: Module):
        """Walks the nest; returns the tag of the vector at hand, the read of a weight tile, which bytes lie
        in the window, padding."""
        arch, unit = self._arch, self.unit
        names = (
            "height",
            "row_bytes",
            "pad",
            "ky",
            "ky_addr",
            "ky_y",
            "kx",
            "kx_x",
            "kt",
            "oy",
            "oy_addr",
            "oy_y",
            "ox",
            "ox_x",
            "acc",
            "accumulate",
            "final",
            "x0",
        )
        o = {name: operand(arch, "MATMUL", name) for name in names}
        # These step from where the operand starts.
        ky_base = operand(arch, "MATMUL", "base")
        ky_y = operand(arch, "MATMUL", "y0")
        tile = Signal(len(operand(arch, "MATMUL", "tile")) + 1, reset_less=True)
        capture(m, arch, unit, "MATMUL", {**o, "base": ky_base, "y0": ky_y, "tile": tile})
        loops = {
            name: Signal.like(o[name], name=f"at_{name}", reset_less=True)
            for name in ("ox", "oy", "kt", "kx", "ky")
        }
        last = {name: Signal(name=f"last_{name}") for name in loops}
        m.d.comb += [last[name].eq(loop == o[name]) for name, loop in loops.items()]
        x_bits = len(o["x0"])
        # x counts from x0: of the kernel column, of the tile, of the vector.
        kx_at, tile_at, at = (
            Signal(x_bits, name=name, reset_less=True) for name in ("kx_at", "tile_at", "at")
        )
        row_base = Signal.like(ky_base, name="row_base", reset_less=True)
        y = Signal.like(ky_y, name="y", reset_less=True)
        index = Signal(range(2 * arch.acc_depth), reset_less=True)
        first_tile, first = Signal(reset_less=True), Signal(reset_less=True)
        tag = Signal(self._tag)
        go, last_vector, last_tile, past = Signal(), Signal(), Signal(), Signal()
        read_weights = Signal()
        m.d.comb += [
            tile_at.eq(kx_at + (loops["kt"] << 2)),
            self.act.addr.eq(row_base + at),
            past.eq(index[-1]),
            last_vector.eq(last["ox"] & last["oy"]),
            last_tile.eq(last["kt"] & last["kx"] & last["ky"]),
            tag.acc.eq(Mux(self.acc.valid, self.acc.addr, index)),
            tag.write.eq(go),
            tag.first.eq(go & first),
            tag.accumulate.eq(~go | o["accumulate"] | ~first_tile),
            tag.release.eq(go & last_tile & o["final"]),
            tag.last.eq(go & last_vector & last_tile),
            unit.error_code.eq(HwErrorCode.OPERAND_RANGE),
        ]
        with m.FSM(name="nest") as fsm:
            m.d.comb += [
                self.act.valid.eq(fsm.ongoing("VECTORS") & ~self.acc.valid & ~past),
                go.eq(self.act.valid & self.act.ready),
                read_weights.eq(fsm.ongoing("TILE")),
            ]
            with m.State("IDLE"):
                with m.If(unit.begin):
                    m.d.sync += [loop.eq(0) for loop in loops.values()]
                    m.d.sync += [kx_at.eq(0), first_tile.eq(1)]
                    m.next = "TILE"
            with m.State("TILE"):
                m.d.sync += [
                    at.eq(tile_at),
                    row_base.eq(ky_base),
                    y.eq(ky_y),
                    index.eq(o["acc"]),
                    first.eq(1),
                    tile.eq(tile + 1),
                ]
                m.next = "VECTORS"
                with m.If(tile[-1]):
                    m.d.comb += unit.error.eq(1)
                    m.next = "DEAD"
            with m.State("VECTORS"):
                with m.If(past):
                    m.d.comb += unit.error.eq(1)
                    m.next = "DEAD"
                with m.Elif(go):
                    m.d.sync += [first.eq(0), index.eq(index + 1)]
                    with m.If(~last["ox"]):
                        m.d.sync += [loops["ox"].eq(loops["ox"] + 1), at.eq(at + o["ox_x"])]
                    with m.Else():
                        m.d.sync += [
                            loops["ox"].eq(0),
                            loops["oy"].eq(loops["oy"] + 1),
                            at.eq(tile_at),
                            row_base.eq(row_base + o["oy_addr"]),
                            y.eq(y + o["oy_y"]),
                        ]
                        with m.If(last["oy"]):
                            m.d.sync += loops["oy"].eq(0)
                            m.next = "NEXT"
            with m.State("NEXT"):
                m.next = "TILE"
                m.d.sync += [first_tile.eq(0), loops["kt"].eq(loops["kt"] + 1)]
                with m.If(last["kt"]):
                    m.d.sync += [
                        loops["kt"].eq(0),
                        loops["kx"].eq(loops["kx"] + 1),
                        kx_at.eq(kx_at + o["kx_x"]),
                    ]
                    with m.If(last["kx"]):
                        m.d.sync += [
                            loops["kx"].eq(0),
                            kx_at.eq(0),
                            loops["ky"].eq(loops["ky"] + 1),
                            ky_base.eq(ky_base + o["ky_addr"]),
                            ky_y.eq(ky_y + o["ky_y"]),
                        ]
                        with m.If(last["ky"]):
                            m.next = "IDLE"
            with m.State("DEAD"):
                pass
        inside = self._inside(m, y, at, o)
        return tag, read_weights, tile, inside, o["pad"]

    def _inside(self, m: Module, y, at, o) -> Signal:
        """Which bytes of a vector lie in the window."""
        bits = len(o["x0"])
        x, rest = Signal(signed(bits)), Signal(bits + 1)
        row = Signal()
        inside = Signal(4)
        m.d.comb += [
            x.eq(o["x0"] + at),
            rest.eq(o["row_bytes"] - 1 - x),
            row.eq(~y[-1] & (y.as_unsigned() < o["height"])),
        ]
        # Byte j is inside where x + j >= 0 and row_bytes - 1 - x >= j.
        near = x[2:].all()
        far = rest[2:-1].any()
        for j in range(4):
            after = ~x[-1] | (near & (x[:2] + j >= 4)) if j else ~x[-1]
            before = ~rest[-1] & (far | (rest[:2] >= j))
            m.d.comb += inside[j].eq(row & after & before)
        return inside

    # -- array
    # ---------------------------------------------------------------------------------------------------
    def _multiply(self, m: Module, vector, take, read_weights, tile) -> list[Signal]:
        """Four sums of four products, registered, two cycles after the vector's request."""
        arch = self._arch
        rows = []
        for r in range(4):
            memory = Memory(shape=data.ArrayLayout(8, 4), depth=arch.weight_tiles, init=[])
            m.submodules[f"weights{r}"] = memory
            read, write = memory.read_port(), memory.write_port()
            # Read ahead of the tile's first vector, the words stand until it takes them.
            m.d.comb += [
                read.en.eq(read_weights),
                read.addr.eq(tile),
                write.addr.eq(self.weights.beat[2:]),
                write.data.eq(self.weights.data),
                write.en.eq(self.weights.valid & (self.weights.beat[:2] == r)),
            ]
            rows.append(read.data)
        sums = []
        for c in range(4):
            pairs = []
            for p in range(2):
                # One DSP block short: OUTPUT has it.
                pair = PairMultiplier(logic=(c, p) == (3, 1))
                m.submodules[f"pair{c}_{p}"] = pair
                m.d.comb += [
                    pair.a.eq(vector[16 * p : 16 * p + 16]),
                    pair.b.eq(Cat(rows[2 * p][c], rows[2 * p + 1][c])),
                    pair.take.eq(take),
                ]
                pairs.append(pair.o)
            total = Signal(signed(18), name=f"sum{c}", reset_less=True)
            m.d.sync += total.eq(pairs[0] + pairs[1])
            sums.append(total)
        return sums

    # -- accumulators
    # --------------------------------------------------------------------------------------------
    def _accumulate(self, m: Module, tag, sums: list[Signal]) -> None:
        """Read in the cycle of `tag`, add and write in the next."""
        arch = self._arch
        width = ACC.width
        # The upper half is never written, and block RAM is zero after configuration: what does not accumulate
        # adds to a zero from there.
        m.submodules.acc_memory = memory = Memory(shape=width * arch.cols, depth=2 * arch.acc_depth, init=[])
        read, write = memory.read_port(), memory.write_port()
        now = Signal(self._tag)
        m.d.sync += now.eq(tag)
        total = Signal(width * arch.cols)
        for c, value in enumerate(sums):
            m.d.comb += total[width * c : width * c + width].eq(
                read.data[width * c : width * c + width].as_signed() + value
            )
        m.d.comb += [
            read.en.eq(1),
            read.addr.eq(Cat(tag.acc, ~tag.accumulate)),
            write.addr.eq(Cat(now.acc, Const(0, 1))),
            write.data.eq(total),
            write.en.eq(now.write),
            self.acc.data.eq(read.data),
            self.acc.release.eq(now.release),
            self.unit.done.eq(now.last),
            self.sums.valid.eq(now.write),
            self.sums.addr.eq(now.acc),
            self.sums.data.eq(total),
        ]
