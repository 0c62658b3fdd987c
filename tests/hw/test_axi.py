"""The arbiter of the read channel between random clients and a memory, all of them with stalls."""

import dataclasses
import random

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.hw.soc.axi import READ_BURSTS, ReadArbiter, ReadSignature
from tests.hw.engine_bench import TINY
from tests.hw.kit import Held, chance, send, simulate
from tests.hw.read_memory import ReadMemory

NARROW = dataclasses.replace(TINY, name="bus32", bus_bits=32)
BASE, SIZE = 0x3F00, 0x800


class Shared(wiring.Component):
    """The arbiter with one `ReadSignature` towards the memory."""

    def __init__(self, arch, count):
        self._arch, self._count = arch, count
        super().__init__({"clients": In(ReadSignature(arch)).array(count), "bus": Out(ReadSignature(arch))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.arbiter = arbiter = ReadArbiter(self._arch, self._count)
        for outer, inner in zip(self.clients, arbiter.clients, strict=True):
            wiring.connect(m, wiring.flipped(outer), inner)
        wiring.connect(m, arbiter.bursts, wiring.flipped(self.bus.bursts))
        wiring.connect(m, wiring.flipped(self.bus.beats), arbiter.beats)
        return m


def random_bursts(arch, rng, count):
    """Address and beats of bursts that stay inside their page and the memory."""
    b, bursts = arch.bus_bytes, []
    for _ in range(count):
        addr = BASE + rng.randrange(0, SIZE, b)
        room = min(BASE + SIZE, addr // 4096 * 4096 + 4096) - addr
        bursts.append((addr, min(rng.choice((1, 1, 2, 16, rng.randint(1, 16))), room // b)))
    return bursts


def run(arch, clients, *, stall=0.0, gaps=(0.0,), latency=1, bad=range(0), seed=0):
    """The beats that each client got as (data, error, last), the order in which bursts were granted, and the
    memory."""
    dut = Shared(arch, len(clients))
    contents = random.Random(f"contents {seed}").randbytes(SIZE)
    memory = ReadMemory(dut.bus, contents, base=BASE, latency=latency, stall=stall, seed=seed, bad=bad)
    got, granted = [[] for _ in clients], []
    due = sum(beats for bursts in clients for _, beats in bursts)

    def feeder(index):
        async def feed(ctx):
            rng = random.Random(f"client {seed} {index}")
            bursts = [{"addr": addr, "len": beats - 1} for addr, beats in clients[index]]
            await send(ctx, dut.clients[index].bursts, bursts, rng, gaps[index % len(gaps)])

        return feed

    async def watch(ctx):
        rng = random.Random(f"beats {seed}")
        offers = [signal for c in dut.clients for signal in (c.bursts.valid, c.bursts.ready)]
        beats = [
            signal
            for c in dut.clients
            for signal in (c.beats.valid, *(c.beats.payload[name] for name in ("data", "error", "last")))
        ]
        held = [Held(f"a beat of client {index}") for index in range(len(clients))]
        for _ in range(30_000):
            ready = [not chance(rng, stall) for _ in clients]
            for client, is_ready in zip(dut.clients, ready, strict=True):
                ctx.set(client.beats.ready, is_ready)
            values = (await ctx.tick().sample(*offers, *beats))[2:]
            asks = [
                (valid, taken)
                for valid, taken in zip(values[: len(offers) : 2], values[1 : len(offers) : 2], strict=True)
            ]
            taken = [index for index, (valid, is_taken) in enumerate(asks) if valid and is_taken]
            waiting = [index for index, (valid, _) in enumerate(asks) if valid]
            assert taken in ([], waiting[:1]), f"{taken} were granted where {waiting} asked"
            granted.extend(taken)
            came = [values[at : at + 4] for at in range(len(offers), len(values), 4)]
            assert sum(valid for valid, *_ in came) <= 1, "a beat went to two clients"
            for index, (valid, *beat) in enumerate(came):
                held[index].check(valid, ready[index], beat)
                if valid and ready[index]:
                    got[index].append(tuple(beat))
            if sum(map(len, got)) == due:
                return
        raise AssertionError(f"{due - sum(map(len, got))} of {due} beats never came")

    simulate(dut, watch, beside=[memory.run, *(feeder(index) for index in range(len(clients)))], seed=seed)
    expected = [
        [
            (
                int.from_bytes(contents[at - BASE : at - BASE + arch.bus_bytes], "little"),
                at in bad,
                beat == n - 1,
            )
            for addr, n in bursts
            for beat in range(n)
            for at in [addr + beat * arch.bus_bytes]
        ]
        for bursts in clients
    ]
    return got, expected, granted, memory


@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("arch", [TINY, NARROW], ids=lambda arch: arch.name)
def test_each_client_gets_its_own_beats_in_order(arch, count, stall):
    seed = f"{arch.name} {count} {stall}"
    rng = random.Random(seed)
    clients = [random_bursts(arch, rng, 50) for _ in range(count)]
    bad = range(BASE + 0x100, BASE + 0x180)
    got, expected, granted, _ = run(
        arch, clients, stall=stall, gaps=(0.5, 0.3), latency=rng.choice((1, 7)), bad=bad, seed=seed
    )
    assert got == expected, f"seed {seed}"
    assert any(error for beats in expected for _, error, _ in beats)
    assert len(set(granted)) == count and granted != sorted(granted) or count == 1, "they never met"


def test_the_first_client_goes_first():
    # Both always ask, so the second one waits until the first has no more.
    clients = [[(BASE, 1)] * 30, [(BASE + 64, 2)] * 10]
    _, _, granted, _ = run(TINY, clients)
    assert granted == [0] * 30 + [1] * 10


def test_a_burst_and_a_beat_per_cycle():
    _, _, granted, memory = run(TINY, [[(BASE, 1)] * 40])
    cycles = [cycle for _, _, cycle in memory.bursts]
    assert cycles == list(range(cycles[0], cycles[0] + 40))


def test_a_memory_that_never_answers_is_not_asked_for_ever():
    dut = Shared(TINY, 2)
    memory = ReadMemory(dut.bus, bytes(SIZE), base=BASE, latency=10_000)

    async def bench(ctx):
        for client in dut.clients:
            ctx.set(client.bursts.payload, {"addr": BASE, "len": 0})
            ctx.set(client.bursts.valid, 1)
        await ctx.tick().repeat(3 * READ_BURSTS)
        assert not any(ctx.get(client.bursts.ready) for client in dut.clients)

    simulate(dut, bench, beside=[memory.run])
    assert READ_BURSTS - 2 <= len(memory.bursts) <= READ_BURSTS


@pytest.mark.parametrize("lazy", [0, 1])
def test_a_client_that_takes_nothing_blocks_those_behind_it(lazy):
    dut = Shared(TINY, 2)
    memory = ReadMemory(dut.bus, bytes(SIZE), base=BASE)
    came = [0, 0]

    async def bench(ctx):
        ctx.set(dut.clients[1 - lazy].beats.ready, 1)
        for index in (lazy, 1 - lazy):
            client = dut.clients[index]
            ctx.set(client.bursts.payload, {"addr": BASE, "len": 3})
            ctx.set(client.bursts.valid, 1)
            await ctx.tick().until(client.bursts.ready)
            ctx.set(client.bursts.valid, 0)
        for cycle in range(80):
            if cycle == 40:
                assert came == [0, 0]
                ctx.set(dut.clients[lazy].beats.ready, 1)
            _, _, *moved = await ctx.tick().sample(*(c.beats.valid & c.beats.ready for c in dut.clients))
            for index in range(2):
                came[index] += moved[index]

    simulate(dut, bench, beside=[memory.run])
    assert came == [4, 4]
