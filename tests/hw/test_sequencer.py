"""Semaphores, order and error attribution of the sequencer; legality checks of decode."""

import random

import pytest

from systolith.hw.core.decode import Decode
from systolith.hw.core.sequencer import Sequencer
from systolith.spec.arch import PRESETS
from systolith.spec.isa import Engine, IsaError, isa_for
from systolith.spec.regs import ErrorCode
from tests.hw.kit import simulate

TINY = PRESETS["tiny"]


def run(streams, *, seed=0, steps=600, fail=None, stop_at=None):
    """Feeds ``streams[engine] = [(wait, signal), ...]`` to engines of random speed; returns the log of events
    and errors.

    `fail` = (engine, index) makes the engine report an error instead of done.
    """
    dut = Sequencer(TINY)
    rng = random.Random(seed)
    log, errors = [], []

    async def testbench(ctx):
        sent = {e: 0 for e in Engine}
        flight = {e: [] for e in Engine}
        issued = {e: 0 for e in Engine}
        for step in range(steps):
            done, accepting = {}, {}
            if step == stop_at:
                ctx.set(dut.stop, 1)
            for e in Engine:
                name = e.name.lower()
                port, dispatch = getattr(dut, name), getattr(dut, f"dispatch_{name}")
                more = sent[e] < len(streams.get(e, ()))
                ctx.set(dispatch.valid, more)
                if more:
                    wait, signal = streams[e][sent[e]]
                    ctx.set(
                        dispatch.payload,
                        {
                            "offset": 1000 * e + sent[e],
                            "wait": wait,
                            "signal": signal,
                            "command": {"opcode": sent[e] % 16},
                        },
                    )
                accepting[e] = rng.random() < 0.5
                done[e] = bool(flight[e]) and rng.random() < 0.3
                failing = done[e] and fail == (e, flight[e][0])
                ctx.set(port.cmd.ready, accepting[e])
                ctx.set(port.done, done[e] and not failing)
                ctx.set(port.error, failing)
                ctx.set(port.error_code, ErrorCode.OPERAND_RANGE if failing else 0)
                done[e] = done[e] and not failing
            taken = {e: ctx.get(getattr(dut, f"dispatch_{e.name.lower()}").ready) for e in Engine}
            valid = {e: ctx.get(getattr(dut, e.name.lower()).cmd.valid) for e in Engine}
            opcode = {e: ctx.get(getattr(dut, e.name.lower()).cmd.payload.opcode) for e in Engine}
            if ctx.get(dut.error):
                errors.append((ErrorCode(ctx.get(dut.error_code)), ctx.get(dut.error_offset)))
                return
            for e in Engine:
                if done[e]:
                    log.append(("done", e, flight[e].pop(0), step))
                if valid[e] and accepting[e]:
                    assert opcode[e] == issued[e] % 16, f"{e.name} is out of order, seed {seed}"
                    log.append(("issue", e, issued[e], step))
                    flight[e].append(issued[e])
                    issued[e] += 1
                if sent[e] < len(streams.get(e, ())) and taken[e]:
                    sent[e] += 1
            await ctx.tick()
        log.append(("empty", bool(ctx.get(dut.empty))))

    simulate(dut, testbench, seed=seed)
    return log, errors


@pytest.mark.parametrize("seed", range(3))
def test_an_instruction_issues_after_its_tokens_and_everything_ends(seed):
    count = 25
    streams = {
        Engine.LOAD: [(0, 1 << Engine.MATRIX | 1 << Engine.OUTPUT)] * count,
        Engine.MATRIX: [(1 << Engine.LOAD, 0)] * count,
        Engine.OUTPUT: [(1 << Engine.LOAD, 1 << Engine.STORE)] * count,
        Engine.STORE: [(1 << Engine.OUTPUT, 0)] * count,
        Engine.VECTOR: [(0, 0)] * count,
    }
    log, errors = run(streams, seed=seed)
    assert not errors and log.pop() == ("empty", True), f"seed {seed}"
    at = {event[:3]: event[3] for event in log}
    assert len(at) == 2 * 5 * count, f"seed {seed}"
    for i in range(count):
        for giver, taker in (
            (Engine.LOAD, Engine.MATRIX),
            (Engine.LOAD, Engine.OUTPUT),
            (Engine.OUTPUT, Engine.STORE),
        ):
            assert at["done", giver, i] < at["issue", taker, i], (
                f"{taker.name} {i} did not wait for {giver.name}, seed {seed}"
            )


