"""ADD, MUL and POOL against the formulas of the instruction set, integer by integer, with random stalls."""

import random

import pytest

from systolith.sim.benches.checks import signed8
from systolith.sim.benches.stimulus import random_binary, random_pool
from systolith.spec import numerics, timing
from systolith.spec.isa import OperandA, isa_for
from tests.hw.engine_bench import EQUAL, MIXED, TINY
from tests.hw.vector_bench import execute

ARCHS = pytest.mark.parametrize("arch", [TINY, MIXED, EQUAL], ids=lambda arch: arch.name)


class Model:
    """Executes instructions on an activation SRAM; collects reads and writes."""

    def __init__(self, arch, rng):
        self.arch = arch
        self.act = bytearray(rng.randbytes(arch.act_bytes))
        self.tables = rng.randbytes(arch.table_bytes)
        self.chain = []

    def execute(self, instr, rng):
        """Writes in order as (address, bytes). Operands from OUTPUT are drawn from `rng`."""
        arch, effects, self.touched = self.arch, [], set()
        for y in range(instr.ny):
            for x in range(instr.nx):
                for first in range(0, instr.bytes, arch.lanes):
                    lanes = range(first, min(first + arch.lanes, instr.bytes))
                    if instr.mnemonic == "POOL":
                        values = [self.pool(instr, y, x, lane) for lane in lanes]
                    else:
                        values = self.binary(instr, y, x, lanes, rng)
                    values = tuple(
                        signed8(self.tables[256 * instr.slot + (q & 255)]) if instr.table else q
                        for q in values
                    )
                    at = (instr.dst + y * instr.dst_row + x * instr.dst_px + first) % arch.act_bytes
                    effects.append((at, values))
        for at, values in effects:
            for lane, value in enumerate(values):
                self.act[(at + lane) % arch.act_bytes] = value & 255
        return effects

    def read(self, at):
        """One operand; remembered, so that a program that reads what it writes can be told."""
        at %= self.arch.act_bytes
        self.touched.add(at)
        return signed8(self.act[at])

    def binary(self, instr, y, x, lanes, rng):
        if instr.a_source == OperandA.OUTPUT:
            chunk = [rng.choice((-128, 127, rng.randint(-128, 127))) for _ in lanes]
            self.chain.append(chunk)
        else:
            chunk = [self.read(instr.a + y * instr.a_row + x * instr.a_px + lane) for lane in lanes]
        result = []
        for a, lane in zip(chunk, lanes, strict=True):
            b = self.read(instr.b + y * instr.b_row + x * instr.b_px + lane)
            a, b = a - instr.a_zero, b - instr.b_zero
            total = a * instr.a_mult + b * instr.b_mult if instr.mnemonic == "ADD" else a * b * instr.a_mult
            result.append(
                numerics.saturate(
                    numerics.round_shift(total, instr.shift) + instr.zero, instr.low, instr.high
                )
            )
        return result

    def pool(self, instr, y, x, lane):
        best = -128
        for ky in range(instr.ky):
            for kx in range(instr.kx):
                row = instr.y0 + y * instr.oy_y + ky * instr.ky_y
                column = instr.x0 + x * instr.ox_x + kx * instr.kx_x
                if 0 <= row < instr.height and 0 <= column < instr.row_bytes:
                    at = instr.base + y * instr.oy_addr + x * instr.ox_x
                    at += ky * instr.ky_addr + kx * instr.kx_x
                    best = max(best, self.read(at + lane))
        return best


def run(arch, instrs, *, seed, stall, limit=8000):
    """Execute; returns the `Run`, and the instructions of which it is one.

    Instructions that write what they read are left out: their result depends on the order in time.
    """
    rng = random.Random(seed)
    model = Model(arch, rng)
    before_all, effects, kept = bytes(model.act), [], []
    for instr in instrs:
        before, chunks = bytes(model.act), len(model.chain)
        group = model.execute(instr, rng)
        written = {(at + lane) % arch.act_bytes for at, values in group for lane in range(len(values))}
        if model.touched & written:
            model.act[:] = before
            del model.chain[chunks:]
            continue
        kept.append(instr)
        effects.append(group)
    result = execute(
        arch,
        kept,
        before=before_all,
        after=model.act,
        effects=effects,
        chunks=model.chain,
        tables=model.tables,
        seed=seed,
        stall=stall,
        limit=limit,
    )
    return result, kept


