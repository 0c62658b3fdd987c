"""OUTPUT of a compact core against the reference machine, byte by byte, and its rate."""

import random

import numpy as np
import pytest

from systolith.hw.compact.matrix import AccPort
from systolith.hw.compact.output import CompactOutput
from systolith.reference.params import pack_params
from systolith.sim.benches.checks import signed8
from systolith.spec.isa import isa_for
from systolith.spec.regs import ErrorCode
from tests.hw.compact.bench import BROAD, SMALL, each_arch, load, one_by_one, random_machine
from tests.hw.kit import simulate

INT32 = (-(1 << 31), (1 << 31) - 1)
#: Cycles of one pixel in the unit, whatever its channels.
PIXEL_CYCLES = 8


def random_params(arch, rng):
    """Parameters that make ties, saturate, vanish and use every shift; reserved bits are set at random."""
    entries = []
    for _ in range(arch.param_rows):
        exponent = [rng.randrange(16) for _ in range(arch.cols)]
        if rng.random() < 0.5:
            fields = {
                "bias": [rng.randint(-50, 50) for _ in exponent],
                "mult": [1 << e for e in exponent],
                "shift": [e + rng.randrange(1, 8) for e in exponent],
            }
        else:
            fields = {
                "bias": [rng.choice((0, rng.randint(*INT32), *INT32)) for _ in exponent],
                "mult": [rng.choice((0, 1, 65535, rng.randrange(1 << 16))) for _ in exponent],
                "shift": [rng.choice((rng.randrange(64), rng.randrange(36, 44))) for _ in exponent],
            }
        entry = np.frombuffer(pack_params(arch.cols, **fields), "<u8").copy()
        entry |= np.array([rng.getrandbits(10) << 54 for _ in exponent], np.uint64)
        entries.append(entry.tobytes())
    return b"".join(entries)


