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
    error, error_code, error_offset : Out the first error in engine order, three cycles after it happens
    empty : Out(1)                        all queues are empty, every issued instruction is done, and no error is on its way; a cycle late
    idle : Out(1)                         no engine has a bus transaction under way
    done, busy, waiting, stall : Out      masks: done (a cycle late), executing, held back by a token, executing but held up
    oldest : Out(32)                      lowest offset of those issued or queued, all ones without; a few cycles late

    Timing
    ------
    Two cycles from dispatch to issue in an idle engine; one instruction per cycle and engine, one in two cycles if both take
    a token of the same engine. What an engine says of `done` is in a register first: the instruction is done here a cycle later,
    and what waits for its token is issued in the cycle after that.
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
            # A token is there in the next cycle.
            present = Cat(gives[giver][engine] | (counts[giver, engine] > 1) | ((counts[giver, engine] != 0) & ~takes[engine][giver])
                          for giver in Engine)
            offsets[engine], empty, oldest = self._sequence(m, engine, present, takes[engine], gives[engine])
            empties.append(empty)
            candidates.append(oldest)
        errors = {}
        for engine in Engine:
            port, name = getattr(self, engine.name.lower()), engine.name.lower()
            errors[engine] = (Signal(name=f"{name}_error"), Signal(name=f"{name}_overflow"), Signal(32, name=f"{name}_at", reset_less=True),
                              Signal(HwErrorCode, name=f"{name}_code", reset_less=True))
            error, overflow, at, code = errors[engine]
            # As late as `done`, so that the oldest instruction is the one at fault.
            late_error, late_code = Signal(name=f"{name}_late_error"), Signal(HwErrorCode, name=f"{name}_late_code", reset_less=True)
            m.d.sync += [late_error.eq(port.error), late_code.eq(port.error_code), error.eq(late_error), code.eq(late_code),
                         overflow.eq(0), at.eq(offsets[engine])]
        for (giver, taker), count in counts.items():
            give, take = gives[giver][taker], takes[taker][giver]
            m.d.sync += count.eq(count + give - take)
            with m.If(give & ~take & (count == (1 << bits) - 1)):
                m.d.sync += errors[giver][1].eq(1)
        m.d.sync += self.empty.eq(Cat(empties).all() & ~Cat(error | overflow for error, overflow, _, _ in errors.values()).any())
        m.d.comb += self.idle.eq(Cat(getattr(self, e.name.lower()).idle for e in Engine).all())
        m.d.sync += self.oldest.eq(self._lowest(m, candidates))
        # The last assignment wins, so the first engine comes last.
        m.d.sync += self.error.eq(0)
        for engine in reversed(Engine):
            error, overflow, at, code = errors[engine]
            with m.If(error | overflow):
                m.d.sync += [self.error.eq(1), self.error_offset.eq(at), self.error_code.eq(Mux(error, code, HwErrorCode.SEMAPHORE))]
        return m

    def _lowest(self, m: Module, values: list) -> Signal:
        """The lowest of the values, with a register behind each comparison and before all."""
        level = 0
        while True:
            registers = []
            for index, value in enumerate(values):
                register = Signal(32, name=f"lowest{level}_{index}", reset_less=True)
                m.d.sync += register.eq(value)
                registers.append(register)
            if len(registers) == 1:
                return registers[0]
            pairs = [registers[i:i + 2] for i in range(0, len(registers), 2)]
            values = [pair[0] if len(pair) == 1 else Mux(pair[0] < pair[1], *pair) for pair in pairs]
            level += 1

    def _sequence(self, m: Module, engine: Engine, present: Cat, takes: Signal, gives: Signal) -> tuple:
        """Queue and in-flight list of one engine; returns the offset of the oldest issued, 'empty', the oldest offset."""
        name = engine.name.lower()
        port = getattr(self, name)
        dispatch = getattr(self, f"dispatch_{name}")
        layout = entry_layout(self._arch, engine)
        queue = SyncFIFO(width=layout.size, depth=self._arch.queue_depth)
        m.submodules[f"{name}_queue"] = queue
        # The waits a second time: the oldest in a register, beside which it is known whether the tokens are there. Only what is
        # as narrow as this depends on whether the engine takes an instruction.
        depth = self._arch.queue_depth - 1
        waits = SyncFIFO(width=len(Engine), depth=depth) if depth > 1 else SyncFIFOBuffered(width=len(Engine), depth=depth)
        m.submodules[f"{name}_waits"] = waits
        issued_layout = data.StructLayout({"offset": 32, "signal": len(Engine)})
        flight = SyncFIFO(width=issued_layout.size, depth=IN_FLIGHT)
        m.submodules[f"{name}_flight"] = flight
        entry = Signal(layout, name=f"{name}_entry")
        wait = Signal(len(Engine), name=f"{name}_wait", reset_less=True)
        valid, ready, room = Signal(name=f"{name}_valid"), Signal(name=f"{name}_tokens_ready"), Signal(name=f"{name}_room")
        issued = Signal(issued_layout, name=f"{name}_issued")
        oldest = Signal(issued_layout, name=f"{name}_oldest")
        issue = Signal(name=f"{name}_issue")
        moves = Signal(name=f"{name}_moves")
        taking = Signal(len(Engine), name=f"{name}_taking")
        done = Signal(name=f"{name}_done")
        m.d.comb += [
            dispatch.ready.eq(queue.w_rdy & waits.w_rdy), queue.w_en.eq(dispatch.valid & dispatch.ready), queue.w_data.eq(dispatch.payload),
            waits.w_en.eq(queue.w_en), waits.w_data.eq(dispatch.payload.wait), entry.eq(queue.r_data),
            port.cmd.valid.eq(ready & room & ~self.stop), port.cmd.payload.eq(entry.command), port.stop.eq(self.stop),
            issue.eq(port.cmd.valid & port.cmd.ready), moves.eq(issue | ~valid), queue.r_en.eq(issue), waits.r_en.eq(moves),
            flight.w_en.eq(issue), issued.offset.eq(entry.offset), issued.signal.eq(entry.signal),
            flight.w_data.eq(issued), oldest.eq(flight.r_data), flight.r_en.eq(done), takes.eq(taking),
            gives.eq(Mux(done, oldest.signal, 0)),
            self.done[engine].eq(done), self.busy[engine].eq(flight.r_rdy), self.stall[engine].eq(port.stall & flight.r_rdy),
            self.waiting[engine].eq(valid & ~ready),
        ]
        m.d.sync += [done.eq(port.done), taking.eq(Mux(issue, wait, 0)), room.eq((flight.level < IN_FLIGHT - 1) | ((flight.level < IN_FLIGHT) & ~moves))]
        with m.If(moves):
            # Tokens are taken a cycle after the issue, so the next instruction that wants one has to wait so long.
            m.d.sync += [valid.eq(waits.r_rdy), wait.eq(waits.r_data),
                         ready.eq(waits.r_rdy & ((waits.r_data & (~present | Mux(valid, wait, 0))) == 0))]
        with m.Else():
            m.d.sync += ready.eq((wait & ~present) == 0)
        first = Mux(flight.r_rdy, oldest.offset, Mux(queue.r_rdy, entry.offset, (1 << 32) - 1))
        return oldest.offset, ~queue.r_rdy & ~flight.r_rdy, first
