"""The activation SRAM against an array of bytes: grants, data, latency, order of reads and writes."""

import dataclasses
import random

import pytest

from systolith.hw.core.scratchpad import Scratchpad
from systolith.hw.interfaces import ActReadSignature
from systolith.spec import timing
from tests.hw.engine_bench import EQUAL, MIXED, TINY
from tests.hw.kit import simulate

READS = ("matrix", "vector", "store")
WRITES = ("output", "vector", "load")
ARCHS = [dataclasses.replace(TINY, bus_bits=32, act_bytes=1 << 10), MIXED, EQUAL, TINY]


def blocks_of(arch, addr):
    """The blocks in which the `act_width` bytes from `addr` lie."""
    return {(addr + j) % arch.act_bytes // arch.act_block_bytes for j in range(arch.act_width)}


def blocks_mask(arch, addr):
    return sum(1 << block for block in blocks_of(arch, addr))


def grants(arch, requests):
    """Which requests are granted: those that want no block that one before them wants; a port without a
    request has None."""
    taken, result = set(), []
    for addr in requests:
        needed = set() if addr is None else blocks_of(arch, addr)
        granted = addr is not None and not needed & taken
        taken |= needed
        result.append(granted)
    return result


def random_address(arch, rng):
    """Anywhere, or close to the end of a block, or in a few hot lines, so that reads meet writes."""
    kind = rng.randrange(3)
    if kind == 0:
        return rng.randrange(arch.act_bytes)
    if kind == 1:
        boundary = rng.randrange(arch.act_blocks) * arch.act_block_bytes
        return (boundary + rng.randrange(-arch.act_width - 1, 2)) % arch.act_bytes
    return rng.randrange(3 * arch.act_width)


@pytest.mark.parametrize("idle", [0.0, 0.4])
@pytest.mark.parametrize("arch", ARCHS, ids=lambda arch: f"{arch.name}-{arch.act_width}x{arch.act_blocks}")
def test_equals_an_array_of_bytes(arch, idle):
    seed, cycles = 7, 350
    rng = random.Random(seed)
    dut = Scratchpad(arch)
    memory = bytearray(arch.act_bytes)
    read_ports = [getattr(dut, f"{name}_read") for name in READS]
    write_ports = [getattr(dut, f"{name}_write") for name in WRITES]
    counts = {"reads": 0, "writes": 0, "refused": 0, "straddling": 0, "unknown": 0}

    async def bench(ctx):
        reads, writes = [None] * 3, [None] * 3
        # Bytes under way to their banks: what a read granted meanwhile sees of them is undefined.
        landing = [set()] * timing.ACT_WRITE
        pipeline = [[None] * 3 for _ in range(ActReadSignature.LATENCY)]
        for cycle in range(cycles):
            for i, port in enumerate(read_ports):
                if reads[i] is None and rng.random() >= idle:
                    reads[i] = random_address(arch, rng)
                ctx.set(port.valid, reads[i] is not None)
                addr = rng.randrange(arch.act_bytes) if reads[i] is None else reads[i]
                ctx.set(port.addr, addr)
                ctx.set(port.blocks, blocks_mask(arch, addr))
            for i, port in enumerate(write_ports):
                if writes[i] is None and rng.random() >= idle:
                    writes[i] = (
                        random_address(arch, rng),
                        rng.randbytes(arch.act_width),
                        rng.getrandbits(arch.act_width),
                    )
                addr, value, mask = writes[i] or (rng.randrange(arch.act_bytes), b"\xee" * arch.act_width, -1)
                ctx.set(port.valid, writes[i] is not None)
                ctx.set(port.addr, addr)
                ctx.set(port.blocks, blocks_mask(arch, addr))
                ctx.set(port.data.as_value(), int.from_bytes(value, "little"))
                ctx.set(port.mask, mask & ((1 << arch.act_width) - 1))
            sampled = await ctx.tick().sample(
                *(p.ready for p in read_ports),
                *(p.ready for p in write_ports),
                *(p.data.as_value() for p in read_ports),
            )
            readies, values = sampled[2:8], sampled[8:]
            where = f"seed {seed}, cycle {cycle}"
            for i, expected in enumerate(pipeline.pop(0)):
                if expected is not None:
                    value, mask = expected
                    assert values[i] & mask == value & mask, f"{where}: data of {READS[i]}"
            granted = grants(arch, reads) + grants(arch, [w and w[0] for w in writes])
            for i, (request, grant) in enumerate(zip(reads + writes, granted, strict=True)):
                if request is not None:
                    name = (*READS, *WRITES)[i]
                    assert readies[i] == grant, f"{where}: ready of {name}, requests {reads} {writes}"
                    counts["refused"] += not grant
            assert readies[0], f"{where}: MATRIX was refused"
            answers = [None] * 3
            written = {
                (writes[i][0] + j) % arch.act_bytes
                for i in range(3)
                if granted[3 + i]
                for j in range(arch.act_width)
                if writes[i][2] >> j & 1
            }
            landing = [written, *landing[:-1]]
            for i in range(3):
                if granted[i]:
                    addresses = [(reads[i] + j) % arch.act_bytes for j in range(arch.act_width)]
                    mask = bytes(0 if a in set().union(*landing) else 255 for a in addresses)
                    counts["unknown"] += mask.count(0)
                    answers[i] = (
                        int.from_bytes(bytes(memory[a] for a in addresses), "little"),
                        int.from_bytes(mask, "little"),
                    )
                    counts["straddling"] += len(blocks_of(arch, reads[i])) > 1
                    counts["reads"] += 1
                    reads[i] = None
            pipeline.append(answers)
            for i in range(3):
                if granted[3 + i]:
                    addr, value, mask = writes[i]
                    for j in range(arch.act_width):
                        if mask >> j & 1:
                            memory[(addr + j) % arch.act_bytes] = value[j]
                    counts["writes"] += 1
                    writes[i] = None

    simulate(dut, bench, seed=seed)
    assert (
        counts["reads"] > 200 and counts["writes"] > 200 and counts["refused"] > 20 and counts["unknown"] > 20
    ), counts
    assert counts["straddling"] > 0 or arch.act_blocks == 1, counts
