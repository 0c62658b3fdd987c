"""STORE: random transfers to cocotbext-axi's memory model; what an instruction wrote is there when it is
done."""

import random

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiRamWrite, AxiWriteBus

from systolith.hw.interfaces import ActReadSignature
from systolith.reference.machine import Machine
from systolith.sim.benches.kit import (
    LIMIT,
    Ports,
    check_error,
    feed_commands,
    hold_offers,
    rest,
    set_regions,
    start,
)
from systolith.sim.benches.monitors import watch_axi
from systolith.sim.benches.run import BenchSettings
from systolith.sim.benches.stimulus import random_store
from systolith.spec.isa import Engine, isa_for

#: The DATA region and, around it, memory that must not change.
DATA, SIZE, MEMORY = 0x2000, 0x4000, 0x8000


def expected_memory(arch, instrs, before: bytes, act: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DATA after all instructions, and which instruction wrote each byte last (-1: none)."""
    region, author = np.frombuffer(bytearray(before[DATA : DATA + SIZE]), np.uint8), np.full(SIZE, -1)
    machine = Machine(arch, np.zeros(0, np.uint8), region)
    machine.act[:] = act
    for index, instr in enumerate(instrs):
        machine.execute(instr)
        for plane in range(instr.planes):
            for row in range(instr.rows):
                at = instr.offset + plane * instr.ext_plane + row * instr.ext_row
                author[at : at + instr.bytes] = index
    return region, author


async def serve_reads(dut, arch, act: bytes, rng: random.Random, stall: float) -> None:
    """The activation SRAM: data come exactly `LATENCY` cycles after the grant, garbage in all other
    cycles."""
    read, width = Ports(dut, "read"), arch.act_width
    pipeline = [None] * ActReadSignature.LATENCY
    twice = act + act[:width]
    while True:
        read.ready = rng.random() >= stall
        read.data = int.from_bytes(pipeline.pop(0) or rng.randbytes(width), "little")
        await RisingEdge(dut.clk)
        granted = read.valid and read.ready
        pipeline.append(twice[read.addr : read.addr + width] if granted else None)


def last_row(arch, act_bytes: int):
    """A row that ends with the region and with the SRAM, over a page boundary."""
    length = min(act_bytes, 5001)
    return isa_for(arch).make("STORE", region=1, offset=SIZE - length, bytes=length, base=act_bytes - length)


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.4])
async def transfers_arrive(dut, stall):
    """Bytes are in memory when their instruction is done; no other byte changes."""
    settings = BenchSettings.current()
    arch, seed = settings.arch, settings.seed
    rng = random.Random(f"{seed} {stall}")
    before, act = rng.randbytes(MEMORY), rng.randbytes(arch.act_bytes)
    ram = AxiRamWrite(AxiWriteBus.from_prefix(dut, "axi_"), dut.clk, dut.rst, size=MEMORY)
    ram.write(0, before)
    rest(rng, stall, ram)
    instrs = [random_store(arch, rng) for _ in range(settings.count)]
    instrs.append(last_row(arch, arch.act_bytes))
    expected, author = expected_memory(arch, instrs, before, np.frombuffer(act, np.int8))
    set_regions(dut, data=(DATA, SIZE), program=(0, MEMORY))
    await start(dut)
    cocotb.start_soon(watch_axi(dut, arch.bus_bytes, seed=seed))
    cocotb.start_soon(hold_offers(dut, "read", ("addr",), seed=seed))
    cocotb.start_soon(serve_reads(dut, arch, act, rng, stall))
    cocotb.start_soon(feed_commands(dut, arch, Engine.STORE, instrs, rng, stall))
    engine = Ports(dut, "engine")
    done = 0
    for _ in range(LIMIT):
        await RisingEdge(dut.clk)
        check_error(engine, seed)
        if engine.done:
            assert done < len(instrs), f"seed {seed}: done once too often"
            region = np.frombuffer(ram.read(DATA, SIZE), np.uint8)
            wrong = np.flatnonzero((author == done) & (region != expected))
            assert not len(wrong), (
                f"seed {seed}, {instrs[done]}: byte {wrong[0]} of DATA is {region[wrong[0]]}, "
                f"not {expected[wrong[0]]}, when it is done"
            )
            done += 1
        if done == len(instrs) and engine.idle:
            break
    else:
        raise AssertionError(f"seed {seed}: STORE hangs in instruction {done}: {instrs[done]}")
    after = before[:DATA] + expected.tobytes() + before[DATA + SIZE :]
    assert ram.read(0, MEMORY) == after, f"seed {seed}: bytes that no instruction names have changed"
