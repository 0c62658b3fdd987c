# amaranth: UnusedElaboratable=no
"""On-chip memory behind AXI4, against an array of bytes."""

import random

import pytest

from systolith.hw.soc.on_chip import OnChipMemory
from tests.hw.axi_manager import AxiManager, Burst, random_bursts
from tests.hw.kit import simulate

DECERR = 3


def run(size, bursts, *, addr_bits=20, stall=0.0, seed=0):
    dut = OnChipMemory(size, addr_bits=addr_bits)
    simulate(dut, AxiManager(dut.axi, bursts, stall=stall, seed=seed).run, seed=seed)


@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize(
    ("size", "pages"), [(1 << 12, (0,)), (1 << 16, (0, 0xF000)), (1 << 17, (0xF000, 0x10000))]
)
def test_random_bursts_against_an_array_of_bytes(size, pages, stall):
    seed = size
    bursts, expected, memory = random_bursts(random.Random(seed), pages, 1024, 4, 120)
    # The memory is read back whole where it was written.
    for addr in sorted({addr & ~63 for addr in memory}):
        bursts.append(Burst(False, addr, 16))
        expected.append(
            [
                sum(memory.get(addr + 4 * beat + lane, 0) << 8 * lane for lane in range(4))
                for beat in range(16)
            ]
        )
    run(size, bursts, stall=stall, seed=seed)
    for index, (burst, data) in enumerate(zip(bursts, expected, strict=True)):
        assert set(burst.responses) == {0}, f"seed {seed}, burst {index}"
        assert data is None or burst.data == data, f"seed {seed}, burst {index}"


def test_an_address_past_the_end_answers_an_error_and_changes_nothing():
    bursts = [
        Burst(True, 0, 1, [1], [15]),
        Burst(True, 1 << 12, 2, [7, 8], [15, 15]),
        Burst(False, 1 << 12, 2),
        Burst(False, 0, 1),
    ]
    run(1 << 12, bursts)
    assert [burst.responses for burst in bursts] == [[0], [DECERR], [DECERR, DECERR], [0]]
    assert bursts[3].data == [1]


def test_a_beat_per_cycle():
    bursts = [Burst(True, 64, 16, list(range(16)), [15] * 16), Burst(False, 64, 16)]
    run(1 << 12, bursts)
    write, read = bursts
    assert write.done - write.accepted == 17
    assert (read.first - read.accepted, read.done - read.first) == (2, 15)
    assert read.data == list(range(16))


@pytest.mark.parametrize("size", [512, 3000, 1 << 18])
def test_other_sizes_are_refused(size):
    with pytest.raises(ValueError, match="power of two from 1 KiB to 128 KiB"):
        OnChipMemory(size, addr_bits=20)


def test_a_bus_that_cannot_reach_it_is_refused():
    with pytest.raises(ValueError, match="within 12 bits of address"):
        OnChipMemory(1 << 13, addr_bits=12)
