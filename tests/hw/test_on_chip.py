# amaranth: UnusedElaboratable=no
"""Memory on the FPGA, on random bursts with random stalls, against an array of bytes."""

import random

import pytest
from amaranth.sim import Simulator

from systolith.hw.soc.on_chip import OnChipMemory
from tests.hw.axi_manager import AxiManager, Burst, random_bursts


def run(size, bus_bits, bursts, **options):
    """Bursts through a memory; its contents afterwards, read back."""
    dut = OnChipMemory(size, bus_bits=bus_bits, addr_bits=32)
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(AxiManager(dut.axi, bursts, **options).run)
    simulator.run()


@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize(("size", "bus_bits"), [(1 << 13, 32), (1 << 12, 64), (1 << 13, 128)])
def test_reads_give_what_was_written(size, bus_bits, stall):
    name = f"{size} {bus_bits} {stall}"
    bursts, expected, memory = random_bursts(random.Random(name), (0, size - 4096), 1024, bus_bits // 8, 80)
    whole = [Burst(False, addr, 16) for addr in range(0, size, 2 * bus_bits)]
    run(size, bus_bits, [*bursts, *whole], stall=stall, seed=name)
    for index, (burst, want) in enumerate(zip(bursts, expected, strict=True)):
        assert set(burst.responses) == {0} and (want is None or burst.data == want), f"seed {name}, burst {index}: {burst}"
    data = b"".join(beat.to_bytes(bus_bits // 8, "little") for burst in whole for beat in burst.data)
    assert {addr: data[addr] for addr in memory} == memory, f"seed {name}"


def test_a_beat_per_cycle():
    reads = [Burst(False, 64 * index, 16) for index in range(16)]
    run(4096, 32, reads)
    assert reads[0].first - reads[0].accepted == 2
    assert reads[-1].done - reads[0].accepted == 16 * 17
    writes = [Burst(True, 64 * index, 16, [index] * 16, [15] * 16) for index in range(16)]
    run(4096, 32, writes)
    assert writes[-1].done - writes[0].accepted <= 16 * 19


def test_beyond_the_memory_nothing_is_read_or_written():
    write = Burst(True, 0x1000 + 8, 2, [7, 7], [15, 15])
    bursts = [Burst(True, 8, 2, [1, 2], [15, 15]), write, Burst(False, 0x80000008, 2), Burst(False, 8, 2)]
    run(4096, 32, bursts, alone=True)
    assert [set(burst.responses) for burst in bursts] == [{0}, {3}, {3}, {0}]
    assert bursts[-1].data == [1, 2]


@pytest.mark.parametrize("size", [2048, 5000])
def test_a_size_that_cannot_be_is_refused(size):
    with pytest.raises(ValueError, match="power of two of at least 4096"):
        OnChipMemory(size, bus_bits=32, addr_bits=32)
