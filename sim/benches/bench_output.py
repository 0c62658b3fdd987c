"""OUTPUT: random instructions; every chunk that leaves is the reference machine's, in its order and place."""

import random

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from systolith.hw.interfaces import AccReadSignature
from systolith.reference.machine import Machine
from systolith.reference.params import pack_params
from systolith.sim.benches.checks import EffectChecker, split_bytes
from systolith.sim.benches.kit import (
    LIMIT,
    Ports,
    check_error,
    feed_commands,
    fill_tables,
    hold_offers,
    start,
)
from systolith.sim.benches.run import BenchSettings
from systolith.sim.benches.stimulus import random_output
from systolith.spec.arch import ArchConfig
from systolith.spec.cells import GATE
from systolith.spec.isa import Engine, Instr

_EDGES = (-(1 << 31), (1 << 31) - 1)


def random_sums(rng: random.Random, shape: tuple[int, ...]) -> np.ndarray:
    """Sums that reach both ends of int32 and the small values around zero."""
    values = [
        rng.choice((rng.randint(*_EDGES), rng.randint(-2000, 2000), *_EDGES))
        for _ in range(int(np.prod(shape)))
    ]
    return np.array(values, np.int64).reshape(shape)


def random_params(arch: ArchConfig, rng: random.Random) -> bytes:
    """Half of the channels scale by a power of two, which makes ties; the rest saturates, vanishes or does
    anything."""
    entry = {"bias": [], "mult": [], "shift": []}
    for _ in range(arch.cols):
        if rng.random() < 0.5:
            exponent = rng.randrange(16)
            values = rng.randint(-50, 50), 1 << exponent, exponent + rng.randrange(1, 8)
        else:
            values = (
                rng.choice((rng.randint(*_EDGES), 0)),
                rng.randrange(1 << 16),
                rng.choice((rng.randrange(64), rng.randrange(36, 44))),
            )
        for name, value in zip(entry, values, strict=True):
            entry[name].append(value)
    return pack_params(
        arch.cols,
        reserved=np.array([rng.getrandbits(10) for _ in range(arch.cols)]),
        **{name: np.array(values) for name, values in entry.items()},
    )


def expected_effects(machine: Machine, instrs: list[Instr]) -> list[list[tuple]]:
    """Per instruction, its chunks: ('act', address, bytes) or ('chain', bytes)."""
    groups: list[list[tuple]] = []

    def collect(offset, instr, effect):
        if effect.space == "act":
            rows = zip(effect.addresses, effect.rows, effect.kept, strict=True)
            groups[-1] += [("act", int(at), tuple(row[:kept].tolist())) for at, row, kept in rows]

    machine.on_instruction = collect
    for instr in instrs:
        groups.append([])
        machine.released.extend(range(instr.acc, instr.acc + instr.ny * instr.nx))
        machine.execute(instr)
        groups[-1] += [("chain", tuple(chunk.tolist())) for chunk in machine.chain]
        machine.chain.clear()
    return groups


async def serve_accumulators(
    dut, machine: Machine, pixels: list[int], rng: random.Random, stall: float, seed: int
) -> None:
    """Releases entries at random times, answers reads of released ones, and delivers parameters."""
    acc, params, arch = Ports(dut, "acc"), Ports(dut, "params"), machine.arch
    released = taken = 0
    coming = [None] * (AccReadSignature.LATENCY - 1)
    while True:
        pulse = released < len(pixels) and released - taken < arch.acc_depth and rng.random() >= stall
        acc.ready, acc.release = rng.random() >= stall, pulse
        await RisingEdge(dut.clk)
        granted = acc.valid and acc.ready
        if granted:
            assert taken < released, f"seed {seed}: entry {acc.addr} is taken before it is released"
            assert acc.addr == pixels[taken], (
                f"seed {seed}: pixel {taken} reads accumulator {acc.addr}, not {pixels[taken]}"
            )
        taken, released = taken + granted, released + pulse
        coming.append(machine.acc[acc.addr].astype("<i4").tobytes() if granted else None)
        if (word := coming.pop(0)) is not None:
            acc.data = int.from_bytes(word, "little")
        if params.en:
            at = params.addr * arch.param_chunk_bytes
            params.data = int.from_bytes(machine.param[at : at + arch.param_chunk_bytes].tobytes(), "little")


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def chunks_are_right(dut, stall):
    """With random stalls of every port."""
    settings = BenchSettings.current()
    arch, seed = settings.arch, settings.seed
    rng = random.Random(f"{seed} {stall}")
    machine = Machine(arch, np.zeros(0, np.uint8), np.zeros(0, np.uint8))
    machine.acc[:] = random_sums(rng, machine.acc.shape).astype(np.int32)
    machine.param[:] = np.frombuffer(
        b"".join(random_params(arch, rng) for _ in range(arch.param_rows)), np.uint8
    )
    machine.table[:] = np.frombuffer(rng.randbytes(arch.table_bytes), np.int8)
    instrs = [random_output(arch, rng, min(12, arch.acc_depth)) for _ in range(settings.count)]
    effects = expected_effects(machine, instrs)
    checker = EffectChecker(effects, seed)
    await start(dut)
    await fill_tables(dut, arch, machine.table.tobytes(), rng)
    pixels = [i.acc + p for i in instrs for p in range(i.ny * i.nx)]
    cocotb.start_soon(serve_accumulators(dut, machine, pixels, rng, stall, seed))
    cocotb.start_soon(hold_offers(dut, "act", ("addr", "mask", "data"), seed=seed))
    cocotb.start_soon(hold_offers(dut, "chain", ("payload",), seed=seed))
    cocotb.start_soon(feed_commands(dut, arch, Engine.OUTPUT, instrs, rng, stall))
    engine, act, chain = Ports(dut, "engine"), Ports(dut, "act"), Ports(dut, "chain")
    for cycle in range(LIMIT):
        act.ready, chain.ready = rng.random() >= stall, rng.random() >= stall
        await RisingEdge(dut.clk)
        check_error(engine, seed)
        to_act, to_chain = act.valid and act.ready, chain.valid and chain.ready
        assert not (to_act and to_chain), f"seed {seed}: one result to both destinations"
        effect = None
        if to_act:
            mask = act.mask
            assert mask and mask & (mask + 1) == 0, f"seed {seed}: mask {mask:b} has a hole"
            effect = ("act", act.addr, split_bytes(act.data, mask.bit_length()))
        elif to_chain:
            # The chain carries no mask: lanes beyond the channels are free.
            following = (
                checker.expected[checker.seen][1] if checker.seen < len(checker.expected) else ("none", ())
            )
            effect = ("chain", split_bytes(chain.payload, len(following[-1]), GATE.width))
        checker.step(cycle, effect, engine.done)
        if checker.complete:
            return
    raise AssertionError(f"seed {seed}: OUTPUT hangs in instruction {checker.done}: {instrs[checker.done]}")
