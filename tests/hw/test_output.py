"""OUTPUT against the formula of the instruction set, integer by integer, with random stalls."""

import random

import pytest

from systolith.hw.engine.output import OutputEngine
from systolith.hw.interfaces import AccReadSignature
from systolith.sim.benches.checks import EffectChecker, command_bits, signed8, split_bytes
from systolith.sim.benches.stimulus import random_output
from systolith.spec import numerics, timing
from systolith.spec.cells import GATE
from systolith.spec.isa import Destination, Engine, isa_for
from systolith.spec.regs import ErrorCode
from tests.hw.engine_bench import EQUAL, MIXED, TINY, fill
from tests.hw.kit import Held, send, simulate

ARCHS = pytest.mark.parametrize("arch", [TINY, MIXED, EQUAL], ids=lambda arch: arch.name)


class Contents:
    """Accumulators, parameters and tables, with values that reach both ends, ties and every shift."""

    def __init__(self, arch, rng):
        self.acc = [
            [
                rng.choice(
                    (
                        rng.randint(-(1 << 31), (1 << 31) - 1),
                        rng.randint(-2000, 2000),
                        -(1 << 31),
                        (1 << 31) - 1,
                    )
                )
                for _ in range(arch.cols)
            ]
            for _ in range(arch.acc_depth)
        ]
        self.params = [[self._param(rng) for _ in range(arch.cols)] for _ in range(arch.param_rows)]
        self.tables = rng.randbytes(arch.table_bytes)

    @staticmethod
    def _param(rng):
        # A power of two as multiplier and a shift a little above it make ties; wide ones saturate or vanish.
        if rng.random() < 0.5:
            exponent = rng.randrange(16)
            return {
                "bias": rng.randint(-50, 50),
                "mult": 1 << exponent,
                "shift": exponent + rng.randrange(1, 8),
            }
        return {
            "bias": rng.choice((rng.randint(-(1 << 31), (1 << 31) - 1), 0)),
            "mult": rng.randrange(1 << 16),
            "shift": rng.choice((rng.randrange(64), rng.randrange(36, 44))),
        }


def expected_effects(arch, instr, contents):
    """Every chunk that leaves, in order."""
    effects, i = [], instr.acc
    for y in range(instr.ny):
        for x in range(instr.nx):
            result = []
            for c in range(instr.channels):
                p = contents.params[instr.param][c]
                gate = instr.dest == Destination.CELL
                bounds = (0, -(1 << 15), (1 << 15) - 1) if gate else (instr.zero, instr.low, instr.high)
                q = numerics.requantise(contents.acc[i][c] + p["bias"], p["mult"], p["shift"], *bounds)
                looked_up = instr.table and not gate
                result.append(signed8(contents.tables[256 * instr.slot + (q & 255)]) if looked_up else q)
            for first in range(0, instr.channels, arch.lanes):
                chunk = tuple(result[first : first + arch.lanes])
                at = (instr.dst + y * instr.dst_row + x * instr.dst_px + first) % arch.act_bytes
                effects.append(
                    ("act", at, chunk) if instr.dest == Destination.ACT else ("chain", len(chunk), chunk)
                )
            i += 1
    return effects