@pytest.mark.parametrize("stall", [0.0, 0.5])
@ARCHS
def test_equals_the_formula(arch, stall):
    seed = 31
    rng = random.Random(seed)
    instrs = [(random_pool if i % 3 == 0 else random_binary)(arch, rng) for i in range(30)]
    result, kept = run(arch, instrs, seed=seed, stall=stall)
    kinds = {(i.mnemonic, i.operands.get("a_source")) for i in kept}
    assert kinds == {("POOL", None), *((name, source) for name in ("ADD", "MUL") for source in OperandA)}
    values = {v for _, effect in result.checker.expected for v in effect[1]}
    assert {-128, 127} <= values and len(values) > 20


@pytest.mark.parametrize(
    "operands",
    [
        {"oy_y": 255, "ny": 1050},
        {"ox_x": 1023, "nx": 40},
        {"kx": 17, "kx_x": 1023, "x0": 1024},
        {"y0": -(1 << 15), "ky": 256, "ky_y": 255},
        {"x0": -2048, "ox_x": 700, "nx": 90},
    ],
)
def test_positions_far_outside_are_padding(operands):
    """Coordinates do not wrap around, however far a program steps."""
    arch = EQUAL
    # Results go to one byte that nothing reads.
    base = {"bytes": 1, "height": 65535, "row_bytes": 1023, "dst": 1023}
    result, _ = run(arch, [isa_for(arch).make("POOL", **{**base, **operands})], seed=3, stall=0.0)
    assert result.checker.complete and result.checker.ends[-1] == operands.get("ny", 1) * operands.get(
        "nx", 1
    )


@ARCHS
def test_one_read_per_cycle_within_an_instruction(arch):
    make = isa_for(arch).make
    pixel = 4 * arch.lanes
    half = arch.act_bytes // 2
    common = dict(nx=6, bytes=pixel, dst=half, dst_px=pixel, low=-128, high=127)
    pool = {k: v for k, v in common.items() if k not in ("low", "high")}
    cases = [
        (make("ADD", **common, a=0, a_px=pixel, b=64, b_px=pixel), 2 * 24),
        (make("MUL", **common, a_source=OperandA.OUTPUT, b_px=pixel), 24),
        (make("POOL", **pool, kx=2, kx_x=pixel, ky=2, ky_y=1, height=2, row_bytes=256, ox_x=pixel), 4 * 24),
    ]
    for instr, reads in cases:
        result, _ = run(arch, [instr], seed=5, stall=0.0)
        first = result.reads[0]
        assert len(result.checker.cycles) == 24, instr
        assert result.reads == list(range(first, first + reads)), instr
        assert result.checker.cycles[-1] - result.reads[-1] == timing.VECTOR_WRITE, instr


@ARCHS
def test_the_next_instruction_reads_what_the_last_wrote(arch):
    make = isa_for(arch).make
    half = arch.act_bytes // 2
    step = dict(
        nx=3,
        bytes=arch.lanes,
        a_px=arch.lanes,
        b_px=arch.lanes,
        dst_px=arch.lanes,
        a_mult=1,
        b_mult=1,
        low=-128,
        high=127,
    )
    instrs = [
        make("ADD", **step, a=0, b=32, dst=half),
        make("ADD", **step, a=half, b=64, dst=half + 64),
        make("MUL", **step, a=half, b=half + 64, dst=96),
    ]
    result, kept = run(arch, instrs, seed=6, stall=0.3)
    assert len(kept) == 3 and result.checker.complete
