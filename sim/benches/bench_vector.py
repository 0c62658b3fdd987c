"""VECTOR: random ADD, MUL, POOL and CELL; every write and the whole activation SRAM are the reference
machine's."""

import random

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from systolith.hw.interfaces import ActReadSignature
from systolith.reference.machine import Machine
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
from systolith.sim.benches.stimulus import (
    depends_on_time,
    edge_bytes,
    random_binary,
    random_cell,
    random_gates,
    random_pool,
)
from systolith.spec.arch import ArchConfig
from systolith.spec.cells import GATE
from systolith.spec.isa import Engine, Instr, OperandA


def random_chunks(arch: ArchConfig, instr: Instr, rng: random.Random) -> list[np.ndarray]:
    """What OUTPUT would send for one instruction."""
    if instr.mnemonic == "CELL":
        return random_gates(arch, instr, rng)
    if instr.mnemonic == "POOL" or instr.a_source != OperandA.OUTPUT:
        return []
    lengths = [min(arch.lanes, instr.bytes - first) for first in range(0, instr.bytes, arch.lanes)] * (
        instr.ny * instr.nx
    )
    return [
        np.array([rng.choice((-128, 127, rng.randint(-128, 127))) for _ in range(n)], np.int8)
        for n in lengths
    ]


async def feed_chain(
    dut, arch: ArchConfig, chunks: list[np.ndarray], rng: random.Random, stall: float
) -> None:
    """Offer chunks with gaps; lanes beyond a chunk, and the payload between offers, are random."""
    chain = Ports(dut, "chain")
    for chunk in chunks:
        while rng.random() < stall:
            chain.payload = rng.getrandbits(GATE.width * arch.lanes)
            await RisingEdge(dut.clk)
        used = chunk.astype(f"<i{GATE.width // 8}").tobytes()
        chain.payload = int.from_bytes(
            used + rng.randbytes(arch.lanes * GATE.width // 8 - len(used)), "little"
        )
        chain.valid = 1
        await RisingEdge(dut.clk)
        while not chain.ready:
            await RisingEdge(dut.clk)
        chain.valid = 0


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def writes_are_right(dut, stall):
    """With random stalls of every port."""
    settings = BenchSettings.current()
    arch, seed = settings.arch, settings.seed
    rng = random.Random(f"{seed} {stall}")
    groups: list[list[tuple]] = []

    def collect(offset, instr, effect):
        rows = zip(effect.addresses, effect.rows, effect.kept, strict=True)
        groups.append([(int(at), tuple(row[:kept].tolist())) for at, row, kept in rows])

    machine = Machine(arch, np.zeros(0, np.uint8), np.zeros(0, np.uint8), collect)
    machine.act[:] = edge_bytes(rng, arch.act_bytes)
    machine.table[:] = np.frombuffer(rng.randbytes(arch.table_bytes), np.int8)
    sram = machine.act.view(np.uint8).copy()
    drawn = [
        (random_pool, random_binary, random_binary, random_cell)[i % 4](arch, rng)
        for i in range(settings.count)
    ]
    instrs = [instr for instr in drawn if not depends_on_time(arch, instr)]
    assert {"ADD", "MUL", "POOL", "CELL"} == {i.mnemonic for i in instrs}, (
        f"seed {seed}: too few instructions were drawn"
    )
    chunks = []
    for instr in instrs:
        own = random_chunks(arch, instr, rng)
        chunks += own
        machine.chain.extend(own)
        machine.execute(instr)
    checker = EffectChecker(groups, seed)
    await start(dut)
    await fill_tables(dut, arch, machine.table.tobytes(), rng)
    cocotb.start_soon(hold_offers(dut, "write", ("addr", "mask", "data"), seed=seed))
    cocotb.start_soon(feed_chain(dut, arch, chunks, rng, stall))
    cocotb.start_soon(feed_commands(dut, arch, Engine.VECTOR, instrs, rng, stall))
    engine, read, write = Ports(dut, "engine"), Ports(dut, "read"), Ports(dut, "write")
    pipeline = [None] * ActReadSignature.LATENCY
    lanes = np.arange(arch.act_width)
    for cycle in range(LIMIT):
        read.ready, write.ready = rng.random() >= stall, rng.random() >= stall
        read.data = int.from_bytes(pipeline.pop(0) or rng.randbytes(arch.act_width), "little")
        await RisingEdge(dut.clk)
        check_error(engine, seed)
        granted = read.valid and read.ready
        pipeline.append(sram[(read.addr + lanes) % arch.act_bytes].tobytes() if granted else None)
        effect = None
        if write.valid and write.ready:
            mask = write.mask
            assert mask and mask & (mask + 1) == 0, f"seed {seed}: mask {mask:b} has a hole"
            effect = (write.addr, split_bytes(write.data, mask.bit_length()))
            sram[(effect[0] + lanes[: len(effect[1])]) % arch.act_bytes] = np.array(effect[1], np.int8).view(
                np.uint8
            )
        checker.step(cycle, effect, engine.done)
        if checker.complete:
            break
    else:
        raise AssertionError(
            f"seed {seed}: VECTOR hangs in instruction {checker.done}: {instrs[checker.done]}"
        )
    np.testing.assert_array_equal(sram, machine.act.view(np.uint8), err_msg=f"seed {seed}")
