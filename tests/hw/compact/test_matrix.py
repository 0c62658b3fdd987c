"""MATMUL of a compact core against the reference machine, and its rate cycle by cycle."""

import dataclasses
import random
from collections import deque

import numpy as np
import pytest

from systolith.hw.compact.matrix import AccPort, CompactMatrix
from systolith.sim.benches.stimulus import acc_entries, matmul, random_matmul
from systolith.spec.regs import ErrorCode
from tests.hw.compact.bench import BROAD, SMALL, each_arch, load, one_by_one, random_machine
from tests.hw.convolution import padded_convolution
from tests.hw.kit import simulate


class Run:
    """Instructions on the unit, one after the other; an output stage reads what is released.

    After it: `sums` (entry, sums) in the order of their writes, `taken` (entry, sums) as OUTPUT read them,
    `issued` (cycles in which a vector was granted), `done` (writes that each `done` came with) and `errors`.

    Parameters
    ----------
    stall : float   probability that the activation SRAM grants nothing, that OUTPUT rests, that the
                    dispatcher pauses
    reload : bool   weights come while instructions run: tiles that no instruction reads, again and again
    """

    def __init__(self, machine, instrs, *, seed, stall, reload=False, limit=20_000):
        self.arch, self.machine, self.instrs = machine.arch, machine, instrs
        self.stall, self.limit = stall, limit
        self.rng = random.Random(f"matrix {seed}")
        self.dut = CompactMatrix(self.arch)
        self.released = [e for i in instrs if i.final for e in range(i.acc, i.acc + acc_entries(i))]
        self.sums, self.taken, self.issued, self.done, self.errors = [], [], [], [], []
        self.releases = self.cycle = 0
        self.loaded = False
        self.reads: deque[int] = deque()
        simulate(self.dut, self._bench, beside=[self._memory, *((self._reload,) if reload else ())])

    def _rests(self):
        return self.rng.random() < self.stall

    async def _memory(self, ctx):
        """The activation SRAM, OUTPUT and the observer of all that leaves the unit."""
        dut, arch, rng = self.dut, self.arch, self.rng
        act = self.machine.act.tobytes() * 2
        data, pending = None, [None] * AccPort.LATENCY
        while True:
            ctx.set(dut.act.ready, not self._rests())
            ctx.set(dut.vector, rng.getrandbits(32) if data is None else data)
            take = len(self.reads) > 0 and not self._rests()
            ctx.set(dut.acc.valid, take)
            ctx.set(dut.acc.addr, self.reads[0] if take else rng.randrange(arch.acc_depth))
            _, _, *values = await ctx.tick().sample(
                dut.act.valid,
                dut.act.addr,
                dut.act.ready,
                dut.acc.release,
                dut.acc.data,
                dut.sums.valid,
                dut.sums.addr,
                dut.sums.data,
                dut.unit.done,
                dut.unit.error,
                dut.unit.error_code,
            )
            valid, address, ready, release, acc, written, entry, sums, done, error, code = values
            assert not (valid and take), "a vector was requested in a cycle of OUTPUT's"
            data = None
            if valid and ready:
                self.issued.append(self.cycle)
                data = int.from_bytes(act[address : address + 4], "little")
            pending.append(self.reads.popleft() if take else None)
            if (read := pending.pop(0)) is not None:
                self.taken.append((read, split(acc, arch)))
            if written:
                self.sums.append((entry, split(sums, arch)))
            if release:
                assert written, "a release without a write"
                self.reads.append(self.released[self.releases])
                self.releases += 1
            if done:
                self.done.append(len(self.sums))
            if error:
                self.errors.append(ErrorCode(code))
            self.cycle += 1

    async def _reload(self, ctx):
        """The upper half of the weights, which no instruction reads."""
        weights, half = self.dut.weights, self.arch.weight_bytes // 8
        while not self.loaded:
            await ctx.tick()
        while True:
            ctx.set(weights.valid, self.rng.random() < 0.5)
            ctx.set(weights.beat, half + self.rng.randrange(half))
            ctx.set(weights.data, self.rng.getrandbits(32))
            await ctx.tick()

    async def _bench(self, ctx):
        dut, weights = self.dut, self.machine.weight.tobytes()
        read = {tile for i in self.instrs for tile in range(i.tile, i.tile + i.ky * i.kx * i.kt)}
        order = [4 * tile + row for tile in read if tile < self.arch.weight_tiles for row in range(4)]
        await load(ctx, dut.weights, weights, order, self.rng)
        self.loaded = True
        async for _ in one_by_one(ctx, self):
            pass
        # Long enough for every read of OUTPUT, and for effects that should not be.
        quiet = 0
        while quiet < 20:
            quiet = 0 if self.reads else quiet + 1
            await ctx.tick()


def split(sums, arch):
    """The C sums of one entry."""
    return [
        int.from_bytes((sums >> 32 * c & 0xFFFF_FFFF).to_bytes(4, "little"), "little", signed=True)
        for c in range(arch.cols)
    ]


def expected(machine, instrs):
    """Each write to the accumulators, as `Run.sums`, and how many belong to each instruction."""
    writes, ends = [], []
    machine.on_instruction = lambda _, instr, effect: writes.extend(
        zip(effect.addresses.tolist(), effect.rows.tolist(), strict=True)
    )
    for instr in instrs:
        machine.execute(instr)
        ends.append(len(writes))
    return writes, ends


