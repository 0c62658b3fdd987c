"""Fetch, order and tokens of a compact core: random programs on units that take any time, and every error."""

import random
from collections import Counter, deque

import pytest

from systolith.hw.compact.dispatch import CompactDispatch
from systolith.spec.isa import Engine, isa_for, semaphore_bits
from systolith.spec.regs import ErrorCode
from tests.hw.compact.bench import BROAD, SMALL, beats, each_arch
from tests.hw.kit import simulate

BASE = 0x1000
UNITS = {
    "transfer": (Engine.LOAD, Engine.STORE),
    "matrix": (Engine.MATRIX,),
    "output": (Engine.OUTPUT,),
}
UNIT_OF = {engine: name for name, engines in UNITS.items() for engine in engines}
#: Beats that the buffer holds, and of one burst.
BUFFER, BURST = 32, 4


class Run:
    """A program on the dispatcher, with a bus and three units.

    The observer holds everything to the instruction set: each unit gets its instructions in program order,
    whole, while it is idle, and only when the tokens are there.

    After it: `begun` (indices in the order in which they began), `at` and `ended` (the cycles in which each
    began and was done), `retired`, `error` (code, offset) or None, `finished`.

    Parameters
    ----------
    words : list                program: instructions, or their bytes
    takes : index -> cycles     that a unit needs for an instruction
    fails : dict                index of an instruction whose unit reports this error
    latency : int               cycles of the bus, from a burst to its first beat
    bad : set                   bursts, by their number, whose last beat is an error
    """

    def __init__(
        self,
        arch,
        words,
        *,
        seed,
        stall,
        takes=None,
        fails=None,
        latency=1,
        bad=(),
        entry=0,
        size=None,
        limit=20_000,
    ):
        self.arch, self.isa, self.rng = arch, isa_for(arch), random.Random(f"dispatch {seed}")
        self.stall, self.latency, self.bad, self.entry = stall, latency, bad, entry
        self.limit = limit
        self.takes = takes or (lambda index: self.rng.choice((1, 1, 3, self.rng.randrange(40))))
        self.fails = fails or {}
        self.instrs = [None if isinstance(word, bytes) else word for word in words]
        code = b"".join(w if isinstance(w, bytes) else self.isa.encode(w) for w in words)
        self.code = self.rng.randbytes(entry) + code
        self.size = len(self.code) if size is None else size
        self.code += self.rng.randbytes(1024)
        self.dut = CompactDispatch(arch)
        self.engines = [i and self.isa.by_mnemonic[i.mnemonic].engine for i in self.instrs]
        self.queues = {
            name: deque(n for n, engine in enumerate(self.engines) if engine in engines)
            for name, engines in UNITS.items()
        }
        self.tokens: Counter = Counter()
        self.begun, self.at, self.ended, self.error = [], {}, {}, None
        self.retired = self.bursts = self.cycle = 0
        self.finished = False
        simulate(self.dut, self._bench, beside=[self._bus, *(self._unit(name) for name in UNITS)])

    async def _bus(self, ctx):
        """One burst at a time, as the core's arbiter gives it; beats are always taken."""
        dut, rng = self.dut, self.rng
        bursts, beats_ = dut.bus.bursts, dut.bus.beats
        while True:
            ready = rng.random() >= self.stall
            ctx.set(bursts.ready, ready)
            _, _, valid, address, length = await ctx.tick().sample(
                bursts.valid, bursts.payload.addr, bursts.payload.len
            )
            if not (valid and ready):
                continue
            ctx.set(bursts.ready, 0)
            assert address % 16 == 0 and length == BURST - 1, "a burst is 16 bytes, aligned"
            offset = address - BASE
            assert self.entry <= offset and offset + 16 <= self.size, "a burst leaves the PROGRAM region"
            for _ in range(self.latency - 1):
                await ctx.tick()
            for beat in range(BURST):
                ctx.set(beats_.valid, 0)
                ctx.set(beats_.payload.data, rng.getrandbits(32))
                while rng.random() < self.stall:
                    await ctx.tick()
                at = offset + 4 * beat
                ctx.set(beats_.valid, 1)
                ctx.set(beats_.payload.data, int.from_bytes(self.code[at : at + 4], "little"))
                ctx.set(beats_.payload.last, beat == BURST - 1)
                ctx.set(beats_.payload.error, self.bursts in self.bad and beat == BURST - 1)
                _, _, taken = await ctx.tick().sample(beats_.ready)
                assert taken
            ctx.set(beats_.valid, 0)
            self.bursts += 1

    def _unit(self, name):
        async def process(ctx):
            dut, unit = self.dut, getattr(self.dut, name)
            received, current, left = {}, None, 0
            while True:
                ends = current is not None and left == 0
                fails = ends and current in self.fails
                ctx.set(unit.done, ends and not fails)
                ctx.set(unit.error, fails)
                if fails:
                    ctx.set(unit.error_code, int(self.fails[current]))
                _, _, load, index, data, begin, store = await ctx.tick().sample(
                    unit.load, unit.index, unit.data, unit.begin, dut.store
                )
                if load:
                    assert current is None or ends, f"{name} gets a beat while it is busy"
                    received[index] = data
                if ends:
                    self._give(current, not fails)
                    current = None
                left -= 1
                if begin:
                    assert current is None, f"{name} begins while it is busy"
                    assert self.queues[name], f"{name} has begun all its instructions"
                    current = self.queues[name].popleft()
                    instr = self.instrs[current]
                    expected = dict(enumerate(beats(self.arch, instr)))
                    assert received == expected, f"instruction {current} arrives as {received}"
                    received = {}
                    self._take(current)
                    left = self.takes(current)
                    # Which of its engines a unit plays shows from the cycle after `begin`.
                    if name == "transfer":
                        ctx.set(unit.done, 0)
                elif current is not None and name == "transfer":
                    assert store == (self.engines[current] is Engine.STORE)

        return process

    def _take(self, index):
        instr, engine = self.instrs[index], self.engines[index]
        for giver in Engine:
            if instr.wait >> giver & 1:
                self.tokens[giver, engine] -= 1
                assert self.tokens[giver, engine] >= 0, f"instruction {index} begins without its tokens"
        self.begun.append(index)
        self.at[index] = self.cycle

    def _give(self, index, done):
        instr, engine = self.instrs[index], self.engines[index]
        self.ended[index] = self.cycle
        for taker in Engine:
            if done and instr.signal >> taker & 1:
                self.tokens[engine, taker] += 1

    async def _bench(self, ctx):
        dut = self.dut
        ctx.set(dut.entry, self.entry)
        ctx.set(dut.base, BASE)
        ctx.set(dut.size, self.size)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        idle = 0
        while idle < 40:
            _, _, error, code, offset, finished, retired, moved, done = await ctx.tick().sample(
                dut.error,
                dut.error_code,
                dut.error_offset,
                dut.finished,
                dut.retired,
                dut.moved,
                dut.done,
            )
            self.cycle += 1
            assert moved or not done
            self.retired += retired
            if error:
                # As the core does; what is already under way may come to its end.
                self.error = self.error or (ErrorCode(code), offset)
                ctx.set(dut.stop, 1)
            self.finished = bool(finished)
            idle = idle + 1 if finished or self.error else 0
            assert self.cycle < self.limit, f"hangs after {self.begun}"
        assert ctx.get(dut.idle), "a burst is under way at the end"


