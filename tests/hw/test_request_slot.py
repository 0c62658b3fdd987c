"""The slot of requests to the activation SRAM, against a queue of two places and plain sets of blocks."""

import random
from collections import deque

import pytest
from amaranth.lib import data

from systolith.hw.leaf.request_slot import RequestSlot
from tests.hw.engine_bench import EQUAL, MIXED, TINY
from tests.hw.kit import STALLS, as_bits, chance, simulate

TAG = data.StructLayout({"strobe": 5, "last": 1})
ARCHS = pytest.mark.parametrize("arch", [TINY, MIXED, EQUAL], ids=lambda arch: f"{arch.act_blocks} blocks")


def blocks_of(arch, addr):
    """Mask of the blocks in which the `act_width` bytes from an address lie."""
    return sum(
        1 << block
        for block in {(addr + j) % arch.act_bytes // arch.act_block_bytes for j in range(arch.act_width)}
    )


def random_address(arch, rng):
    """Anywhere, or about the end of a block, the last one's too."""
    end = rng.randint(1, arch.act_blocks) * arch.act_block_bytes
    return rng.choice((rng.randrange(arch.act_bytes), end - rng.randint(1, arch.act_width + 1)))


@pytest.mark.parametrize(("gap", "stall"), STALLS)
@pytest.mark.parametrize("tag", [None, 4, TAG], ids=str)
@ARCHS
def test_requests_come_out_in_order_with_their_blocks(arch, tag, gap, stall):
    seed = f"{arch.name} {tag} {gap} {stall}"
    rng = random.Random(seed)
    dut = RequestSlot(arch, tag)
    seen = set()

    async def bench(ctx):
        queue, offer = deque(), None
        for cycle in range(300):
            if offer is None and not chance(rng, gap):
                offer = random_address(arch, rng), 0 if tag is None else rng.getrandbits(4)
            addr, mark = offer or (rng.randrange(arch.act_bytes), 0)
            ready = not chance(rng, stall)
            ctx.set(dut.i.valid, offer is not None)
            ctx.set(dut.i.payload.addr, addr)
            if tag is not None:
                ctx.set(as_bits(dut.i.payload.tag), mark)
            ctx.set(dut.ready, ready)
            room = len(queue) < RequestSlot.DEPTH
            assert ctx.get(dut.i.ready) == room and ctx.get(dut.valid) == bool(queue), f"cycle {cycle}"
            if queue:
                addr, mark = queue[0]
                got = ctx.get(dut.addr), 0 if tag is None else ctx.get(as_bits(dut.tag))
                assert got == (addr, mark), f"cycle {cycle}"
                assert ctx.get(dut.blocks) == blocks_of(arch, addr), f"cycle {cycle}, address {addr}"
                seen.add(blocks_of(arch, addr))
                if ready:
                    queue.popleft()
            if offer is not None and room:
                queue.append(offer)
                offer = None
            await ctx.tick()

    simulate(dut, bench, seed=seed)
    assert arch.act_blocks == 1 or any(mask & (mask - 1) for mask in seen), "no request lay in two blocks"