def check(arch, instrs, *, seed, stall=0.0, **options):
    machine = random_machine(arch, random.Random(seed))
    run = Run(machine, instrs, seed=seed, stall=stall, **options)
    writes, ends = expected(machine, instrs)
    message = f"seed {seed} of {arch.name}"
    assert not run.errors, f"{message}: {run.errors}"
    for index, (got, want) in enumerate(zip(run.sums, writes, strict=False)):
        assert got == want, f"{message}: write {index} is {got}, not {want}"
    assert len(run.sums) == len(writes), message
    assert run.done == ends, message
    assert run.releases == len(run.released) == len(run.taken), message
    # No entry is written again after its release, so the last value is what OUTPUT must have seen.
    for entry, sums in run.taken:
        assert sums == machine.acc[entry].tolist(), f"{message}: OUTPUT read {sums} of entry {entry}"
    assert [entry for entry, _ in run.taken] == run.released, message
    return run


def random_program(arch, rng, count):
    """MATMULs that never overwrite a released entry; windows, steps and coordinates of any size."""
    instrs, acc = [], 0
    while acc < arch.acc_depth and len(instrs) < count:
        operands = dict(random_matmul(arch, rng, acc, arch.weight_tiles // 2).operands)
        # A compact core has no `high`; coordinates wrap at the width of their operand.
        operands["high"] = 0
        if rng.random() < 0.3:
            operands["y0"] = rng.choice((-2048, 2047, rng.randint(-2048, 2047)))
            operands["height"] = rng.choice((4095, rng.randint(1, 4095)))
            operands["oy_y"], operands["ky_y"] = rng.randrange(256), rng.randrange(256)
        instr = matmul(arch, **operands)
        instrs.append(instr)
        acc += acc_entries(instr) if instr.final or rng.random() < 0.7 else 0
    return instrs


@each_arch
@pytest.mark.parametrize("seed", range(4))
def test_random_instructions_equal_the_machine(arch, seed):
    rng = random.Random(f"{arch.name} {seed}")
    check(arch, random_program(arch, rng, 8), seed=seed, stall=(0.0, 0.5)[seed % 2], reload=seed > 1)


@each_arch
def test_coordinates_wrap_at_the_width_of_their_operand(arch):
    """x runs through its whole range and comes back into the window, y likewise."""
    half = arch.act_bytes // 2
    x = matmul(arch, base=3, row_bytes=64, pad=1, kx=7, kx_x=half, ox=5, ox_x=half + 3, oy=1, final=1)
    y = matmul(arch, y0=2000, height=2040, ky=3, ky_y=200, oy=3, oy_y=255, ky_addr=9, oy_addr=5, acc=5)
    run = check(arch, [x, y], seed=21)
    padded = [1, 1, 1, 1] @ run.machine.weight[: arch.tile_bytes].reshape(4, 4).astype(int)
    # Without the wrap, all later columns would be padding.
    assert any(
        b[1] != (np.array(a[1]) + padded).tolist() for a, b in zip(run.sums, run.sums[5:], strict=False)
    )


@each_arch
def test_convolution_with_padding_has_two_cycles_between_tiles(arch):
    instr = padded_convolution(
        arch, first=0, pixel=8, height=2, width=3, pad=-7, kx=3, kx_x=8, kt=1, acc=1, final=0
    )
    run = check(arch, [instr], seed=22)
    tiles = [run.issued[at : at + 6] for at in range(0, 54, 6)]
    first = run.issued[0]
    assert tiles == [[first + 8 * tile + n for n in range(6)] for tile in range(9)]


def test_a_vector_waits_for_output_reads_and_nothing_else_does():
    """An entry that OUTPUT reads costs the array one cycle."""
    instrs = [matmul(BROAD, ox=20, ox_x=4, final=1), matmul(BROAD, kt=4, ox=10, ox_x=4, acc=30)]
    run = check(BROAD, instrs, seed=23)
    assert run.issued[19] - run.issued[0] == 19 + 16
    assert len(run.taken) == 20


def test_extreme_sums_are_exact():
    machine = random_machine(BROAD, random.Random(24))
    machine.act[:], machine.weight[:] = -128, -128
    instr = matmul(BROAD, kt=100, ox=3, ox_x=4, final=1)
    run = Run(machine, [instr], seed=24, stall=0.0)
    assert run.taken == [(n, [100 * 4 * 128 * 128] * 4) for n in range(3)]


@pytest.mark.parametrize(
    ("arch", "operand", "stall"), [(SMALL, "acc", 0.0), (SMALL, "tile", 0.3), (BROAD, "acc", 0.5)]
)
def test_past_the_last_entry_or_tile_is_an_error_after_which_nothing_is_written(arch, operand, stall):
    size = {"acc": arch.acc_depth, "tile": arch.weight_tiles}[operand]
    count = {"acc": {"ox": 3, "ox_x": 4}, "tile": {"kt": 3}}[operand]
    good = matmul(arch, **count, **{operand: size - 3})
    check(arch, [good], seed=25, stall=stall)
    bad = dataclasses.replace(good, operands={**good.operands, operand: size - 2})
    machine = random_machine(arch, random.Random(26))
    run = Run(machine, [good, bad, good], seed=26, stall=stall)
    assert run.errors == [ErrorCode.OPERAND_RANGE]
    assert run.done == [3]
    # The two vectors or tiles inside the memory may have been written, nothing of the next instruction.
    writes, _ = expected(machine, [good])
    assert run.sums[:3] == writes and len(run.sums) <= 5
    assert all(entry >= good.acc for entry, _ in run.sums)