def random_program(arch, rng, count):
    """Instructions of all engines, which wait for tokens that earlier ones give; none is owed too many."""
    isa, most = isa_for(arch), (1 << semaphore_bits(arch)) - 1
    owed: Counter = Counter()
    program = []
    for _ in range(count):
        mnemonic = rng.choice(("LOAD", "STORE", "MATMUL", "OUTPUT", "NOP"))
        fmt = isa.by_mnemonic[mnemonic]
        if fmt.engine is None:
            program.append(isa.make(mnemonic))
            continue
        operands = {f.name: rng.randint(f.min, f.max) for f in fmt.fields}
        operands["wait"] = operands["signal"] = 0
        for other in list(Engine)[:4]:
            if owed[other, fmt.engine] and rng.random() < 0.6:
                operands["wait"] |= 1 << other
                owed[other, fmt.engine] -= 1
        for other in list(Engine)[:4]:
            if owed[fmt.engine, other] < most and rng.random() < 0.5:
                operands["signal"] |= 1 << other
                owed[fmt.engine, other] += 1
        program.append(isa.make(mnemonic, **operands))
    return [*program, isa.make("HALT")]


@each_arch
@pytest.mark.parametrize("seed", range(4))
def test_random_programs_begin_in_order_with_their_tokens(arch, seed):
    rng = random.Random(f"{arch.name} {seed}")
    program = random_program(arch, rng, 25)
    # Random bits in reserved places behind HALT are never reached.
    run = Run(
        arch,
        program,
        seed=seed,
        stall=(0.0, 0.4)[seed % 2],
        latency=(1, 7)[seed // 2],
        entry=16 * rng.randrange(9),
    )
    assert run.error is None and run.finished, f"seed {seed}"
    wanted = [n for n, engine in enumerate(run.engines) if engine is not None]
    assert run.begun == wanted, f"seed {seed}"
    assert run.retired == len(program) - len(wanted), f"seed {seed}"


def test_an_instruction_comes_every_nine_cycles():
    """Eight beats and the cycle in which it begins, where memory keeps up."""
    isa = isa_for(SMALL)
    program = [isa.make(("LOAD", "MATMUL", "OUTPUT")[n % 3]) for n in range(12)] + [isa.make("HALT")]
    run = Run(SMALL, program, seed=1, stall=0.0, takes=lambda index: 1)
    gaps = [run.at[n + 1] - run.at[n] for n in range(4)]
    assert isa.word_bytes == 32 and min(gaps) >= 9
    # Fetch alone: 4 beats, and at least two cycles between bursts.
    assert run.at[11] - run.at[0] <= 11 * 14


@pytest.mark.parametrize(("latency", "stall"), [(1, 0.0), (3, 0.0), (1, 0.5)])
def test_a_full_buffer_loses_nothing_during_long_waits(latency, stall):
    """A unit is busy for long while the stream behind it fills the buffer, from every place of the ring."""
    isa = isa_for(SMALL)
    rng = random.Random(f"{latency} {stall}")
    program, slow = [], set()
    for nops in (0, 1, 2, 3, 5, 6, 0):
        slow.add(len(program))
        for _ in range(2):
            fields = isa.by_mnemonic["LOAD"].fields
            drawn = {f.name: rng.randint(f.min, f.max) for f in fields}
            program.append(isa.make("LOAD", **drawn | {"wait": 0, "signal": 0}))
        program += [isa.make("NOP")] * nops
    loads = [index for index, instr in enumerate(program) if instr.mnemonic == "LOAD"]
    run = Run(
        SMALL,
        [*program, isa.make("HALT")],
        seed=latency,
        stall=stall,
        latency=latency,
        takes=lambda index: 90 + index if index in slow else 1,
    )
    assert run.error is None and run.finished
    assert run.begun == loads


def legal(arch, *lines):
    return [isa_for(arch).assemble(line) for line in lines]


def bad_words(arch):
    """Words that no core may execute, by what is wrong."""
    isa = isa_for(arch)
    words = {"unknown opcode": bytes([15]) + bytes(isa.word_bytes - 1), "VECTOR": bytes([6]) + bytes(31)}
    for mnemonic in ("NOP", "HALT", "LOAD", "STORE", "MATMUL", "OUTPUT"):
        word = int.from_bytes(isa.encode(isa.make(mnemonic)), "little")
        # The lowest reserved bit, the last one, and one of a beat that has no operand.
        low = 4 if mnemonic in ("NOP", "HALT") else sum(f.bits for f in isa.fields(mnemonic))
        for bit in {low, 160 if mnemonic in ("NOP", "OUTPUT") else low, 8 * isa.word_bytes - 1}:
            words[f"{mnemonic} bit {bit}"] = (word | 1 << bit).to_bytes(isa.word_bytes, "little")
    return words


@pytest.mark.parametrize("name", bad_words(BROAD))
def test_words_that_are_no_instruction_stop_the_stream(name):
    size = isa_for(BROAD).word_bytes
    words = [*legal(BROAD, "LOAD", "NOP"), bad_words(BROAD)[name], *legal(BROAD, "MATMUL", "HALT")]
    run = Run(BROAD, words, seed=name, stall=0.2, entry=32)
    assert run.error == (ErrorCode.ILLEGAL_INSTRUCTION, 32 + 2 * size)
    assert run.begun == [0] and not run.finished


@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_a_stream_without_halt_is_a_region_error_behind_its_last_instruction(stall):
    size = isa_for(SMALL).word_bytes
    for extra in (0, 16):
        program = legal(SMALL, "LOAD", "MATMUL", "NOP")
        run = Run(SMALL, program, seed=2, stall=stall, size=3 * size + extra)
        assert run.error == (ErrorCode.REGION, 3 * size) and run.begun == [0, 1]


@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_a_bus_error_counts_when_the_stream_reaches_it(stall):
    size = isa_for(SMALL).word_bytes
    program = legal(SMALL, "LOAD", "MATMUL", "OUTPUT", "HALT")
    run = Run(SMALL, program, seed=3, stall=stall, bad={5})
    assert run.error == (ErrorCode.BUS_READ, 2 * size) and run.begun == [0, 1]
    # Behind HALT it is none.
    run = Run(SMALL, legal(SMALL, "LOAD", "HALT", "NOP"), seed=3, stall=stall, bad={4})
    assert run.error is None and run.finished and run.begun == [0]


@pytest.mark.parametrize(
    ("name", "mnemonic"), [("transfer", "LOAD"), ("matrix", "MATMUL"), ("output", "OUTPUT")]
)
def test_an_error_of_a_unit_names_its_instruction(name, mnemonic):
    """Also when later instructions have begun, and what stands behind it gets no turn."""
    others = {"transfer": "MATMUL", "matrix": "LOAD", "output": "MATMUL"}[name]
    program = legal(SMALL, "NOP", mnemonic, others, "NOP", mnemonic, "HALT")
    run = Run(
        SMALL,
        program,
        seed=4,
        stall=0.1,
        takes=lambda index: 70 if index == 1 else 1,
        fails={1: ErrorCode.OPERAND_RANGE},
    )
    assert run.error == (ErrorCode.OPERAND_RANGE, isa_for(SMALL).word_bytes)
    assert run.begun == [1, 2] and not run.finished


@pytest.mark.parametrize("giver", ["LOAD", "STORE", "MATMUL", "OUTPUT"])
@pytest.mark.parametrize("taker", ["LOAD", "STORE", "MATMUL", "OUTPUT"])
def test_one_token_too_many_is_an_error(giver, taker):
    """A semaphore is filled, one token is taken and given again, and only then one is too many."""
    isa, most = isa_for(BROAD), (1 << semaphore_bits(BROAD)) - 1
    engines = {name: isa.by_mnemonic[name].engine.name for name in (giver, taker)}
    give, take = legal(BROAD, f"{giver} signal={engines[taker]}", f"{taker} wait={engines[giver]}")
    program = [*[give] * most, take, give, give, *legal(BROAD, "HALT")]
    run = Run(BROAD, program, seed=5, stall=0.0, takes=lambda index: 1)
    assert run.error == (ErrorCode.SEMAPHORE, (most + 2) * isa.word_bytes)


def test_a_token_may_come_in_the_cycle_in_which_a_full_semaphore_gives_one():
    most, size = (1 << semaphore_bits(SMALL)) - 1, isa_for(SMALL).word_bytes
    give, take = legal(SMALL, "LOAD signal=OUTPUT", "OUTPUT wait=LOAD")
    # That none is lost shows when all are taken.
    program = [*[give] * most, give, *[take] * (most + 1), *legal(SMALL, "HALT")]
    gaps = set()
    for cycles in range(10, 13):
        run = Run(
            SMALL, program, seed=7, stall=0.0, takes=lambda index, last=cycles: last if index == most else 1
        )
        gaps.add(gap := run.ended[most] - run.at.get(most + 1, 1 << 20))
        # Without a place, the last of them is one too many.
        assert run.error == (None if gap >= 0 else (ErrorCode.SEMAPHORE, most * size)), f"{cycles} cycles"
    assert 0 in gaps and min(gaps) < 0 < max(gaps), gaps


def test_without_its_token_an_instruction_waits():
    program = legal(SMALL, "LOAD signal=MATRIX", "MATMUL wait=OUTPUT", "HALT")
    with pytest.raises(AssertionError, match=r"hangs after \[0\]"):
        Run(SMALL, program, seed=6, stall=0.0, limit=400)
