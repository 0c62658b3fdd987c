"""The activation SRAM of a compact core against an array of bytes: who is served, and with what."""

import random

import pytest

from systolith.hw.compact.memory import CompactActMemory
from tests.hw.compact.bench import SMALL, each_arch
from tests.hw.kit import simulate

READERS = ("store_read", "matrix_read")


class Model:
    """One access per cycle: OUTPUT's writes, LOAD's writes, STORE's reads, MATRIX's reads.

    An odd address is read in two accesses, its first byte in the first; between them the other reader waits.
    """

    def __init__(self, contents):
        self.bytes, self.half, self.first = bytearray(contents), None, 0

    def step(self, writes, reads):
        """One cycle. `writes` (of OUTPUT, of LOAD) are (word, data, mask) or None, `reads` maps a reader to
        its address or None. Returns who was served, and the four bytes of a read that ended."""
        if (index := next((i for i, write in enumerate(writes) if write is not None), None)) is not None:
            word, data, mask = writes[index]
            for lane in range(4):
                if mask >> lane & 1:
                    self.bytes[4 * word + lane] = data >> 8 * lane & 255
            return ("output_write", "load_write")[index], None
        reader = self.half or next((name for name in READERS if reads[name] is not None), None)
        if reader is None or (address := reads[reader]) is None:
            return None, None
        found = [self.bytes[(address + i) % len(self.bytes)] for i in range(4)]
        if address % 2 and self.half is None:
            self.half, self.first = reader, found[0]
            return None, None
        if self.half:
            found[0] = self.first
        self.half = None
        return reader, bytes(found)


@each_arch
@pytest.mark.parametrize("busy", [0.2, 0.6, 0.95])
def test_every_cycle_serves_one_client_in_order_of_rank(arch, busy):
    """MATRIX may withdraw a read between its two accesses, as it does when OUTPUT reads accumulators."""
    rng = random.Random(f"{arch.name} {busy}")
    dut = CompactActMemory(arch)
    model = Model(rng.randbytes(arch.act_bytes))
    addresses = [*range(9), *(arch.act_bytes - 1 - i for i in range(9))]
    served = dict.fromkeys(("output_write", "load_write", *READERS), 0)

    def draw_write():
        word = rng.choice((0, 1, 2, arch.act_bytes // 4 - 1, rng.randrange(arch.act_bytes // 4)))
        return word, rng.getrandbits(32), rng.randrange(16)

    async def fill(ctx):
        ctx.set(dut.load_write.mask, 15)
        ctx.set(dut.load_write.valid, 1)
        for word in range(arch.act_bytes // 4):
            ctx.set(dut.load_write.word, word)
            ctx.set(dut.load_write.data, int.from_bytes(model.bytes[4 * word : 4 * word + 4], "little"))
            await ctx.tick()
        ctx.set(dut.load_write.valid, 0)

    async def bench(ctx):
        await fill(ctx)
        load, reads = None, dict.fromkeys(READERS)
        for cycle in range(800):
            output = draw_write() if rng.random() < busy / 3 else None
            load = load or (draw_write() if rng.random() < busy / 3 else None)
            for name in READERS:
                if reads[name] is None and rng.random() < busy:
                    reads[name] = rng.choice((rng.choice(addresses), rng.randrange(arch.act_bytes)))
            offered = dict(reads)
            if rng.random() < 0.2:
                offered["matrix_read"] = None
            for port, write in ((dut.output_write, output), (dut.load_write, load)):
                ctx.set(port.valid, write is not None)
                word, data, mask = write or draw_write()
                ctx.set(port.word, word)
                ctx.set(port.data, data)
                ctx.set(port.mask, mask)
            for name in READERS:
                port = getattr(dut, name)
                ctx.set(port.valid, offered[name] is not None)
                # An address stands until it is served, also while its request is withdrawn.
                ctx.set(port.addr, rng.randrange(arch.act_bytes) if reads[name] is None else reads[name])
            _, _, load_ready, *ready = await ctx.tick().sample(
                dut.load_write.ready, *(getattr(dut, name).ready for name in READERS)
            )
            who, found = model.step((output, load), offered)
            message = f"cycle {cycle} of {arch.name}, busy {busy}"
            assert load_ready == (output is None), message
            granted = [
                name for name, r in zip(READERS, ready, strict=True) if r and offered[name] is not None
            ]
            assert granted == [name for name in READERS if name == who], message
            if found is not None:
                assert ctx.get(dut.data).to_bytes(4, "little") == found, message
            if who:
                served[who] += 1
            if who == "load_write":
                load = None
            if who in READERS:
                reads[who] = None

    simulate(dut, bench)
    # Every client had its turn.
    assert min(served.values()) > 5 or busy == 0.95, served


def test_an_aligned_read_takes_one_access_and_an_odd_one_two():
    dut = CompactActMemory(SMALL)

    async def bench(ctx):
        for port in (dut.store_read, dut.matrix_read):
            ctx.set(port.valid, 1)
            for address in range(8):
                ctx.set(port.addr, address)
                assert await cycles_to_grant(ctx, port) == 1 + address % 2, address
            ctx.set(port.valid, 0)

    async def cycles_to_grant(ctx, port):
        for cycle in range(1, 5):
            _, _, ready = await ctx.tick().sample(port.ready)
            if ready:
                return cycle
        raise AssertionError("no grant")

    simulate(dut, bench)
