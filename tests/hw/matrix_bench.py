"""The systolic array on a bench: memories that answer at the stated time, and a plain model of MATMUL."""

import random

import numpy as np
import pytest

from systolith.hw.engine.matrix import MatrixEngine
from systolith.hw.interfaces import AccReadSignature, ActReadSignature, WeightReadSignature
from systolith.spec.arch import PRESETS, ArchConfig
from systolith.spec.isa import Mode, isa_for
from systolith.spec.regs import ErrorCode
from tests.hw.kit import simulate

__all__ = ["ARCHS", "ASYMMETRIC", "Model", "PLAIN", "Run", "SQUARE", "TALL", "TINY", "check", "each_arch"]

TINY = PRESETS["tiny"]


def small(name, rows, cols, rate, **other):
    return ArchConfig(
        name=name,
        rows=rows,
        cols=cols,
        bus_bits=32,
        act_bytes=1 << 10,
        act_blocks=2,
        weight_bytes=1 << 11,
        weight_rows_per_cycle=rate,
        acc_depth=64,
        param_rows=4,
        table_slots=2,
        lanes=2,
        **other,
    )


SQUARE = small("square", 4, 4, 4)
ASYMMETRIC = [small(f"wide{rate}", 4, 8, rate) for rate in (1, 2, 4)]
TALL = small("tall", 8, 2, 4)
PLAIN = small("plain", 4, 4, 2, depthwise=False)
ARCHS = [TINY, SQUARE, *ASYMMETRIC, TALL]
each_arch = pytest.mark.parametrize("arch", ARCHS, ids=lambda arch: arch.name)


class Model:
    """MATMUL as the instruction set states it, one vector after the other."""

    def __init__(self, arch, seed):
        rng = np.random.default_rng(seed)
        self.arch = arch
        self.act = rng.integers(-128, 128, arch.act_bytes)
        self.tiles = rng.integers(-128, 128, (arch.weight_tiles, arch.rows, arch.cols))
        self.acc = np.zeros((arch.acc_depth, arch.cols), np.int64)
        #: (entry, its sums) in the order of the releases.
        self.released = []

    def vector(self, i, ky, kx, kt, oy, ox):
        rows = self.arch.rows
        step = kx * i.kx_x + kt * rows
        address = i.base + ky * i.ky_addr + step + oy * i.oy_addr + ox * i.ox_x
        y, x = i.y0 + ky * i.ky_y + oy * i.oy_y, i.x0 + step + ox * i.ox_x
        width = self.arch.cols if i.mode == Mode.DEPTHWISE else rows
        return [
            int(self.act[(address + j) % self.arch.act_bytes])
            if 0 <= y < i.height and 0 <= x + j < i.row_bytes
            else i.pad
            for j in range(width)
        ]

    def execute(self, i):
        number, tiles = 0, i.ky * i.kx * i.kt
        for ky, kx, kt in np.ndindex(i.ky, i.kx, i.kt):
            tile = self.tiles[i.tile + number]
            number += 1
            entry = i.acc
            for oy in range(i.oy):
                past = []
                for ox in range(i.ox):
                    past.insert(0, np.array(self.vector(i, ky, kx, kt, oy, ox)))
                    if ox < i.taps - 1 or (ox - i.taps + 1) % i.stride:
                        continue
                    if i.mode == Mode.DENSE:
                        sums = past[0] @ tile
                    else:
                        sums = sum(past[r] * tile[r] for r in range(i.taps))
                    before = self.acc[entry] if i.accumulate or number > 1 else 0
                    self.acc[entry] = (before + sums * (256 if i.high else 1) + 2**31) % 2**32 - 2**31
                    if i.final and number == tiles:
                        self.released.append((entry, self.acc[entry].tolist()))
                    entry += 1


