"""The core: engines and memories, fed by fetch, decode and the sequencer, behind an AXI4 manager and
AXI4-Lite CSRs."""

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systolith.hw.core.decode import Decode
from systolith.hw.core.fetch import Fetch
from systolith.hw.core.run_state import RunState
from systolith.hw.core.scratchpad import Scratchpad
from systolith.hw.core.sequencer import Sequencer
from systolith.hw.core.trace import TraceSignature
from systolith.hw.engine.load import LoadEngine
from systolith.hw.engine.matrix import MatrixEngine
from systolith.hw.engine.output import OutputEngine
from systolith.hw.engine.store import StoreEngine
from systolith.hw.engine.vector import VectorEngine
from systolith.hw.interfaces import AccReadSignature, HwErrorCode, chain_layout
from systolith.hw.leaf.beat_memory import ParamMemory, WeightMemory
from systolith.hw.leaf.stream_register import StreamRegister
from systolith.hw.leaf.twins import register_twins
from systolith.hw.soc.axi import Axi4LiteSignature, Axi4Signature, ReadArbiter
from systolith.hw.soc.csr import CSR_ADDR_BITS, CsrBlock
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Engine
from systolith.spec.regs import Status

__all__ = ["Core"]


class Core(wiring.Component):
    """One complete core.

    Members
    -------
    axi : Out(Axi4Signature)      manager
    csr : In(Axi4LiteSignature)   control and status, see `spec.regs`
    trace : Out(TraceSignature)   for simulation; leave open in a build

    Timing
    ------
    One clock. START is followed by two cycles of reset and begin. On-chip memories keep their contents over
    streams and resets.
    """

    def __init__(self, arch: ArchConfig) -> None:
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
        self._wipe = wipe = Signal()
        self._state = Signal(RunState)
        self._stop = Signal()
        self._halted = Signal()

        # High fan-out: every block but FETCH gets a registered copy one cycle later; the array gets its own.
        array_wipe, late_wipe = register_twins(m, wipe, "wipe")

        def add(name: str, component, reset: Signal = late_wipe):
            # Components are used through the original; the wrapped one is what is elaborated.
            m.submodules[name] = ResetInserter(reset)(component)
            return component

        m.submodules.csrs = self._csrs = CsrBlock(arch)
        self._arbiter = add("arbiter", ReadArbiter(arch, 2))
        self._fetch = add("fetch", Fetch(arch), wipe)
        self._decode = add("decode", Decode(arch))
        self._sequencer = add("sequencer", Sequencer(arch))
        self._load = add("load", LoadEngine(arch))
        self._store = add("store", StoreEngine(arch))
        self._matrix = add("matrix", MatrixEngine(arch), array_wipe)
        self._output = add("output", OutputEngine(arch))
        self._vector = add("vector", VectorEngine(arch))
        self._chain = add("chain", StreamRegister(chain_layout(arch)))
        self._scratchpad = add("scratchpad", Scratchpad(arch), array_wipe)
        self._weights = add("weights", WeightMemory(arch), array_wipe)
        self._params = add("params", ParamMemory(arch), array_wipe)
        self._connect(m)
        self._connect_bus(m)
        self._dispatch(m)
        self._control(m)
        self._trace(m)
        return m

    def _connect(self, m: Module) -> None:
        """Engines to sequencer and memories."""
        pad, load = self._scratchpad, self._load
        for engine, unit in (
            (Engine.LOAD, load),
            (Engine.STORE, self._store),
            (Engine.MATRIX, self._matrix),
            (Engine.OUTPUT, self._output),
            (Engine.VECTOR, self._vector),
        ):
            wiring.connect(m, getattr(self._sequencer, engine.name.lower()), unit.engine)
        wiring.connect(m, self._matrix.act, pad.matrix_read)
        wiring.connect(m, self._vector.read, pad.vector_read)
        wiring.connect(m, self._store.read, pad.store_read)
        wiring.connect(m, self._output.act, pad.output_write)
        wiring.connect(m, self._vector.write, pad.vector_write)
        wiring.connect(m, load.act, pad.load_write)
        wiring.connect(m, load.weights, self._weights.write)
        wiring.connect(m, self._matrix.weights, self._weights.read)
        wiring.connect(m, load.params, self._params.write)
        wiring.connect(m, self._output.params, self._params.read)
        wiring.connect(m, self._output.acc, self._matrix.acc)
        wiring.connect(m, self._output.chain, self._chain.i)
        wiring.connect(m, self._chain.o, self._vector.chain)
        # Output stage and vector unit each hold a copy of the tables. Both take a beat in the same cycles, so
        # they see the same `valid`: one that depended on `ready` would keep them from ever starting.
        tables = load.tables
        copies = (self._output.table_write, self._vector.table_write)
        ready = Signal()
        m.d.comb += [ready.eq(copies[0].ready & copies[1].ready), tables.ready.eq(ready)]
        for copy in copies:
            m.d.comb += [copy.valid.eq(tables.valid), copy.beat.eq(tables.beat), copy.data.eq(tables.data)]

    def _connect_bus(self, m: Module) -> None:
        """AXI4 to arbiter and STORE; regions from the CSRs."""
        arch, axi, settings = self._arch, self.axi, self._csrs.settings
        wiring.connect(m, self._fetch.bus, self._arbiter.clients[0])
        wiring.connect(m, self._load.bus, self._arbiter.clients[1])
        size = (arch.bus_bytes - 1).bit_length()
        reads, writes = self._arbiter, self._store.bus
        m.d.comb += [
            axi.arvalid.eq(reads.bursts.valid),
            reads.bursts.ready.eq(axi.arready),
            axi.araddr.eq(reads.bursts.payload.addr),
            axi.arlen.eq(reads.bursts.payload.len),
            axi.arsize.eq(size),
            axi.arburst.eq(1),
            axi.arcache.eq(3),
            reads.beats.valid.eq(axi.rvalid),
            axi.rready.eq(reads.beats.ready),
            reads.beats.payload.data.eq(axi.rdata),
            reads.beats.payload.error.eq(axi.rresp[1]),
            reads.beats.payload.last.eq(axi.rlast),
            axi.awvalid.eq(writes.bursts.valid),
            writes.bursts.ready.eq(axi.awready),
            axi.awaddr.eq(writes.bursts.payload.addr),
            axi.awlen.eq(writes.bursts.payload.len),
            axi.awsize.eq(size),
            axi.awburst.eq(1),
            axi.awcache.eq(3),
            axi.wvalid.eq(writes.beats.valid),
            writes.beats.ready.eq(axi.wready),
            axi.wdata.eq(writes.beats.payload.data),
            axi.wstrb.eq(writes.beats.payload.strobe),
            axi.wlast.eq(writes.beats.payload.last),
            axi.bready.eq(1),
            writes.response.eq(axi.bvalid),
            writes.error.eq(axi.bresp[1]),
        ]
        program = Cat(settings.program_lo, settings.program_hi)
        window = Cat(settings.data_lo, settings.data_hi)
        for unit in (self._load, self._store):
            m.d.comb += [
                unit.regions.program.base.eq(program),
                unit.regions.program.size.eq(settings.program_size),
                unit.regions.data.base.eq(window),
                unit.regions.data.size.eq(settings.data_size),
            ]
        m.d.comb += [
            self._fetch.entry.eq(settings.entry),
            self._fetch.base.eq(program),
            self._fetch.size.eq(settings.program_size),
        ]
        wiring.connect(m, wiring.flipped(self.csr), self._csrs.bus)

    def _dispatch(self, m: Module) -> None:
        """Fetch to decode to the queues; sets `_halted` behind HALT."""
        fetched, decode, sequencer = self._fetch.o, self._decode, self._sequencer
        self._bad = bad = Signal()
        self._skipped = skipped = Signal()
        # The instruction that is dispatched, in registers. In its first cycle there its checks come together
        # and become its fate; in the second it goes, and the next one comes.
        self._word_valid = valid = Signal()
        self._word = word = Signal(
            data.StructLayout(
                {
                    "offset": 32,
                    "error": HwErrorCode,
                    "format": decode.format.shape(),
                    "legal": decode.legal.shape(),
                    "halt": 1,
                    "engine": len(Engine),
                    "wait": len(Engine),
                    "signal": len(Engine),
                    "commands": decode.commands.shape(),
                }
            )
        )
        wrong, skip, halt = Signal(), Signal(), Signal()
        queued = Signal(len(Engine))
        good, go = Signal(), Signal()
        moves = Signal(init=1)  # there is none, or it goes
        queues = [getattr(sequencer, f"dispatch_{engine.name.lower()}") for engine in Engine]
        free = Cat(queue.ready for queue in queues)
        m.d.comb += [
            decode.word.eq(fetched.payload.word),
            fetched.ready.eq(moves),
            go.eq(~self._halted & ~self._stop),
            good.eq((word.format & word.legal).any() & (word.error == HwErrorCode.NONE)),
            bad.eq(wrong),
            skipped.eq(skip),
            self._fetch.halt.eq(self._halted | self._stop),
        ]
        with m.If(moves):
            m.d.sync += [
                valid.eq(fetched.valid),
                moves.eq(~fetched.valid),
                wrong.eq(0),
                skip.eq(0),
                halt.eq(0),
                queued.eq(0),
                word.offset.eq(fetched.payload.offset),
                word.error.eq(fetched.payload.error),
                word.format.eq(decode.format),
                word.legal.eq(decode.legal),
                word.halt.eq(decode.halt),
                word.engine.eq(decode.engine),
                word.wait.eq(decode.wait),
                word.signal.eq(decode.signal),
                word.commands.eq(decode.commands),
            ]
        with m.Else():
            # Nothing else fills the queues, so a place that is free stays free. What goes in the cycle in
            # which a stop comes does no harm.
            m.d.sync += [
                wrong.eq(~good & go),
                skip.eq(good & go & (word.engine == 0)),
                halt.eq(good & go & word.halt),
                queued.eq(Mux(good & go, word.engine & free, 0)),
                moves.eq(good & ((word.engine == 0) | (word.engine & free).any())),
            ]
        with m.If(self._wipe):
            m.d.sync += [valid.eq(0), moves.eq(1), wrong.eq(0), skip.eq(0), halt.eq(0), queued.eq(0)]
        with m.If(halt):
            m.d.sync += self._halted.eq(1)
        for engine, queue in zip(Engine, queues, strict=True):
            m.d.comb += [
                queue.valid.eq(queued[engine]),
                queue.payload.offset.eq(word.offset),
                queue.payload.wait.eq(word.wait),
                queue.payload.signal.eq(word.signal),
                queue.payload.command.eq(word.commands[engine.name.lower()]),
            ]

    def _control(self, m: Module) -> None:
        """Start, stop, errors, watchdog, counters."""
        csrs, sequencer, state = self._csrs, self._sequencer, self._state
        values = csrs.values
        # Registered one cycle late, which is safe: once true, these stay true until the next START.
        finished, drained = Signal(), Signal()
        quiet, stopped = Signal(), Signal()
        running = Signal()
        starts = Signal()
        done = Signal()
        error_code = Signal(HwErrorCode)
        error_offset = Signal(32)
        fault = Signal()
        self._expired = Signal()
        m.d.comb += [
            running.eq((state == RunState.CLEAR) | (state == RunState.BEGIN) | (state == RunState.RUN)),
            sequencer.stop.eq(self._stop),
            self._fetch.start.eq(state == RunState.BEGIN),
            csrs.running.eq(state != RunState.IDLE),
            fault.eq((state == RunState.RUN) & (sequencer.error | self._bad | self._expired)),
            values.status.eq(
                Mux(running, Status.RUNNING.value, 0)
                | Mux(done, Status.DONE.value, 0)
                | Mux(error_code != HwErrorCode.NONE, Status.ERROR.value, 0)
                | Mux(
                    (state == RunState.FAIL) | (state == RunState.ABORT) | (state == RunState.WIPE),
                    Status.DRAINING.value,
                    0,
                )
            ),
            values.error_code.eq(error_code),
            values.error_addr.eq(error_offset),
            starts.eq(csrs.start & (state == RunState.IDLE)),
        ]
        m.d.sync += [
            finished.eq(self._halted & sequencer.empty & self._fetch.idle),
            quiet.eq(sequencer.idle & self._fetch.idle & ~self.axi.arvalid),
            stopped.eq(self._stop),
            drained.eq(quiet & stopped & self._stop),
        ]
        # A cycle late, so that no path begins in the state; what begins meanwhile is waited for.
        m.d.sync += self._stop.eq(
            (state == RunState.FAIL)
            | (state == RunState.ABORT)
            | ((state == RunState.IDLE) & (error_code != HwErrorCode.NONE))
        )
        # It reaches almost every register, so it is one itself: 1 in CLEAR and in WIPE.
        m.d.sync += self._wipe.eq(0)
        with m.Switch(state):
            with m.Case(RunState.IDLE):
                with m.If(starts):
                    m.d.sync += [
                        state.eq(RunState.CLEAR),
                        self._wipe.eq(1),
                        done.eq(0),
                        error_code.eq(HwErrorCode.NONE),
                        error_offset.eq(0),
                    ]
            with m.Case(RunState.CLEAR):
                m.d.sync += [state.eq(RunState.BEGIN), self._halted.eq(0)]
            with m.Case(RunState.BEGIN):
                m.d.sync += state.eq(RunState.RUN)
            with m.Case(RunState.RUN):
                with m.If(fault):
                    m.d.sync += state.eq(RunState.FAIL)
                    with m.If(sequencer.error):
                        m.d.sync += [
                            error_code.eq(sequencer.error_code),
                            error_offset.eq(sequencer.error_offset),
                        ]
                    with m.Elif(self._bad):
                        m.d.sync += [
                            error_code.eq(
                                Mux(
                                    self._word.error == HwErrorCode.NONE,
                                    HwErrorCode.ILLEGAL_INSTRUCTION.value,
                                    self._word.error,
                                )
                            ),
                            error_offset.eq(self._word.offset),
                        ]
                    with m.Else():
                        m.d.sync += [
                            error_code.eq(HwErrorCode.WATCHDOG),
                            error_offset.eq(
                                Mux(
                                    ~sequencer.empty,
                                    sequencer.oldest,
                                    Mux(self._word_valid, self._word.offset, self._fetch.o.payload.offset),
                                )
                            ),
                        ]
                with m.Elif(finished):
                    m.d.sync += [state.eq(RunState.IDLE), done.eq(1)]
            with m.Case(RunState.FAIL):
                with m.If(drained):
                    m.d.sync += state.eq(RunState.IDLE)
            with m.Case(RunState.ABORT):
                with m.If(drained):
                    m.d.sync += [state.eq(RunState.WIPE), self._wipe.eq(1)]
            with m.Case(RunState.WIPE):
                m.d.sync += [state.eq(RunState.IDLE), self._halted.eq(0)]
        with m.If(csrs.reset):
            m.d.sync += [
                state.eq(RunState.ABORT),
                self._wipe.eq(0),
                done.eq(0),
                error_code.eq(HwErrorCode.NONE),
                error_offset.eq(0),
            ]
        self._count(m, starts, running)

    def _count(self, m: Module, starts: Signal, running: Signal) -> None:
        """Performance counters and the watchdog."""
        axi, values, settings, sequencer = self.axi, self._csrs.values, self._csrs.settings, self._sequencer
        read_beat, write_beat = axi.rvalid & axi.rready, axi.wvalid & axi.wready
        since = Signal(32)
        pad = self._scratchpad
        ports = (
            pad.matrix_read,
            pad.vector_read,
            pad.store_read,
            pad.output_write,
            pad.vector_write,
            pad.load_write,
            self._output.acc,
            self._load.weights,
            self._load.params,
            self._load.tables,
        )
        moves = Cat(
            sequencer.done,
            read_beat,
            write_beat,
            axi.bvalid & axi.bready,
            self._skipped,
            *(port.valid & port.ready for port in ports),
        )
        moved = Signal(len(moves))
        alive = Signal()
        m.d.sync += [
            moved.eq(moves),
            alive.eq(moved.any() | ~running),
            since.eq(Mux(alive, 0, since + 1)),
            self._expired.eq((settings.watchdog != 0) & (since >= settings.watchdog) & running),
        ]
        cycles = Cat(values.cycles_lo, values.cycles_hi)
        total = Signal(64)
        m.d.comb += cycles.eq(total)

        def counter(name: str, step: Value) -> None:
            # Steps come from all over the core, so they are counted one cycle late.
            count = Signal(32, name=name)
            late = Signal(len(step), name=f"{name}_step")
            m.d.comb += values[name].eq(count)
            m.d.sync += late.eq(step)
            with m.If(starts):
                m.d.sync += count.eq(0)
            with m.Else():
                m.d.sync += count.eq(count + late)

        with m.If(starts):
            m.d.sync += total.eq(0)
        with m.Else():
            m.d.sync += total.eq(total + running)
        retired = Signal(range(len(Engine) + 2))
        m.d.comb += retired.eq(sum((bit for bit in sequencer.done), self._skipped))
        # As late as the masks.
        late_running = Signal()
        m.d.sync += late_running.eq(running)
        counter("instructions", Mux(running, retired, 0))
        counter("read_beats", read_beat)
        counter("write_beats", write_beat)
        for engine in Engine:
            name = engine.name.lower()
            counter(f"{name}_busy", sequencer.busy[engine] & late_running)
            counter(f"{name}_wait", sequencer.waiting[engine] & late_running)
            counter(f"{name}_stall", sequencer.stall[engine] & late_running)

    def _trace(self, m: Module) -> None:
        """Copies of what takes effect, for a checker."""
        trace, pad, acc = self.trace, self._scratchpad, self._output.acc
        for target, port in (
            (trace.load, pad.load_write),
            (trace.output, pad.output_write),
            (trace.vector, pad.vector_write),
        ):
            m.d.comb += [
                target.valid.eq(port.valid & port.ready),
                target.addr.eq(port.addr),
                target.mask.eq(port.mask),
                target.data.eq(port.data.as_value()),
            ]
        for target, port in (
            (trace.weight, self._load.weights),
            (trace.param, self._load.params),
            (trace.table, self._load.tables),
        ):
            m.d.comb += [
                target.valid.eq(port.valid & port.ready),
                target.addr.eq(port.beat),
                target.data.eq(port.data),
            ]
        chain = self._output.chain
        m.d.comb += [
            trace.chain.valid.eq(chain.valid & chain.ready),
            trace.chain.data.eq(chain.payload.as_value()),
        ]
        wiring.connect(m, self._matrix.sums, wiring.flipped(trace.sums))
        valid, addr = acc.valid & acc.ready, acc.addr
        for step in range(AccReadSignature.LATENCY):
            late_valid, late_addr = (
                Signal(name=f"acc_valid{step}"),
                Signal.like(acc.addr, name=f"acc_addr{step}", reset_less=True),
            )
            m.d.sync += [late_valid.eq(valid), late_addr.eq(addr)]
            valid, addr = late_valid, late_addr
        m.d.comb += [
            trace.acc.valid.eq(valid),
            trace.acc.addr.eq(addr),
            trace.acc.data.eq(acc.data.as_value()),
        ]
        for engine in Engine:
            m.d.comb += getattr(trace.done, engine.name.lower()).eq(
                getattr(self._sequencer, engine.name.lower()).done
            )
