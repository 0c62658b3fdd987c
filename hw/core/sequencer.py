"""Sequencer: per-engine queues, semaphores, and the instructions that are issued but not done."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith.hw.interfaces import EngineSignature, HwErrorCode, command_layout
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Engine, semaphore_bits

__all__ = ["IN_FLIGHT", "Sequencer", "entry_layout"]

#: Places in the list of the instructions of one engine that are issued but not done. Some stay free: one is
#: written before it is known whether anything is issued, and how many are taken is known two cycles late.
IN_FLIGHT = 16


def entry_layout(arch: ArchConfig, engine: Engine) -> data.StructLayout:
    """One queued instruction: offset in the PROGRAM region, token masks, and the command."""
    return data.StructLayout(
        {"offset": 32, "wait": len(Engine), "signal": len(Engine), "command": command_layout(arch, engine)}
    )


class Sequencer(wiring.Component):
    """Holds back each engine's instructions until their tokens are there, and gives tokens when they are
    done.

    Members (engine names in lower case; masks have one bit per engine)
    -------
    dispatch_<engine> : In(stream)        instructions in order
    <engine> : Out(EngineSignature)
    stop : In(1)                          issue nothing more from the next cycle on; passed on to the engines
    error, error_code, error_offset : Out the first error in engine order, four cycles after it happens; until
                                      reset
    empty : Out(1)                        all queues are empty, every issued instruction is done, and no error
            is on its way; a cycle late
    idle : Out(1)                         no engine has a bus transaction under way
    done, busy, waiting, stall : Out      masks: done, executing, held back by a token, executing but held up;
                                 all a cycle late
    oldest : Out(32)                      lowest offset of those issued or queued, all ones without; a few
             cycles late

    Timing
    ------
    `timing.QUEUE` cycles from dispatch to issue in an idle engine; one instruction per cycle and engine, one
    in two cycles if both take a token of the same engine. What an engine says of `done` is in a register
    first: the instruction is done here a cycle later, and what waits for its token is issued `timing.TOKEN`
    cycles after `done`.
    """

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        mask = len(Engine)
        super().__init__(
            {
                **{f"dispatch_{e.name.lower()}": In(stream.Signature(entry_layout(arch, e))) for e in Engine},
                **{e.name.lower(): Out(EngineSignature(arch, e)) for e in Engine},
                "stop": In(1),
                "error": Out(1),
                "error_code": Out(HwErrorCode),
                "error_offset": Out(32),
                "empty": Out(1),
                "idle": Out(1),
                "done": Out(mask),
                "busy": Out(mask),
                "waiting": Out(mask),
                "stall": Out(mask),
                "oldest": Out(32),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        bits = semaphore_bits(self._arch)
        counts = {
            (giver, taker): Signal(bits, name=f"tokens_{giver.name.lower()}_{taker.name.lower()}")
            for giver in Engine
            for taker in Engine
        }
        takes = {engine: Signal(len(Engine), name=f"takes_{engine.name.lower()}") for engine in Engine}
        gives = {engine: Signal(len(Engine), name=f"gives_{engine.name.lower()}") for engine in Engine}
        offsets = {}
        empties = []
        candidates = []
        for engine in Engine:
            # A token is there in the next cycle. Two are never taken in successive cycles, so where there
            # were several, there is one.
            present, some, several = (
                Signal(len(Engine), name=f"{name}_{engine.name.lower()}")
                for name in ("present", "some", "several")
            )
            m.d.comb += present.eq(
                Cat(gives[giver][engine] for giver in Engine) | several | (some & ~takes[engine])
            )
            m.d.sync += [
                some.eq(present),
                several.eq(
                    Cat(
                        (counts[giver, engine] > 1) | ((counts[giver, engine] != 0) & gives[giver][engine])
                        for giver in Engine
                    )
                ),
            ]
            offsets[engine], empty, oldest = self._sequence(m, engine, present, takes[engine], gives[engine])
            empties.append(empty)
            candidates.append(oldest)
        overflows = {engine: Signal(len(Engine), name=f"overflow_{engine.name.lower()}") for engine in Engine}
        for (giver, taker), count in counts.items():
            give, take = gives[giver][taker], takes[taker][giver]
            m.d.sync += count.eq(count + give - take)
            m.d.comb += overflows[giver][taker].eq(give & ~take & (count == (1 << bits) - 1))
        failed = self._errors(m, offsets, overflows)
        m.d.sync += self.empty.eq(Cat(empties).all() & ~failed.any())
        m.d.comb += self.idle.eq(Cat(getattr(self, e.name.lower()).idle for e in Engine).all())
        m.d.sync += self.oldest.eq(self._lowest(m, candidates))
        return m

    def _errors(self, m: Module, offsets: dict, overflows: dict) -> Signal:
        """Holds the first error of each engine, and reports the first of those; returns the engines that have
        one."""
        failed, first = Signal(len(Engine)), Signal(len(Engine))
        offset, code = Signal(32), Signal(HwErrorCode)
        for engine in reversed(Engine):
            port, name = getattr(self, engine.name.lower()), engine.name.lower()
            # As late as `done`, so that the oldest instruction is the one at fault.
            error, error_code = (
                Signal(name=f"{name}_error"),
                Signal(HwErrorCode, name=f"{name}_error_code", reset_less=True),
            )
            kept_offset, kept_code = (
                Signal(32, name=f"{name}_at", reset_less=True),
                Signal(HwErrorCode, name=f"{name}_code", reset_less=True),
            )
            m.d.sync += [error.eq(port.error), error_code.eq(port.error_code)]
            with m.If(~failed[engine]):
                m.d.sync += [
                    failed[engine].eq(error | overflows[engine].any()),
                    kept_offset.eq(offsets[engine]),
                    kept_code.eq(Mux(error, error_code, HwErrorCode.SEMAPHORE)),
                ]
            with m.If(first[engine]):
                m.d.comb += [offset.eq(kept_offset), code.eq(kept_code)]
        m.d.sync += [
            first.eq(failed & -failed),
            self.error.eq(first.any()),
            self.error_offset.eq(offset),
            self.error_code.eq(code),
        ]
        return failed

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
            pairs = [registers[i : i + 2] for i in range(0, len(registers), 2)]
            values = [pair[0] if len(pair) == 1 else Mux(pair[0] < pair[1], *pair) for pair in pairs]
            level += 1

    def _sequence(self, m: Module, engine: Engine, present: Cat, takes: Signal, gives: Signal) -> tuple:
        """Queue and in-flight list of one engine; returns the offset of the oldest issued, 'empty', the
        oldest offset."""
        name = engine.name.lower()
        port = getattr(self, name)
        dispatch = getattr(self, f"dispatch_{name}")
        layout = entry_layout(self._arch, engine)
        depth = self._arch.queue_depth
        #: Where the next one enters the queue, and the oldest is; where its waits are read, which is one
        #: ahead of it if they are in a register.
        end, first, next_wait = (
            Signal(range(depth), name=f"{name}_{of}") for of in ("end", "first", "next_wait")
        )
        held, more = Signal(range(depth + 1), name=f"{name}_held"), Signal(name=f"{name}_more")
        #: The same of those that are issued but not done; the oldest one's tokens, in a register.
        flight_end, flight_first = (
            Signal(range(IN_FLIGHT), name=f"{name}_flight_{of}") for of in ("end", "first")
        )
        flight, room = Signal(name=f"{name}_flight"), Signal(name=f"{name}_room")
        signal = Signal(len(Engine), name=f"{name}_signal", reset_less=True)
        wait = Signal(len(Engine), name=f"{name}_wait", reset_less=True)
        valid, may, lacks = (
            Signal(name=f"{name}_valid"),
            Signal(name=f"{name}_may"),
            Signal(name=f"{name}_lacks"),
        )
        enter, issue, moves = (
            Signal(name=f"{name}_enter"),
            Signal(name=f"{name}_issue"),
            Signal(name=f"{name}_moves"),
        )
        taking = Signal(len(Engine), name=f"{name}_taking")
        done = Signal(name=f"{name}_done")
        # Memories are written wherever there is room, so that only what is narrow depends on whether
        # something enters or is issued.
        entry = self._queued(m, f"{name}_queue", layout, depth, dispatch.payload, end, first, dispatch.ready)
        waits = self._queued(m, f"{name}_waits", len(Engine), depth, dispatch.payload.wait, end, next_wait)
        offset = self._queued(m, f"{name}_offsets", 32, IN_FLIGHT, entry.offset, flight_end, flight_first)
        next_signal = self._queued(
            m,
            f"{name}_signals",
            len(Engine),
            IN_FLIGHT,
            entry.signal,
            flight_end,
            (flight_first + done)[: len(flight_first)],
        )
        m.d.comb += [
            enter.eq(dispatch.valid & dispatch.ready),
            more.eq(next_wait != end),
            flight.eq(flight_first != flight_end),
            port.cmd.valid.eq(may),
            port.cmd.payload.eq(entry.command),
            port.stop.eq(self.stop),
            issue.eq(may & port.cmd.ready),
            moves.eq(issue | ~valid),
            takes.eq(taking),
            gives.eq(Mux(done, signal, 0)),
            self.done[engine].eq(done),
        ]
        m.d.sync += [
            self.busy[engine].eq(flight),
            self.stall[engine].eq(port.stall & flight),
            self.waiting[engine].eq(valid & lacks),
            end.eq(end + enter),
            first.eq(first + issue),
            held.eq(held + enter - issue),
            dispatch.ready.eq((held + enter) < depth),
            done.eq(port.done),
            taking.eq(Mux(issue, wait, 0)),
            signal.eq(next_signal),
            flight_end.eq(flight_end + issue),
            flight_first.eq(flight_first + done),
            room.eq((flight_end - flight_first)[: len(flight_end)] < IN_FLIGHT - 3),
        ]
        lacking = Signal(name=f"{name}_lacking")
        with m.If(moves):
            # Tokens are taken a cycle after the issue, so the next instruction that wants one has to wait so
            # long.
            m.d.comb += lacking.eq((waits & (~present | Mux(valid, wait, 0))).any())
            m.d.sync += [valid.eq(more), wait.eq(waits), next_wait.eq(next_wait + more)]
        with m.Else():
            m.d.comb += lacking.eq((wait & ~present).any())
        m.d.sync += [lacks.eq(lacking), may.eq(~lacking & (more | ~moves) & room & ~self.stop)]
        oldest = Mux(flight, offset, Mux(valid | more, entry.offset, (1 << 32) - 1))
        return offset, ~(valid | more | flight), oldest

    @staticmethod
    def _queued(m: Module, name: str, shape, depth: int, value, end: Signal, first, enable=1):
        """A memory that is written at `end`; returns what lies at `first`."""
        m.submodules[name] = memory = Memory(shape=shape, depth=depth, init=[])
        write, read = memory.write_port(), memory.read_port(domain="comb")
        m.d.comb += [write.en.eq(enable), write.addr.eq(end), write.data.eq(value), read.addr.eq(first)]
        return read.data
