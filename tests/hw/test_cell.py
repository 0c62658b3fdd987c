"""CELL against the reference machine, bit for bit, with random stalls; its lane against `spec.cells`."""

import itertools
import random

import numpy as np
import pytest

from systolith.hw.leaf.cell_lane import FACTOR, PRE, CellLane
from systolith.reference.machine import Machine
from systolith.sim.benches.stimulus import edge_bytes, random_cell, random_gates
from systolith.spec import cells, numerics, timing
from systolith.spec.isa import Cell, OperandA, isa_for
from tests.hw.engine_bench import EQUAL, MIXED, TINY, WIDE
from tests.hw.kit import simulate
from tests.hw.vector_bench import execute

ARCHS = pytest.mark.parametrize("arch", [TINY, MIXED, EQUAL, WIDE], ids=lambda arch: arch.name)


# -- lane
# ------------------------------------------------------------------------------------------------------------
def run_lane(operations):
    """The results of one operation after another, each a dictionary of inputs; a new one as early as it may
    begin.

    A result is `o`, or `hidden` where the operation says so.
    """
    dut = CellLane()
    results = {}

    async def bench(ctx):
        pending, cycle = {}, 0
        for i, inputs in enumerate(operations):
            latency = CellLane.LOOKUP if "lookup" in inputs else CellLane.MULTIPLY
            if cycle + latency in pending:
                ctx.set(dut.lookup, 0)
                await step(ctx, pending, cycle)
                cycle += 1
            pending[cycle + latency] = i
            for name in ("lookup", "plain", "tanh", "x", "a", "b", "pre", "post"):
                ctx.set(getattr(dut, name), inputs.get(name, 0))
            await step(ctx, pending, cycle)
            cycle += 1
        ctx.set(dut.lookup, 0)
        for _ in range(CellLane.LOOKUP + 1):
            await step(ctx, pending, cycle)
            cycle += 1

    async def step(ctx, pending, cycle):
        if cycle in pending:
            operation = pending[cycle]
            results[operation] = ctx.get(dut.hidden if operations[operation].get("hidden") else dut.o)
        await ctx.tick()

    simulate(dut, bench)
    return [results[i] for i in range(len(operations))]


def test_lookups_are_those_of_the_definition_in_every_segment():
    rng = random.Random(1)
    rests = (0, 1, 127, 128, 129, 255)
    xs = [
        (s << cells.SEGMENT_BITS) + rest
        for s in range(-128, 128)
        for rest in (*rng.sample(rests, 2), rng.randrange(256))
    ]
    operations = [
        {"lookup": 1, "tanh": tanh, "x": x, "a": rng.randrange(99), "post": 7} for x in xs for tanh in (0, 1)
    ]
    tables = (cells.SIGMOID, cells.TANH)
    assert run_lane(operations) == [cells.interpolate(tables[op["tanh"]], op["x"]) for op in operations]
    plain = [{"lookup": 1, "plain": 1, "x": x} for x in xs]
    assert run_lane(plain) == xs


