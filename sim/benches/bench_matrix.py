"""MATRIX: random MATMULs; the accumulators that OUTPUT would read, and all of them at the end, are the
reference machine's."""

import random

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge

from systolith.hw.interfaces import AccReadSignature, ActReadSignature, WeightReadSignature
from systolith.reference.machine import Machine
from systolith.sim.benches.kit import LIMIT, Ports, check_error, feed_commands, start
from systolith.sim.benches.run import BenchSettings
from systolith.sim.benches.stimulus import acc_entries, matmul, random_matmul
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Engine, Instr, Mode


def random_program(arch: ArchConfig, machine: Machine, rng: random.Random, count: int) -> list[Instr]:
    """Instructions that never overwrite an entry which was released. DEPTHWISE tiles lie in the upper half of
    the weights."""
    instrs, acc, half = [], 0, arch.weight_tiles // 2
    tiles = machine.weight.reshape(arch.weight_tiles, arch.tile_bytes)
    while acc < arch.acc_depth and len(instrs) < count:
        instr = random_matmul(arch, rng, acc, half)
        if instr.mode == Mode.DEPTHWISE:
            at = half + 8 * len(instrs) % (half - 8)
            instr = matmul(arch, **{**instr.operands, "tile": at})
            unused = [
                arch.weight_offset(row, col)
                for row in range(instr.taps, arch.rows)
                for col in range(arch.cols)
            ]
            tiles[at : at + instr.ky * instr.kx, unused] = 0
        instrs.append(instr)
        acc += acc_entries(instr) if instr.final or rng.random() < 0.7 else 0
    return instrs


async def serve_activations(dut, arch: ArchConfig, act: bytes, rng: random.Random) -> None:
    """Always granted, as the engine demands; garbage but in the cycle that the interface states."""
    port, width = Ports(dut, "act"), arch.act_width
    pipeline = [None] * ActReadSignature.LATENCY
    twice = act + act[:width]
    port.ready = 1
    while True:
        port.data = int.from_bytes(pipeline.pop(0) or rng.randbytes(width), "little")
        await RisingEdge(dut.clk)
        pipeline.append(twice[port.addr : port.addr + width] if port.valid else None)


async def serve_weights(dut, arch: ArchConfig, weight: bytes, rng: random.Random) -> None:
    """Each bank delivers the row of its line in the cycle that the interface states; garbage where it is not
    asked."""
    port, banks, cols = Ports(dut, "weights"), arch.weight_rows_per_cycle, arch.cols
    bits = (arch.weight_tiles * arch.weight_load_cycles - 1).bit_length()
    pipeline = [rng.randbytes(banks * cols) for _ in range(WeightReadSignature.LATENCY - 1)]
    while True:
        await RisingEdge(dut.clk)
        enable, lines = port.en, port.line
        word = bytearray(rng.randbytes(banks * cols))
        for bank in range(banks):
            if enable >> bank & 1:
                line = lines >> bank * bits & ((1 << bits) - 1)
                at = line * arch.weight_line_bytes + bank * cols
                word[bank * cols : (bank + 1) * cols] = weight[at : at + cols]
        pipeline.append(bytes(word))
        port.data = int.from_bytes(pipeline.pop(0), "little")


async def read_entry(dut, arch: ArchConfig, entry: int) -> list[int]:
    """One entry's sums over the output stage's port."""
    port = Ports(dut, "acc")
    port.addr, port.valid = entry, 1
    await RisingEdge(dut.clk)
    while not port.ready:
        await RisingEdge(dut.clk)
    port.valid = 0
    for _ in range(AccReadSignature.LATENCY):
        await RisingEdge(dut.clk)
    return np.frombuffer(port.data.to_bytes(4 * arch.cols, "little"), "<i4").tolist()


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.6])
async def sums_are_right(dut, stall):
    """With random gaps between commands and random delays of the output stage's reads."""
    settings = BenchSettings.current()
    arch, seed = settings.arch, settings.seed
    rng = random.Random(f"{seed} {stall}")
    machine = Machine(arch, np.zeros(0, np.uint8), np.zeros(0, np.uint8))
    machine.act[:] = np.frombuffer(rng.randbytes(arch.act_bytes), np.int8)
    machine.weight[:] = np.frombuffer(rng.randbytes(arch.weight_bytes), np.int8)
    instrs = random_program(arch, machine, rng, settings.count)
    await start(dut)
    # Accumulators keep over a reset what an earlier test left.
    machine.acc[:] = [await read_entry(dut, arch, entry) for entry in range(arch.acc_depth)]
    expected = []
    for instr in instrs:
        machine.execute(instr)
        expected += [(entry, machine.acc[entry].tolist()) for entry in machine.released]
        machine.released.clear()
    cocotb.start_soon(serve_activations(dut, arch, machine.act.tobytes(), rng))
    cocotb.start_soon(serve_weights(dut, arch, machine.weight.tobytes(), rng))
    engine, acc = Ports(dut, "engine"), Ports(dut, "acc")
    counts = {"done": 0, "released": 0}

    async def watch():
        while True:
            await RisingEdge(dut.clk)
            check_error(engine, seed)
            counts["done"] += engine.done
            counts["released"] += acc.release

    cocotb.start_soon(watch())
    cocotb.start_soon(feed_commands(dut, arch, Engine.MATRIX, instrs, rng, stall))
    taken = waited = 0
    while counts["done"] < len(instrs) or taken < len(expected):
        if counts["released"] > taken and rng.random() >= stall:
            assert taken < len(expected), f"seed {seed}: more entries are released than expected"
            entry, sums = expected[taken]
            actual = await read_entry(dut, arch, entry)
            assert actual == sums, (
                f"seed {seed}: released entry {taken} (accumulator {entry}) is {actual}, not {sums}"
            )
            taken += 1
        else:
            await RisingEdge(dut.clk)
        waited += 1
        assert waited < LIMIT, (
            f"seed {seed}: hangs with {counts['done']} of {len(instrs)} done and {taken} entries taken"
        )
    for _ in range(arch.rows + 8):
        await RisingEdge(dut.clk)
    assert counts == {"done": len(instrs), "released": len(expected)}, f"seed {seed}: {counts}"
    for entry in sorted({e for i in instrs for e in range(i.acc, i.acc + acc_entries(i))}):
        actual = await read_entry(dut, arch, entry)
        assert actual == machine.acc[entry].tolist(), (
            f"seed {seed}: accumulator {entry} is {actual}, not {machine.acc[entry].tolist()}"
        )