class Run:
    """Instructions on the engine: memories answer at the stated time only, an output stage reads what is
    released.

    After it: `issued` (cycles with an activation request), `done`, `errors` (cycle, code), `taken` (entry,
    sums), `refused` (cycles in which a read of an entry waited) and `acc`.
    """

    def __init__(self, model, instrs, *, seed=0, read=1.0, gap=0.0, limit=4000):
        arch = self.arch = model.arch
        self.model, self.instrs, self.rng, self.read, self.gap, self.limit = (
            model,
            instrs,
            random.Random(seed),
            read,
            gap,
            limit,
        )
        self.issued, self.done, self.errors, self.taken = [], [], [], []
        self.releases, self.cycle, self.refused = 0, 0, 0
        self.acc = None
        self.engine = MatrixEngine(arch)
        act = [int(v) & 255 for v in model.act]
        self.act_bytes = act + act[: arch.act_width]
        simulate(self.engine, self._output, processes=[self._memories, self._commands], seed=seed)
        assert self.acc is not None

    async def _memories(self, ctx):
        engine, arch, rng = self.engine, self.arch, self.rng
        act, weights = engine.act, engine.weights
        per_bank = arch.weight_load_cycles
        banks = range(arch.weight_rows_per_cycle)
        ctx.set(act.ready, 1)
        later, words = [0] * (ActReadSignature.LATENCY - 1), [0] * (WeightReadSignature.LATENCY - 1)
        bits, line_bits = 8 * arch.act_width, 8 * arch.cols
        sampled = (
            act.valid,
            act.addr,
            weights.en,
            *(weights.line[b] for b in banks),
            engine.engine.done,
            engine.engine.error,
            engine.engine.error_code,
            engine.acc.release,
        )
        while True:
            values = await ctx.tick().sample(*sampled)
            _, _, valid, address, enable, *lines, done, error, code, release = values
            ctx.set(act.data.as_value(), later.pop(0))
            # Between the stated cycles the data is garbage.
            later.append(rng.getrandbits(bits))
            if valid:
                self.issued.append(self.cycle)
                later[-1] = int.from_bytes(
                    bytes(self.act_bytes[address : address + arch.act_width]), "little"
                )
            value = 0
            for b in banks:
                word = rng.getrandbits(line_bits)
                if enable >> b & 1:
                    tile, line = divmod(lines[b], per_bank)
                    word = int.from_bytes(
                        bytes(int(w) & 255 for w in self.model.tiles[tile, b * per_bank + line]), "little"
                    )
                value |= word << (b * line_bits)
            words.append(value)
            ctx.set(weights.data.as_value(), words.pop(0))
            if done:
                self.done.append(self.cycle)
            if error:
                self.errors.append((self.cycle, ErrorCode(code)))
            self.releases += release
            self.cycle += 1

    async def _commands(self, ctx):
        command = self.engine.engine.cmd
        isa = isa_for(self.arch)
        await ctx.tick()
        for instr in self.instrs:
            while self.rng.random() < self.gap:
                await ctx.tick()
            fields = {f.name: instr.operands[f.name] - f.bias for f in isa.by_mnemonic["MATMUL"].fields}
            ctx.set(command.payload.opcode, isa.by_mnemonic["MATMUL"].opcode)
            ctx.set(command.payload.body.MATMUL, fields)
            ctx.set(command.valid, 1)
            # Not `until`: a simulation that ends inside it leaves a coroutine that cannot be closed.
            accepted = False
            while not accepted:
                _, _, accepted = await ctx.tick().sample(command.ready)
            ctx.set(command.valid, 0)

    async def _fetch(self, ctx, entry):
        acc = self.engine.acc
        ctx.set(acc.addr, entry)
        ctx.set(acc.valid, 1)
        while True:
            _, _, ready = await ctx.tick().sample(acc.ready)
            if ready:
                break
            self.refused += 1
        ctx.set(acc.valid, 0)
        for _ in range(AccReadSignature.LATENCY - 1):
            await ctx.tick()
        return [ctx.get(acc.data[c]) for c in range(self.arch.cols)]

    async def _output(self, ctx):
        expected = iter([entry for entry, _ in self.model.released])
        quiet = 0
        while quiet < self.arch.rows + 8:
            finished = len(self.done) == len(self.instrs) or self.errors
            if self.releases > len(self.taken) and self.rng.random() < self.read:
                entry = next(expected, None)
                assert entry is not None, "more entries are released than expected"
                self.taken.append((entry, await self._fetch(ctx, entry)))
            else:
                await ctx.tick()
                quiet += bool(finished and self.releases == len(self.taken))
            assert self.cycle < self.limit, (
                f"hangs: {len(self.done)} of {len(self.instrs)} done, {len(self.taken)} entries taken"
            )
        self.acc = np.array([await self._fetch(ctx, entry) for entry in range(self.arch.acc_depth)])


def check(arch, instrs, *, seed, **options):
    model = Model(arch, seed)
    for instr in instrs:
        model.execute(instr)
    run = Run(model, instrs, seed=seed, **options)
    assert not run.errors, f"seed {seed}: {run.errors}"
    assert len(run.done) == len(instrs), f"seed {seed}"
    assert run.taken == model.released, f"seed {seed}"
    np.testing.assert_array_equal(run.acc, model.acc, err_msg=f"seed {seed}")
    return run