def test_products_are_rounded_to_even_and_saturated():
    rng = random.Random(2)

    def pick(low, high):
        return rng.choice((low, high, 0, rng.randint(low, high), rng.randint(low, high)))

    operations, close = [], 0
    for _ in range(800):
        hidden, tie = rng.randrange(2), rng.random() < 0.5
        # Powers of two whose product is half a unit make ties.
        exponent = rng.randrange(8, 15)
        rest = 14 + 8 * hidden - exponent
        a = rng.choice((-1, 1)) << exponent if tie else pick(-(1 << 16), (1 << 16) - 1)
        b = (
            rng.randint(-(1 << 16 - rest), (1 << 16 - rest) - 1) << rest
            if tie
            else pick(-(1 << 16), (1 << 16) - 1)
        )
        pre = 0 if hidden else pick(-(1 << 27), (1 << 27) - 1) if not tie else rng.choice((0, 1 << 14, -1))
        operations.append(
            {
                "multiply": 1,
                "hidden": hidden,
                "a": a,
                "b": b,
                "pre": pre,
                "post": 0 if hidden else pick(-32768, 32767),
            }
        )
    # A little above half a unit, by bits that only a hidden state drops.
    for a in range(257, 1 << 16, 131):
        b = -(-(1 << 22) // a)
        operations.append({"multiply": 1, "hidden": 1, "a": a, "b": b})
        if 0 < a * b - (1 << 22) < 1 << 8:
            close += 1
    assert close > 3
    assert FACTOR.width == 17 and PRE.width == 28
    expected = []
    for op in operations:
        shift, bits = (23, 8) if op["hidden"] else (15, 16)
        value = op.get("post", 0) + numerics.round_shift(op.get("pre", 0) + op["a"] * op["b"], shift)
        expected.append(numerics.saturate(value, -(1 << (bits - 1)), (1 << (bits - 1)) - 1))
    assert run_lane(operations) == expected
    assert {-32768, 32767, -128, 127} <= set(expected)


# -- engine
# ------------------------------------------------------------------------------------------------------------
def run(arch, instrs, *, seed, stall):
    """Execute on a vector engine beside a machine; returns the `Run`."""
    rng = random.Random(seed)
    groups = []

    def collect(offset, instr, effect):
        rows = zip(effect.addresses, effect.rows, effect.kept, strict=True)
        groups.append([(int(at), tuple(row[:kept].tolist())) for at, row, kept in rows])

    machine = Machine(arch, np.zeros(0, np.uint8), np.zeros(0, np.uint8), collect)
    machine.act[:] = edge_bytes(rng, arch.act_bytes)
    before = machine.act.tobytes()
    chunks = []
    for instr in instrs:
        if instr.mnemonic == "CELL":
            own = random_gates(arch, instr, rng)
        else:
            own = [
                np.array(
                    [rng.randint(-128, 127) for _ in range(min(arch.lanes, instr.bytes - first))], np.int8
                )
                for first in range(0, instr.bytes, arch.lanes)
            ]
        chunks += own
        machine.chain.extend(own)
        machine.execute(instr)
    return execute(
        arch,
        instrs,
        before=before,
        after=machine.act.view(np.uint8),
        effects=groups,
        chunks=chunks,
        tables=rng.randbytes(arch.table_bytes),
        seed=seed,
        stall=stall,
    )


@pytest.mark.parametrize("stall", [0.0, 0.5])
@ARCHS
def test_equals_the_machine(arch, stall):
    seed = 41
    rng = random.Random(seed)
    # Chained additions between the cells: each instruction takes its own chunks, and only those.
    add = isa_for(arch).make(
        "ADD",
        a_source=OperandA.OUTPUT,
        bytes=arch.lanes,
        b=3,
        dst=arch.act_bytes // 2,
        a_mult=1,
        b_mult=1,
        low=-128,
        high=127,
    )
    instrs = [
        instr
        for i in range(8)
        for kind in Cell
        for instr in ([random_cell(arch, rng, kind)] + [add] * (i % 4 == 3))
    ]
    result = run(arch, instrs, seed=seed, stall=stall)
    checker = result.checker
    # A write is a cycle of work, not of waiting; chained additions, which overlap, wait and write at once.
    cells = {
        cycle
        for cycle, (index, _) in zip(checker.cycles, checker.expected, strict=True)
        if instrs[index].mnemonic == "CELL"
    }
    assert not cells & set(result.stalls), f"seed {seed}: stalled in a cycle with a write"
    values = {v for _, effect in checker.expected for v in effect[1]}
    assert {-128, 127} <= values and len(values) > 20


@pytest.mark.parametrize("kind", Cell)
def test_every_shift_and_both_ends_of_alpha(kind):
    arch = EQUAL
    make, rng = isa_for(arch).make, random.Random(3)
    common = {"kind": kind, "units": arch.cols, "state": 16, "state_high": 40, "dst": 64, "dst_low": 96}
    variants = {
        Cell.LSTM: [{"shift": s} for s in range(8)],
        Cell.GRU: [{"shift": 7, "alpha": 77}] * 8,
        Cell.RNN: [
            {"alpha": a, "shift": 5} for a in (0, 1, 1 << 14, (1 << 15) - 1, 1 << 15, rng.randrange(1 << 15))
        ],
    }[kind]
    result = run(
        arch, [make("CELL", **common, **v, wide=i % 2) for v in variants for i in range(4)], seed=3, stall=0.0
    )
    assert result.checker.complete


@pytest.mark.parametrize("wide", [0, 1])
@pytest.mark.parametrize("kind", Cell)
def test_cycles_from_the_last_gate_and_from_chunk_to_chunk(kind, wide):
    for arch in (EQUAL, MIXED):
        chunks = arch.cols // arch.lanes
        instr = isa_for(arch).make(
            "CELL", kind=kind, units=arch.cols, state=16, state_high=40, dst=64, wide=wide, dst_low=96
        )
        result = run(arch, [instr], seed=1, stall=0.0)
        checker = result.checker
        hidden, last_gates = checker.cycles[2 :: 3 + wide], result.chain[-chunks:]
        assert [b - a for a, b in zip(last_gates, hidden, strict=True)] == [timing.CELL_HIDDEN[kind]] * chunks
        assert all(b - a == timing.cell_chunk(kind, wide) for a, b in itertools.pairwise(last_gates))
        assert checker.cycles[-1] - last_gates[-1] == timing.cell_write(kind, wide)
        assert not any(
            a <= cycle <= b for a, b in zip(last_gates, hidden, strict=True) for cycle in result.stalls
        )
        # In all other cycles it waits for the state, or for a chunk.
        idle = set(range(result.commands[0] + 1, hidden[-1] + wide)) - set(result.chain)
        idle -= {cycle for a, b in zip(last_gates, hidden, strict=True) for cycle in range(a, b + 1 + wide)}
        assert set(result.stalls) == idle
        # The gates before come one chunk per cycle, after the first has met its command.
        assert result.chain[1:-chunks] == list(
            range(result.chain[0] + 1, result.chain[0] + chunks * (kind.gates - 1))
        )