def test_a_missing_token_holds_back_only_its_engine():
    log, errors = run(
        {Engine.STORE: [(1 << Engine.LOAD, 0)], Engine.LOAD: [(0, 1 << Engine.MATRIX)] * 3}, steps=100
    )
    assert not errors and log.pop() == ("empty", False)
    assert [event[1] for event in log if event[0] == "done"] == [Engine.LOAD] * 3


def test_the_64th_token_is_an_error_of_its_giver():
    log, errors = run({Engine.LOAD: [(0, 1 << Engine.STORE)] * 70})
    assert errors == [(ErrorCode.SEMAPHORE, 63)]
    # 64 were given until then; the error is told some cycles later, in which the engine may be done with
    # more.
    assert 63 <= sum(event[0] == "done" for event in log) <= 65


def test_an_error_names_the_oldest_instruction_of_its_engine():
    _, errors = run({Engine.LOAD: [(0, 0)] * 9, Engine.OUTPUT: [(0, 0)] * 9}, fail=(Engine.OUTPUT, 4))
    assert errors == [(ErrorCode.OPERAND_RANGE, 1000 * Engine.OUTPUT + 4)]


def test_stop_issues_nothing_more():
    log, _ = run({Engine.LOAD: [(0, 0)] * 200}, stop_at=40, steps=200)
    assert log.pop() == ("empty", False)
    assert max(event[3] for event in log if event[0] == "issue") <= 40


def test_decode_agrees_with_the_table_on_random_words():
    seed = 5
    rng = random.Random(seed)
    isa = isa_for(TINY)
    dut = Decode(TINY)
    seen = {True: 0, False: 0}

    async def testbench(ctx):
        for _ in range(600):
            fmt = rng.choice(isa.formats)
            bits = sum(f.bits for f in (*isa.header, *fmt.fields))
            word = rng.getrandbits(bits) & ~15 | fmt.opcode
            if rng.random() < 0.2:
                word |= 1 << rng.randrange(8 * isa.word_bytes)
            if rng.random() < 0.1:
                word = word & ~15 | rng.randrange(16)
            ctx.set(dut.word, word)
            try:
                instr = isa.decode(word.to_bytes(isa.word_bytes, "little"))
                engine = isa.by_mnemonic[instr.mnemonic].engine
                legal = engine is not None or not (instr.operands["wait"] or instr.operands["signal"])
            except IsaError:
                legal = False
            assert bool(ctx.get(dut.format) & ctx.get(dut.legal)) == legal, f"word {word:#x}"
            seen[legal] += 1
            if not legal:
                continue
            assert ctx.get(dut.halt) == (instr.mnemonic == "HALT")
            assert ctx.get(dut.engine) == (0 if engine is None else 1 << engine)
            if engine is not None:
                assert (ctx.get(dut.wait), ctx.get(dut.signal)) == (
                    instr.operands["wait"],
                    instr.operands["signal"],
                )
                body = dut.commands[engine.name.lower()].body[instr.mnemonic]
                for field in isa.by_mnemonic[instr.mnemonic].fields:
                    assert ctx.get(body[field.name]) + field.bias == instr.operands[field.name], (
                        f"{field.name}"
                    )

    simulate(dut, testbench, seed=seed)
    assert min(seen.values()) > 50
