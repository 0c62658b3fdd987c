"""LOAD and STORE of a compact core: one unit, one burst at a time."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.hw.compact.memory import ReadPort, WordWritePort
from systolith.hw.compact.operands import UnitSignature, capture, operand
from systolith.hw.engine.transfer import RegionSignature
from systolith.hw.interfaces import HwErrorCode
from systolith.hw.soc.axi import ReadSignature, WriteSignature
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Region, Space
from systolith.spec.memory import BURST_BEATS

__all__ = ["CompactTransfer"]


class CompactTransfer(wiring.Component):
    """Executes LOAD and STORE.

    Each row is checked as a whole before it starts: it must lie in its region and in its SRAM, and be in
    whole beats except for the activation SRAM. STORE can only write to DATA.

    Members
    -------
    unit : In(UnitSignature)
    store : In(1)                 the instruction is a STORE
    stop : In(1)                  begin no further burst, write nothing more on chip
    idle : Out(1)                 no burst is under way
    regions : In(RegionSignature) bases are multiples of 16
    reads : Out(ReadSignature), writes : Out(WriteSignature)
    act_write : Out(WordWritePort), act_read : Out(ReadPort), vector : In(32)
    weights, params : Out         ``valid``, ``beat``, ``data``
    written : Out                 each byte written to the activation SRAM, for a checker

    Timing
    ------
    A beat per cycle to weights and parameters, a byte per cycle to the activation SRAM, a beat every four
    cycles or so from there.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch

        def beats(size: int) -> wiring.Signature:
            return wiring.Signature({"valid": Out(1), "beat": Out(range(size // 4)), "data": Out(32)})

        super().__init__(
            {
                "unit": In(UnitSignature(arch)),
                "store": In(1),
                "stop": In(1),
                "idle": Out(1),
                "regions": In(RegionSignature(arch)),
                "reads": Out(ReadSignature(arch)),
                "writes": Out(WriteSignature(arch)),
                "act_write": Out(WordWritePort(arch)),
                "act_read": Out(ReadPort(arch)),
                "vector": In(32),
                "weights": Out(beats(arch.weight_bytes)),
                "params": Out(beats(arch.param_bytes)),
                "written": Out(
                    wiring.Signature({"valid": Out(1), "addr": Out(range(arch.act_bytes)), "data": Out(8)})
                ),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        arch, unit = self._arch, self.unit
        names = ("region", "planes", "rows", "bytes", "ext_plane", "ext_row", "plane", "row", "space")
        self._o = o = {name: operand(arch, "LOAD", name) for name in names}
        offset, sram = operand(arch, "LOAD", "offset"), operand(arch, "LOAD", "base")
        capture(m, arch, unit, "LOAD", {**o, "offset": offset, "base": sram})
        plane_offset, plane_sram = (
            Signal.like(offset, name="plane_offset"),
            Signal.like(sram, name="plane_sram"),
        )
        row = Signal.like(o["rows"], name="at_row")
        self._beat = beat = Signal(arch.addr_bits - 2, reset_less=True)
        self._left = left = Signal(len(o["bytes"]) - 1, reset_less=True)
        self._sram = here = Signal.like(sram, name="here")
        self._first, self._last_lane = Signal(2, reset_less=True), Signal(2, reset_less=True)
        self._begins = Signal(reset_less=True)
        self._count = count = Signal(range(BURST_BEATS))
        self._failed = failed = Signal()
        is_act = o["space"] == Space.ACT
        end = Signal(len(o["bytes"]) + 1)
        error = self._check(m, offset, sram)
        base = Mux(o["region"] == Region.PROGRAM, self.regions.program.base, self.regions.data.base)
        following_offset, following_sram = (
            Signal.like(offset, name="following_offset"),
            Signal.like(sram, name="following_sram"),
        )
        row_ends = Signal()
        m.d.comb += [
            end.eq(offset[:2] + o["bytes"]),
            row_ends.eq(row == o["rows"]),
            count.eq(Mux(left < BURST_BEATS, left, BURST_BEATS - 1)),
            following_offset.eq(
                Mux(row_ends, plane_offset, offset) + Mux(row_ends, o["ext_plane"], o["ext_row"])
            ),
            following_sram.eq(Mux(row_ends, plane_sram, sram) + Mux(row_ends, o["plane"], o["row"])),
            self.reads.bursts.payload.addr.eq(Cat(Const(0, 2), beat)),
            self.reads.bursts.payload.len.eq(count),
            self.writes.bursts.payload.addr.eq(Cat(Const(0, 2), beat)),
            self.writes.bursts.payload.len.eq(count),
        ]
        # A burst ends at a multiple of its longest length, so that it never crosses a page.
        with m.If(~beat[:4] < left):
            m.d.comb += count.eq(~beat[:4])
        with m.FSM(name="transfer") as fsm:
            m.d.comb += [
                self.idle.eq(
                    ~(
                        fsm.ongoing("ADDRESS")
                        | fsm.ongoing("READ")
                        | fsm.ongoing("FETCH")
                        | fsm.ongoing("WRITE")
                        | fsm.ongoing("TAKE")
                        | fsm.ongoing("RESPONSE")
                    )
                )
            ]
            with m.State("IDLE"):
                with m.If(unit.begin):
                    m.d.sync += [plane_offset.eq(offset), plane_sram.eq(sram), row.eq(0)]
                    m.next = "ROW"
            with m.State("ROW"):
                m.d.sync += [
                    beat.eq((base + offset) >> 2),
                    left.eq(end >> 2),
                    here.eq(sram - offset[:2]),
                    self._first.eq(offset[:2]),
                    self._last_lane.eq(end[:2]),
                    self._begins.eq(1),
                ]
                m.next = "BURST"
                with m.If(error != HwErrorCode.NONE):
                    m.d.comb += [unit.error.eq(~self.stop), unit.error_code.eq(error)]
                    m.next = "DEAD"
            with m.State("BURST"):
                m.next = "ADDRESS"
                with m.If(self.stop):
                    m.next = "DEAD"
            with m.State("ADDRESS"):
                m.d.comb += [self.reads.bursts.valid.eq(~self.store), self.writes.bursts.valid.eq(self.store)]
                with m.If(Mux(self.store, self.writes.bursts.ready, self.reads.bursts.ready)):
                    m.next = "READ"
                    with m.If(self.store):
                        m.next = "FETCH"
            self._load(m, is_act)
            self._store(m)
            with m.State("NEXT"):
                m.next = "BURST"
                with m.If(left.all()):
                    # It has counted past the row's last beat.
                    m.d.sync += [offset.eq(following_offset), sram.eq(following_sram), row.eq(row + 1)]
                    m.next = "ROW"
                    with m.If(row_ends):
                        m.d.sync += [
                            row.eq(0),
                            plane_offset.eq(following_offset),
                            plane_sram.eq(following_sram),
                            o["planes"].eq(o["planes"] - 1),
                        ]
                        with m.If(o["planes"] == 0):
                            m.d.comb += unit.done.eq(~failed)
                            m.next = "IDLE"
                with m.If(failed | self.stop):
                    m.next = "DEAD"
            with m.State("DEAD"):
                pass
        return m

    def _check(self, m: Module, offset, sram) -> Signal:
        """The error of the row at hand, NONE if it may be moved."""
        arch, o = self._arch, self._o
        error = Signal(HwErrorCode)
        sram_end = Signal(len(sram) + 1)
        program = o["region"] == Region.PROGRAM
        size = Mux(program, self.regions.program.size, self.regions.data.size)
        limits = Array([arch.act_bytes, arch.weight_bytes, arch.param_bytes, 0])
        space = Mux(self.store, Space.ACT, o["space"])
        m.d.comb += sram_end.eq(sram + o["bytes"])
        with m.If(
            (sram_end >= limits[space])
            | ((space != Space.ACT) & (Cat(offset[:2], sram[:2], ~o["bytes"][:2]).any()))
        ):
            m.d.comb += error.eq(HwErrorCode.OPERAND_RANGE)
        with m.If((offset + o["bytes"] >= size) | (self.store & program)):
            m.d.comb += error.eq(HwErrorCode.REGION)
        return error

    def _step(self, m: Module) -> None:
        """On to the next beat."""
        m.d.sync += [
            self._beat.eq(self._beat + 1),
            self._left.eq(self._left - 1),
            self._sram.eq(self._sram + 4),
            self._begins.eq(0),
        ]

    def _lanes(self, m: Module) -> Signal:
        """The bytes of the beat at hand that belong to the row."""
        mask = Signal(4)
        for lane in range(4):
            m.d.comb += mask[lane].eq(
                (~self._begins | (self._first <= lane)) & ((self._left != 0) | (self._last_lane >= lane))
            )
        return mask

    def _load(self, m: Module, is_act) -> None:
        """State READ: beats to the SRAM that the row names."""
        o, beats, act = self._o, self.reads.beats, self.act_write
        space = o["space"]
        lane = Signal(2)
        at = Signal.like(self._sram)
        byte = Signal(8)
        self._mask = mask = self._lanes(m)
        good, drop = Signal(), Signal()
        m.d.comb += [
            at.eq(self._sram + lane),
            byte.eq(beats.payload.data.word_select(lane, 8)),
            drop.eq(self.stop | self._failed),
            good.eq(beats.valid & ~beats.payload.error & ~drop),
            act.word.eq(at >> 2),
            act.data.eq(byte.replicate(4)),
            act.mask.eq(Const(1, 1) << at[:2]),
        ]
        for target in (self.weights, self.params):
            m.d.comb += [target.beat.eq(self._sram >> 2), target.data.eq(beats.payload.data)]
        with m.State("READ"):
            with m.If(is_act & good):
                wanted = mask.bit_select(lane, 1)
                m.d.comb += [
                    act.valid.eq(wanted),
                    beats.ready.eq((lane == 3) & (act.ready | ~wanted)),
                    self.written.valid.eq(wanted & act.ready),
                    self.written.addr.eq(at),
                    self.written.data.eq(byte),
                ]
                with m.If(act.ready | ~wanted):
                    m.d.sync += lane.eq(lane + 1)
            with m.Else():
                m.d.comb += [
                    beats.ready.eq(1),
                    self.weights.valid.eq(good & (space == Space.WEIGHT)),
                    self.params.valid.eq(good & (space == Space.PARAM)),
                ]
                with m.If(beats.valid):
                    m.d.sync += lane.eq(0)
            with m.If(beats.valid & beats.payload.error & ~drop):
                m.d.comb += [self.unit.error.eq(1), self.unit.error_code.eq(HwErrorCode.BUS_READ)]
                m.d.sync += self._failed.eq(1)
            with m.If(beats.valid & beats.ready):
                self._step(m)
                with m.If(beats.payload.last):
                    m.next = "NEXT"

    def _store(self, m: Module) -> None:
        """States FETCH, TAKE, WRITE and RESPONSE: beats from the activation SRAM to the bus."""
        beats = self.writes.beats
        word = Signal(32, reset_less=True)
        m.d.comb += [
            self.act_read.addr.eq(self._sram),
            beats.payload.data.eq(word),
            beats.payload.strobe.eq(self._mask),
            # As the burst was cut: at a multiple of its longest length, or where the row ends.
            beats.payload.last.eq((self._left == 0) | self._beat[:4].all()),
        ]
        with m.State("FETCH"):
            m.d.comb += self.act_read.valid.eq(1)
            with m.If(self.act_read.ready):
                m.next = "TAKE"
        with m.State("TAKE"):
            m.d.sync += word.eq(self.vector)
            m.next = "WRITE"
        with m.State("WRITE"):
            m.d.comb += beats.valid.eq(1)
            with m.If(beats.ready):
                self._step(m)
                m.next = "FETCH"
                with m.If(beats.payload.last):
                    m.next = "RESPONSE"
        with m.State("RESPONSE"):
            with m.If(self.writes.response):
                m.next = "NEXT"
                with m.If(self.writes.error):
                    m.d.comb += [
                        self.unit.error.eq(~self.stop),
                        self.unit.error_code.eq(HwErrorCode.BUS_WRITE),
                    ]
                    m.d.sync += self._failed.eq(1)