def random_output(arch, rng, acc, room, **operands):
    """An OUTPUT of at most `room` entries from `acc` on."""
    ny = rng.randint(1, min(3, room))
    bounds = sorted((rng.randint(-128, 127), rng.randint(-128, 127)), reverse=rng.random() < 0.1)
    low, high = rng.choice(((-128, 127), bounds))
    drawn = {
        "acc": acc,
        "ny": ny,
        "nx": rng.randint(1, min(6, room // ny)),
        "channels": rng.randint(1, arch.cols),
        "dst": rng.choice((rng.randrange(arch.act_bytes), arch.act_bytes - 2)),
        "dst_row": rng.choice((4, 5, rng.randrange(arch.act_bytes))),
        "dst_px": rng.choice((1, 3, 4, rng.randrange(arch.act_bytes))),
        "param": rng.randrange(arch.param_rows),
        "zero": rng.choice((-128, 0, 127, rng.randint(-128, 127))),
        "low": low,
        "high": high,
    }
    return isa_for(arch).make("OUTPUT", **{**drawn, **operands})


class Run:
    """Instructions on the unit one after the other, `rest` cycles after each `done`; entries are released at
    random.

    After it: `act` (the activation SRAM), `results` (address, value), `reads` (entry, whether its sums were
    right), `granted` (cycles of the reads), `done` (results that each `done` came with) and `errors`.
    """

    def __init__(self, machine, instrs, *, seed, stall, rest=0, released=None, limit=3_000):
        self.arch, self.machine, self.instrs = machine.arch, machine, instrs
        self.rng, self.stall, self.limit = random.Random(f"output {seed}"), stall, limit
        self.rest = rest
        self.dut = CompactOutput(self.arch)
        self.left = sum(i.ny * i.nx for i in instrs) if released is None else released
        self.act = bytearray(machine.act.tobytes())
        self.results, self.reads, self.granted, self.done, self.errors = [], [], [], [], []
        self.released = self.cycle = self.written = 0
        self.loaded = False
        simulate(self.dut, self._bench, beside=[self._accumulators])

    async def _accumulators(self, ctx):
        dut, arch, rng = self.dut, self.arch, self.rng
        coming = [None] * AccPort.LATENCY
        while True:
            entry = coming.pop(0)
            data = rng.getrandbits(32 * arch.cols)
            if entry is not None:
                data = int.from_bytes(self.machine.acc[entry].astype("<i4").tobytes(), "little")
            ctx.set(dut.acc.data, data)
            # A unit counts no more releases than there are entries.
            room = self.released - len(self.granted) < arch.acc_depth
            release = self.loaded and self.left > 0 and room and rng.random() >= self.stall
            ctx.set(dut.acc.release, release)
            _, _, *values = await ctx.tick().sample(
                dut.acc.valid,
                dut.acc.addr,
                dut.write.valid,
                dut.write.word,
                dut.write.data,
                dut.write.mask,
                dut.result.valid,
                dut.result.addr,
                dut.result.data,
                dut.read.valid,
                dut.read.addr,
                dut.read.data,
                dut.unit.done,
                dut.unit.error,
                dut.unit.error_code,
            )
            (valid, addr, write, word, written, mask) = values[:6]
            (result, at, value, read, read_at, sums, done, error, code) = values[6:]
            if valid:
                assert len(self.granted) < self.released, "an entry was taken before it was released"
                self.granted.append(self.cycle)
            coming.append(addr if valid else None)
            if write:
                assert mask and result, "a word is written with its last byte"
                self.written += mask.bit_count()
                for lane in range(4):
                    if mask >> lane & 1:
                        self.act[4 * word + lane] = written >> 8 * lane & 255
            if result:
                self.results.append((at, signed8(value)))
            if read:
                assert entry is not None
                self.reads.append((read_at, sums == data))
            if done:
                assert write, "done comes with the last write"
                self.done.append(len(self.results))
            if error:
                self.errors.append(ErrorCode(code))
            self.left, self.released = self.left - release, self.released + release
            self.cycle += 1

    async def _bench(self, ctx):
        dut, params = self.dut, self.machine.param.tobytes()
        order = [8 * i.param + beat for i in self.instrs for beat in range(self.arch.cols * 2)]
        await load(ctx, dut.params, params, order, self.rng)
        self.loaded = True
        async for _ in one_by_one(ctx, self):
            if self.errors:
                break
            for _ in range(self.rest):
                await ctx.tick()
        await ctx.tick().repeat(30)


def expected(machine, instrs):
    """Every result in order, and the results after each instruction."""
    results, ends = [], []
    machine.on_instruction = lambda _, instr, effect: results.extend(
        zip(effect.addresses.tolist(), effect.rows[:, 0].tolist(), strict=True)
    )
    for instr in instrs:
        machine.released.extend(range(instr.acc, instr.acc + instr.ny * instr.nx))
        machine.execute(instr)
        ends.append(len(results))
    return results, ends


def prepared(arch, seed):
    """A machine with accumulators and parameters that reach every corner of requantisation."""
    rng = random.Random(f"{arch.name} {seed}")
    machine = random_machine(arch, rng)
    for entry in machine.acc:
        entry[:] = [rng.choice((*INT32, rng.randint(*INT32), rng.randint(-2000, 2000))) for _ in entry]
    machine.param[:] = np.frombuffer(random_params(arch, rng), np.uint8)
    return machine, rng


def check(machine, instrs, *, seed, stall, rest=0):
    run = Run(machine, instrs, seed=seed, stall=stall, rest=rest)
    results, ends = expected(machine, instrs)
    message = f"seed {seed} of {machine.arch.name}"
    assert not run.errors, f"{message}: {run.errors}"
    for index, (got, want) in enumerate(zip(run.results, results, strict=False)):
        assert got == want, f"{message}: result {index} is {got}, not {want}"
    assert len(run.results) == len(results) and run.done == ends, message
    assert run.written == len(results), f"{message}: each byte is written once, with its word"
    assert run.act == machine.act.tobytes(), f"{message}: the words that were written differ"
    entries = [entry for i in instrs for entry in range(i.acc, i.acc + i.ny * i.nx)]
    assert run.reads == [(entry, True) for entry in entries], message
    return run


@each_arch
@pytest.mark.parametrize("seed", range(4))
def test_random_instructions_equal_the_machine(arch, seed):
    machine, rng = prepared(arch, seed)
    instrs = []
    for _ in range(8):
        acc = rng.randrange(arch.acc_depth)
        instrs.append(random_output(arch, rng, acc, arch.acc_depth - acc))
    check(machine, instrs, seed=seed, stall=(0.0, 0.6)[seed % 2])


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_an_output_of_more_channels_may_follow_at_once(channels):
    machine, rng = prepared(BROAD, 34)
    few = random_output(BROAD, rng, 0, 3, ny=1, nx=3, channels=channels)
    many = random_output(BROAD, rng, 3, 3, ny=1, nx=3, channels=4)
    check(machine, [few, many], seed=34, stall=0.0)


def test_every_shift_rounds_halves_to_even_on_both_sides_of_zero():
    """Sums from -4 to 4 halves of a step, at shifts from 1 to 29 and multipliers that are powers of two."""
    machine, _ = prepared(BROAD, 30)
    entries, instrs = [], []
    for entry in range(64):
        shift = entry % 29 + 1
        machine.acc[entry] = [k << shift - 1 for k in ((-3, -1, 1, 3), (-4, -2, 2, 4))[entry // 32]]
        step = min(shift // 2, 15) if entry % 3 else 0
        fields = {"mult": [1 << step] * 4, "shift": [shift + step] * 4}
        entries.append(pack_params(BROAD.cols, **fields))
        instrs.append(
            isa_for(BROAD).make(
                "OUTPUT", acc=entry, param=entry, channels=4, dst=8 * entry + entry % 4, low=-128, high=127
            )
        )
    machine.param[:] = np.frombuffer(b"".join(entries), np.uint8)
    run = check(machine, instrs, seed=30, stall=0.0)
    # -1.5, -0.5, 0.5, 1.5 become the even neighbours.
    assert [value for _, value in run.results[:4]] == [-2, 0, 0, 2]


@each_arch
def test_a_pixel_takes_eight_cycles(arch):
    machine, rng = prepared(arch, 31)
    instr = random_output(arch, rng, 0, 8, ny=1, nx=8, channels=4)
    run = check(machine, [instr], seed=31, stall=0.0)
    assert run.granted == [run.granted[0] + PIXEL_CYCLES * pixel for pixel in range(8)]


@each_arch
def test_entries_are_waited_for(arch):
    """Without a release nothing is read, and what was released before counts."""
    machine, rng = prepared(arch, 32)
    instr = random_output(arch, rng, 0, 8, ny=2, nx=3)
    with pytest.raises(AssertionError, match="hangs: 0 of 1 done"):
        Run(machine, [instr], seed=32, stall=0.0, released=5, limit=300)
    check(machine, [instr], seed=32, stall=0.9)


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_past_the_last_entry_is_an_error_after_which_nothing_begins(stall):
    machine, rng = prepared(SMALL, 33)
    good = random_output(SMALL, rng, SMALL.acc_depth - 2, 2, ny=1, nx=2)
    bad = random_output(SMALL, rng, SMALL.acc_depth - 2, 3, ny=1, nx=3, channels=4)
    run = Run(machine, [good, bad], seed=33, stall=stall, rest=PIXEL_CYCLES)
    assert run.errors == [ErrorCode.OPERAND_RANGE]
    assert len(run.done) == 1 and len(run.granted) == 4
    results, ends = expected(machine, [good])
    # Both entries inside may still be written.
    assert run.results[: ends[0]] == results and len(run.results) <= ends[0] + 8
