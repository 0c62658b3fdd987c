"""The memory arbiters between two managers and a memory, all three with random stalls."""

import random

import pytest

from systolith.hw.soc.memory_arbiter import MemoryArbiter
from systolith.hw.soc.turn_arbiter import TurnArbiter
from tests.hw.axi_manager import AxiManager, Burst, random_bursts
from tests.hw.axi_memory import AxiMemory
from tests.hw.kit import simulate

SIZE = 1 << 15


def run(core, link, *, kind=MemoryArbiter, bus_bits=32, stall=0.0, seed=0, latency=1):
    """Both managers at the same time; returns the memory."""
    dut = kind(bus_bits=bus_bits, addr_bits=32)
    memory = AxiMemory(dut.memory, bytearray(SIZE), latency=latency, stall=stall, seed=seed)
    grants = []

    async def watch(ctx):
        while True:
            offers = [
                (getattr(port, f"{channel}valid"), getattr(port, f"{channel}ready"))
                for channel in ("ar", "aw")
                for port in (dut.core, dut.link)
            ]
            _, _, *values = await ctx.tick().sample(*(signal for pair in offers for signal in pair))
            for core_valid, _, link_valid, link_ready in (values[:4], values[4:]):
                # A turn that the core came too late for is the link's to its end.
                assert kind is TurnArbiter or not (core_valid and link_valid and link_ready), (
                    "the link was granted before the core"
                )
                grants.append(core_valid and link_valid)

    managers = [
        AxiManager(port, bursts, stall=stall, seed=f"{seed} {name}").run
        for name, port, bursts in (("core", dut.core, core), ("link", dut.link, link))
    ]
    simulate(dut, *managers, processes=[memory.run, watch], seed=seed)
    assert not link or any(grants), "they never met"
    return memory.data


@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize("bus_bits", [32, 128])
@pytest.mark.parametrize("kind", [MemoryArbiter, TurnArbiter])
def test_each_manager_sees_its_own_bursts_in_order(kind, bus_bits, stall):
    seed = f"{bus_bits} {stall}"
    rng = random.Random(seed)
    parts = [random_bursts(rng, pages, 1024, bus_bits // 8, 60) for pages in ((0, 4096), (0x5000, 0x7000))]
    data = run(
        *(bursts for bursts, *_ in parts), kind=kind, bus_bits=bus_bits, stall=stall, seed=seed, latency=5
    )
    for bursts, expected, memory in parts:
        for index, (burst, want) in enumerate(zip(bursts, expected, strict=True)):
            assert set(burst.responses) == {0} and (want is None or burst.data == want), (
                f"seed {seed}, burst {index}: {burst}"
            )
        assert {addr: data[addr] for addr in memory} == memory, f"seed {seed}"


@pytest.mark.parametrize("write", [False, True])
def test_the_core_gets_a_beat_in_every_cycle(write):
    bursts = [Burst(write, 64 * index, 16, [7] * 16 * write, [15] * 16 * write) for index in range(32)]
    run(bursts, [], latency=12)
    # From the first address to the last beat: the arbiter's register, the memory's latency, and its own cycle
    # of turn-round.
    assert bursts[-1].done - bursts[0].accepted <= 512 + 16


def test_a_turn_costs_two_cycles_and_the_core_goes_first():
    bursts = [
        Burst(write, 64 * index, 4, [7] * 4 * write, [15] * 4 * write)
        for index, write in enumerate((False, True) * 8)
    ]
    other = [Burst(False, 4096 + 64 * index, 1) for index in range(4)]
    run(bursts, other, kind=TurnArbiter)
    # Four beats and about four cycles of address, turn and memory's latency each.
    assert bursts[-1].done - bursts[0].accepted <= 16 * 9
    assert other[1].accepted > bursts[-2].accepted, "the link's turns came before the core's"


@pytest.mark.parametrize("kind", [MemoryArbiter, TurnArbiter])
def test_a_refused_burst_is_told_to_whom_it_belongs(kind):
    dut = kind(bus_bits=32, addr_bits=32)
    memory = AxiMemory(dut.memory, bytearray(SIZE), bad=range(0x1000, 0x2000), latency=3)
    core = [
        Burst(write, 64 * index, 4, [7] * 4 * write, [15] * 4 * write)
        for index, write in enumerate((False, True) * 4)
    ]
    link = [
        Burst(write, 0x1000 + 64 * index, 2, [7] * 2 * write, [15] * 2 * write)
        for index, write in enumerate((False, True) * 4)
    ]
    managers = [AxiManager(port, bursts).run for port, bursts in ((dut.core, core), (dut.link, link))]
    simulate(dut, *managers, processes=[memory.run])
    assert {r for burst in core for r in burst.responses} == {0} and {
        r for burst in link for r in burst.responses
    } == {2}