def run(arch, instrs, contents, *, seed, stall, release=None, limit=6000):
    """Execute; returns (checker, cycles of grants, error code or None, cycle of the error).

    With `release`, entries are released as early as possible, that many cycles before the first command.
    """
    rng = random.Random(seed)
    dut = OutputEngine(arch)
    checker = EffectChecker(
        [
            expected_effects(arch, instr, contents)
            for instr in instrs
            if instr.acc + instr.ny * instr.nx <= arch.acc_depth
        ],
        seed,
    )
    total = sum(instr.ny * instr.nx for instr in instrs)
    result = {"grants": [], "error": None, "started": False}
    widths = [len(effect[2]) for _, effect in checker.expected]

    async def accumulators(ctx):
        # Releases: at most one per cycle, in the end one for every pixel.
        left, released = total, 0
        coming = [None] * (AccReadSignature.LATENCY - 1)
        while True:
            ready = rng.random() >= stall
            room = released - len(result["grants"]) < arch.acc_depth
            pulse = left > 0 and room and (release is not None or rng.random() >= stall)
            ctx.set(dut.acc.ready, ready)
            ctx.set(dut.acc.release, pulse)
            *_, valid, addr, en, param = await ctx.tick().sample(
                dut.acc.valid, dut.acc.addr, dut.params.en, dut.params.addr
            )
            granted = valid and ready
            if granted:
                assert len(result["grants"]) < released, f"seed {seed}: {addr} taken before it was released"
                result["grants"].append((result["cycle"], addr))
            released, left = released + pulse, left - pulse
            coming.append(addr if granted else None)
            if (entry := coming.pop(0)) is not None:
                for c in range(arch.cols):
                    ctx.set(dut.acc.data[c], contents.acc[entry][c])
            if en:
                entry, chunk = divmod(param, arch.chunks)
                for lane in range(arch.lanes):
                    ctx.set(
                        dut.params.data[lane],
                        contents.params[entry][chunk * arch.lanes + lane] | {"reserved": rng.getrandbits(10)},
                    )

    async def feed(ctx):
        await fill(ctx, dut.table_write, arch, contents.tables, rng, gap=0)
        if release is not None:
            await ctx.tick().repeat(release)
        result["started"] = True
        commands = [command_bits(arch, Engine.OUTPUT, instr, rng) for instr in instrs]
        await send(ctx, dut.engine.cmd, commands, rng, stall)

    async def watch(ctx):
        result["cycle"] = 0
        held = Held("a chunk")
        after_error = 0
        while after_error < 40 and not (checker.complete and len(checker.ends) == len(instrs)):
            readies = [rng.random() >= stall for _ in range(2)]
            ctx.set(dut.act.ready, readies[0])
            ctx.set(dut.chain.ready, readies[1])
            sampled = await ctx.tick().sample(
                dut.act.valid,
                dut.act.addr,
                dut.act.mask,
                dut.act.data.as_value(),
                dut.chain.valid,
                dut.chain.payload.as_value(),
                dut.engine.done,
                dut.engine.error,
                dut.engine.error_code,
            )
            to_act, addr, mask, written, to_chain, chunk, done, error, code = sampled[2:]
            assert not (to_act and to_chain)
            taken = (to_act and readies[0]) or (to_chain and readies[1])
            held.check(to_act or to_chain, taken, (to_act, *((addr, mask, written) if to_act else (chunk,))))
            effect = None
            if taken:
                kept = widths[checker.seen] if checker.seen < len(widths) else arch.lanes
                if to_act:
                    assert mask & (mask + 1) == 0, f"seed {seed}: mask {mask:b} has a hole"
                    kept = mask.bit_length()
                effect = (
                    ("act", addr, split_bytes(written, kept))
                    if to_act
                    else ("chain", kept, split_bytes(chunk, kept, GATE.width))
                )
            checker.step(result["cycle"], effect, done)
            if error:
                assert result["error"] is None and checker.complete, f"seed {seed}: error too early"
                result["error"] = ErrorCode(code)
            after_error += result["error"] is not None
            result["cycle"] += result["started"]
            assert result["cycle"] < limit, f"seed {seed}: hung with {checker.done} of {len(instrs)} done"

    simulate(dut, watch, beside=[feed], processes=[accumulators], seed=seed)
    return checker, result


