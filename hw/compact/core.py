"""The compact core: the same instruction set, CSRs and buses as `hw.core`, in about a third of the logic."""

from amaranth.hdl import Module, Mux, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.hw.compact.dispatch import CompactDispatch
from systolith.hw.compact.matrix import CompactMatrix
from systolith.hw.compact.memory import CompactActMemory
from systolith.hw.compact.output import CompactOutput
from systolith.hw.compact.transfer import CompactTransfer
from systolith.hw.core.run_state import RunState
from systolith.hw.core.trace import TraceSignature
from systolith.hw.interfaces import HwErrorCode
from systolith.hw.soc.axi import Axi4LiteSignature, Axi4Signature
from systolith.hw.soc.csr import CSR_ADDR_BITS, CsrBlock
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Engine
from systolith.spec.regs import WATCHDOG_BIT, Status

__all__ = ["CompactCore"]


class CompactCore(wiring.Component):
    """One complete core with ``arch.compact``.

    Members
    -------
    axi : Out(Axi4Signature)      manager
    csr : In(Axi4LiteSignature)   control and status, see `spec.regs`; counters but CYCLES read as zero
    trace : Out(TraceSignature)   for simulation; leave open in a build

    Timing
    ------
    One clock. On-chip memories keep their contents over streams and resets.
    """

    def __init__(self, arch: ArchConfig) -> None:
        if not arch.compact:
            raise ValueError(f"architecture {arch.name!r} is not compact")
        self._arch = arch
        super().__init__(
            {
                "axi": Out(Axi4Signature(arch.bus_bits, arch.addr_bits)),
                "csr": In(Axi4LiteSignature(CSR_ADDR_BITS)),
                "trace": Out(TraceSignature(arch)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        arch = self._arch
        self._wipe, self._stop = Signal(), Signal()
        self._cycles = Signal(32)
        self._state = Signal(RunState)

        def add(name: str, component):
            # Components are used through the original; the wrapped one is what is elaborated.
            m.submodules[name] = ResetInserter(self._wipe)(component)
            return component

        m.submodules.csrs = self._csrs = CsrBlock(arch)
        m.submodules.memory = self._memory = CompactActMemory(arch)
        self._dispatch = add("dispatch", CompactDispatch(arch))
        self._transfer = add("transfer", CompactTransfer(arch))
        self._matrix = add("matrix", CompactMatrix(arch))
        self._output = add("output", CompactOutput(arch))
        self._connect(m)
        self._connect_bus(m)
        self._control(m)
        self._trace(m)
        return m

    def _connect(self, m: Module) -> None:
        dispatch, transfer, matrix, output, memory = (
            self._dispatch,
            self._transfer,
            self._matrix,
            self._output,
            self._memory,
        )
        wiring.connect(m, dispatch.transfer, transfer.unit)
        wiring.connect(m, dispatch.matrix, matrix.unit)
        wiring.connect(m, dispatch.output, output.unit)
        wiring.connect(m, transfer.act_write, memory.load_write)
        wiring.connect(m, transfer.act_read, memory.store_read)
        wiring.connect(m, output.write, memory.output_write)
        wiring.connect(m, matrix.act, memory.matrix_read)
        wiring.connect(m, transfer.weights, matrix.weights)
        wiring.connect(m, transfer.params, output.params)
        wiring.connect(m, output.acc, matrix.acc)
        m.d.comb += [
            matrix.vector.eq(memory.data),
            transfer.vector.eq(memory.data),
            transfer.store.eq(dispatch.store),
            transfer.stop.eq(self._stop),
            dispatch.stop.eq(self._stop),
        ]

    def _connect_bus(self, m: Module) -> None:
        """AXI4, one read at a time; regions from the CSRs."""
        axi, settings, writes = self.axi, self._csrs.settings, self._transfer.writes
        clients = (self._dispatch.bus, self._transfer.reads)
        reading, accepted, owner = Signal(), Signal(), Signal()
        with m.If(~reading):
            m.d.sync += [
                reading.eq(clients[0].bursts.valid | clients[1].bursts.valid),
                owner.eq(~clients[0].bursts.valid),
            ]
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += accepted.eq(1)
        with m.If(axi.rvalid & axi.rready & axi.rlast):
            m.d.sync += [reading.eq(0), accepted.eq(0)]
        m.d.comb += axi.arvalid.eq(reading & ~accepted)
        for index, client in enumerate(clients):
            mine = owner == index
            m.d.comb += [
                client.bursts.ready.eq(axi.arvalid & axi.arready & mine),
                client.beats.valid.eq(axi.rvalid & mine),
                client.beats.payload.data.eq(axi.rdata),
                client.beats.payload.error.eq(axi.rresp[1]),
                client.beats.payload.last.eq(axi.rlast),
            ]
            with m.If(mine):
                m.d.comb += [
                    axi.araddr.eq(client.bursts.payload.addr),
                    axi.arlen.eq(client.bursts.payload.len),
                    axi.rready.eq(client.beats.ready),
                ]
        m.d.comb += [
            axi.arsize.eq(2),
            axi.arburst.eq(1),
            axi.arcache.eq(3),
            axi.awsize.eq(2),
            axi.awburst.eq(1),
            axi.awcache.eq(3),
            axi.awvalid.eq(writes.bursts.valid),
            writes.bursts.ready.eq(axi.awready),
            axi.awaddr.eq(writes.bursts.payload.addr),
            axi.awlen.eq(writes.bursts.payload.len),
            axi.wvalid.eq(writes.beats.valid),
            writes.beats.ready.eq(axi.wready),
            axi.wdata.eq(writes.beats.payload.data),
            axi.wstrb.eq(writes.beats.payload.strobe),
            axi.wlast.eq(writes.beats.payload.last),
            axi.bready.eq(1),
            writes.response.eq(axi.bvalid),
            writes.error.eq(axi.bresp[1]),
        ]
        regions, dispatch = self._transfer.regions, self._dispatch
        m.d.comb += [
            regions.program.base.eq(settings.program_lo),
            regions.program.size.eq(settings.program_size),
            regions.data.base.eq(settings.data_lo),
            regions.data.size.eq(settings.data_size),
            dispatch.entry.eq(settings.entry),
            dispatch.base.eq(settings.program_lo),
            dispatch.size.eq(settings.program_size),
        ]
        wiring.connect(m, wiring.flipped(self.csr), self._csrs.bus)

    def _control(self, m: Module) -> None:
        """Start, stop, errors, watchdog, cycles."""
        axi, csrs, dispatch, state = self.axi, self._csrs, self._dispatch, self._state
        values = csrs.values
        quiet, running, starts, done, expired = Signal(), Signal(), Signal(), Signal(), Signal()
        code = Signal(HwErrorCode)
        at = Signal.like(dispatch.error_offset)
        m.d.comb += [
            quiet.eq(dispatch.idle & self._transfer.idle),
            running.eq((state == RunState.CLEAR) | (state == RunState.BEGIN) | (state == RunState.RUN)),
            self._stop.eq(
                (state == RunState.FAIL)
                | (state == RunState.ABORT)
                | ((state == RunState.IDLE) & (code != HwErrorCode.NONE))
            ),
            self._wipe.eq((state == RunState.CLEAR) | (state == RunState.WIPE)),
            dispatch.start.eq(state == RunState.BEGIN),
            csrs.running.eq(state != RunState.IDLE),
            starts.eq(csrs.start & (state == RunState.IDLE)),
            values.status.eq(
                Mux(running, Status.RUNNING.value, 0)
                | Mux(done, Status.DONE.value, 0)
                | Mux(code != HwErrorCode.NONE, Status.ERROR.value, 0)
                | Mux(
                    (state == RunState.FAIL) | (state == RunState.ABORT) | (state == RunState.WIPE),
                    Status.DRAINING.value,
                    0,
                )
            ),
            values.error_code.eq(code),
            values.error_addr.eq(at),
        ]
        with m.Switch(state):
            with m.Case(RunState.IDLE):
                with m.If(starts):
                    m.d.sync += [state.eq(RunState.CLEAR), done.eq(0), code.eq(HwErrorCode.NONE), at.eq(0)]
            with m.Case(RunState.CLEAR):
                m.d.sync += state.eq(RunState.BEGIN)
            with m.Case(RunState.BEGIN):
                m.d.sync += state.eq(RunState.RUN)
            with m.Case(RunState.RUN):
                with m.If(dispatch.error | expired):
                    m.d.sync += [
                        state.eq(RunState.FAIL),
                        code.eq(Mux(dispatch.error, dispatch.error_code, HwErrorCode.WATCHDOG.value)),
                        at.eq(Mux(dispatch.error, dispatch.error_offset, dispatch.oldest)),
                    ]
                with m.Elif(dispatch.finished & quiet):
                    m.d.sync += [state.eq(RunState.IDLE), done.eq(1)]
            with m.Case(RunState.FAIL):
                with m.If(quiet):
                    m.d.sync += state.eq(RunState.IDLE)
            with m.Case(RunState.ABORT):
                with m.If(quiet):
                    m.d.sync += state.eq(RunState.WIPE)
            with m.Case(RunState.WIPE):
                m.d.sync += state.eq(RunState.IDLE)
        with m.If(csrs.reset):
            m.d.sync += [state.eq(RunState.ABORT), done.eq(0), code.eq(HwErrorCode.NONE), at.eq(0)]
        since = Signal(WATCHDOG_BIT + 1)
        progress = (
            dispatch.moved
            | (axi.rvalid & axi.rready)
            | (axi.wvalid & axi.wready)
            | self._matrix.act.ready & self._matrix.act.valid
            | self._output.acc.valid
        )
        m.d.comb += expired.eq(since[-1] & csrs.settings.watchdog[WATCHDOG_BIT])
        m.d.sync += since.eq(since + 1)
        with m.If(progress | ~running):
            m.d.sync += since.eq(0)
        with m.If(running):
            m.d.sync += self._cycles.eq(self._cycles + 1)
        with m.If(starts):
            m.d.sync += self._cycles.eq(0)
        m.d.comb += values.cycles_lo.eq(self._cycles)

    def _trace(self, m: Module) -> None:
        """Copies of what takes effect, for a checker."""
        trace, transfer, output = self.trace, self._transfer, self._output
        for target, source in ((trace.load, transfer.written), (trace.output, output.result)):
            m.d.comb += [
                target.valid.eq(source.valid),
                target.addr.eq(source.addr),
                target.mask.eq(1),
                target.data.eq(source.data),
            ]
        for target, source in ((trace.weight, transfer.weights), (trace.param, transfer.params)):
            m.d.comb += [
                target.valid.eq(source.valid),
                target.addr.eq(source.beat),
                target.data.eq(source.data),
            ]
        m.d.comb += [
            trace.acc.valid.eq(output.read.valid),
            trace.acc.addr.eq(output.read.addr),
            trace.acc.data.eq(output.read.data),
        ]
        wiring.connect(m, self._matrix.sums, wiring.flipped(trace.sums))
        for engine in Engine:
            m.d.comb += getattr(trace.done, engine.name.lower()).eq(self._dispatch.done[int(engine)])
