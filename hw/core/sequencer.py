"""Sequencer: per-engine queues, semaphores, and the instructions that are issued but not done."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from systolith.hw.interfaces import EngineSignature, HwErrorCode, command_layout
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Engine, semaphore_bits

__all__ = ["IN_FLIGHT", "Sequencer", "entry_layout"]

#: Instructions of one engine that are issued but not done, at most.
IN_FLIGHT = 16


def entry_layout(arch: ArchConfig, engine: Engine) -> data.StructLayout:
    """One queued instruction: offset in the PROGRAM region, token masks, and the command."""
    return data.StructLayout({"offset": 32, "wait": len(Engine), "signal": len(Engine),
                              "command": command_layout(arch, engine)})


class Sequencer(wiring.Component):
    """Holds back each engine's instructions until their tokens are there, and gives tokens when they are done.

    Members (engine names in lower case; masks have one bit per engine)
    -------
    dispatch_<engine> : In(stream)        instructions in order
    <engine> : Out(EngineSignature)
    stop : In(1)                          issue nothing more; passed on to the engines
    error, error_code, error_offset : Out the first error in engine order, in the cycle it happens
    empty : Out(1)                        all queues are empty and every issued instruction is done
    idle : Out(1)                         no engine has a bus transaction under way
    done, busy, waiting, stall : Out      masks: done now, executing, held back by a token, executing but held up
    oldest : Out(32)                      lowest offset of those issued or queued, all ones without; one cycle late

    Timing
    ------
    Two cycles from dispatch to issue in an idle engine; one instruction per cycle and engine. A token given in one
    cycle can be taken in the next.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        mask = len(Engine)
        super().__init__({
            **{f"dispatch_{e.name.lower()}": In(stream.Signature(entry_layout(arch, e))) for e in Engine},
            **{e.name.lower(): Out(EngineSignature(arch, e)) for e in Engine},
            "stop": In(1), "error": Out(1), "error_code": Out(HwErrorCode), "error_offset": Out(32), "empty": Out(1),
            "idle": Out(1), "done": Out(mask), "busy": Out(mask), "waiting": Out(mask), "stall": Out(mask), "oldest": Out(32),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        bits = semaphore_bits(self._arch)
        counts = {(giver, taker): Signal(bits, name=f"tokens_{giver.name.lower()}_{taker.name.lower()}")
                  for giver in Engine for taker in Engine}
        takes = {engine: Signal(len(Engine), name=f"takes_{engine.name.lower()}") for engine in Engine}
        gives = {engine: Signal(len(Engine), name=f"gives_{engine.name.lower()}") for engine in Engine}
        offsets = {}
        empties = []
        candidates = []
        for engine in Engine:
            present = Cat(counts[giver, engine] != 0 for giver in Engine)
            offsets[engine], empty, oldest = self._sequence(m, engine, present, takes[engine], gives[engine])
            empties.append(empty)
            candidates.append(oldest)
        overflow = {engine: Signal(name=f"overflow_{engine.name.lower()}") for engine in Engine}
        for (giver, taker), count in counts.items():
            give, take = gives[giver][taker], takes[taker][giver]
            m.d.sync += count.eq(count + give - take)
            with m.If(give & ~take & (count == (1 << bits) - 1)):
                m.d.comb += overflow[giver].eq(1)
        m.d.comb += [self.empty.eq(Cat(empties).all()),
                     self.idle.eq(Cat(getattr(self, e.name.lower()).idle for e in Engine).all())]
        while len(candidates) > 1:
            first, second, *candidates = candidates
            candidates.append(Mux(first < second, first, second))
        m.d.sync += self.oldest.eq(candidates[0])
        # The last assignment wins, so the first engine comes last.
        for engine in reversed(Engine):
            port = getattr(self, engine.name.lower())
            with m.If(port.error | overflow[engine]):
                m.d.comb += [self.error.eq(1), self.error_offset.eq(offsets[engine]),
                             self.error_code.eq(HwErrorCode.SEMAPHORE)]
                with m.If(port.error):
                    m.d.comb += self.error_code.eq(port.error_code)
        return m

    def _sequence(self, m: Module, engine: Engine, present: Cat, takes: Signal, gives: Signal) -> tuple:
        """Queue and in-flight list of one engine; returns the offset of the oldest issued, 'empty', the oldest offset."""
        name = engine.name.lower()
        port = getattr(self, name)
        dispatch = getattr(self, f"dispatch_{name}")
        layout = entry_layout(self._arch, engine)
        queue = SyncFIFOBuffered(width=layout.size, depth=self._arch.queue_depth)
        m.submodules[f"{name}_queue"] = queue
        issued_layout = data.StructLayout({"offset": 32, "signal": len(Engine)})
        # Readable in the cycle after it is written, when an engine may be done at the earliest.
        flight = SyncFIFO(width=issued_layout.size, depth=IN_FLIGHT)
        m.submodules[f"{name}_flight"] = flight
        entry = Signal(layout, name=f"{name}_entry")
        issued = Signal(issued_layout, name=f"{name}_issued")
        oldest = Signal(issued_layout, name=f"{name}_oldest")
        ready = Signal(name=f"{name}_tokens_ready")
        issue = Signal(name=f"{name}_issue")
        m.d.comb += [
            queue.w_en.eq(dispatch.valid), queue.w_data.eq(dispatch.payload), dispatch.ready.eq(queue.w_rdy),
            entry.eq(queue.r_data), ready.eq((entry.wait & ~present) == 0),
            port.cmd.valid.eq(queue.r_rdy & ready & flight.w_rdy & ~self.stop), port.cmd.payload.eq(entry.command),
            port.stop.eq(self.stop), issue.eq(port.cmd.valid & port.cmd.ready),
            queue.r_en.eq(issue), flight.w_en.eq(issue), issued.offset.eq(entry.offset), issued.signal.eq(entry.signal),
            flight.w_data.eq(issued), oldest.eq(flight.r_data), flight.r_en.eq(port.done),
            takes.eq(Mux(issue, entry.wait, 0)), gives.eq(Mux(port.done, oldest.signal, 0)),
            self.done[engine].eq(port.done), self.busy[engine].eq(flight.r_rdy), self.stall[engine].eq(port.stall & flight.r_rdy),
            self.waiting[engine].eq(queue.r_rdy & ~ready),
        ]
        first = Mux(flight.r_rdy, oldest.offset, Mux(queue.r_rdy, entry.offset, (1 << 32) - 1))
        # `level` counts what the buffered queue has not shown yet.
        return oldest.offset, (queue.level == 0) & ~flight.r_rdy, first