@pytest.mark.parametrize("stall", [0.0, 0.5])
@ARCHS
def test_equals_the_formula(arch, stall):
    seed = 21
    rng = random.Random(seed)
    contents = Contents(arch, rng)
    instrs = [random_output(arch, rng, min(12, arch.acc_depth)) for _ in range(16)]
    checker, result = run(arch, instrs, contents, seed=seed, stall=stall)
    assert checker.complete and result["error"] is None
    entries = [instr.acc + i for instr in instrs for i in range(instr.ny * instr.nx)]
    assert [addr for _, addr in result["grants"]] == entries
    values = {v for _, effect in checker.expected for v in effect[2]}
    assert {-128, 127, -(1 << 15), (1 << 15) - 1} <= values and len(values) > 20
    assert {instr.dest for instr in instrs} == set(Destination)


@ARCHS
def test_one_chunk_per_cycle_with_one_cycle_between_instructions(arch):
    rng = random.Random(5)
    contents = Contents(arch, rng)
    make = isa_for(arch).make
    instrs = [
        make(
            "OUTPUT", dest=dest, acc=0, ny=1, nx=nx, channels=arch.cols, low=-128, high=127, dst_px=arch.cols
        )
        for dest in Destination
        for nx in (1, 5, 1, 4, 3)
    ]
    checker, result = run(
        arch, instrs, contents, seed=5, stall=0.0, release=sum(instr.nx for instr in instrs)
    )
    assert checker.complete
    at = result["grants"][0][0] + timing.OUTPUT_CHAIN
    expected = []
    for instr in instrs:
        chunks = instr.nx * arch.cols // arch.lanes
        begin = at + (timing.OUTPUT_WRITE - timing.OUTPUT_CHAIN if instr.dest == Destination.ACT else 0)
        expected += range(begin, begin + chunks)
        at += chunks + 1
    assert checker.cycles == expected


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_entry_past_the_last_stops_after_the_older_instruction_is_done(stall):
    arch, seed = MIXED, 9
    rng = random.Random(seed)
    contents = Contents(arch, rng)
    make = isa_for(arch).make
    good = make(
        "OUTPUT", acc=arch.acc_depth - 4, ny=1, nx=4, channels=arch.cols, low=-128, high=127, dst_px=8
    )
    # The very last entry exists, the one behind it does not.
    bad = make("OUTPUT", acc=arch.acc_depth - 1, ny=2, nx=1, channels=1, low=-128, high=127)
    late = make("OUTPUT", acc=0, ny=1, nx=1, channels=1)
    dut_result = run_to_error(arch, [good, bad, late], contents, seed=seed, stall=stall)
    assert dut_result == ErrorCode.OPERAND_RANGE


def run_to_error(arch, instrs, contents, *, seed, stall):
    """The error code; the failing instruction's legal entries may have effects, later instructions none."""
    rng = random.Random(seed)
    dut = OutputEngine(arch)
    effects = expected_effects(arch, instrs[0], contents)
    allowed = len(effects) + 1
    seen = {"effects": 0, "done": 0, "error": None}

    async def feed(ctx):
        commands = [command_bits(arch, Engine.OUTPUT, instr, rng) for instr in instrs]
        await send(ctx, dut.engine.cmd, commands, rng)
        raise AssertionError("the engine took an instruction after the error")

    async def watch(ctx):
        ctx.set(dut.acc.ready, 1)
        ctx.set(dut.acc.release, 1)
        for _ in range(400):
            ready = rng.random() >= stall
            ctx.set(dut.act.ready, ready)
            *_, valid, done, error, code = await ctx.tick().sample(
                dut.act.valid, dut.engine.done, dut.engine.error, dut.engine.error_code
            )
            assert not (valid and ready and seen["error"]), f"seed {seed}: an effect after the error"
            seen["effects"] += valid and ready
            seen["done"] += done
            if error:
                assert seen["error"] is None and seen["done"] == 1, f"seed {seed}: error when {seen}"
                seen["error"] = ErrorCode(code)
        assert seen["done"] == 1 and len(effects) <= seen["effects"] <= allowed, f"seed {seed}: {seen}"

    simulate(dut, watch, beside=[feed], seed=seed)
    return seen["error"]
