"""The native harness: it copies right, and each broken rule of AXI is reported."""

import numpy as np
import pytest

from systolith.sim.native import MemoryModel, ProtocolError, RtlBench
from systolith.sim.verilator import SimulationError
from systolith.spec.memory import MemoryTimingError
from tests.sim.copy_engine import BEATS, BUGS, BURSTS, CONTROL, DST, SRC, copy_engine


def copy(bench, seed, bursts=16):
    """Copy random bytes; returns what was sent and what arrived."""
    data = np.random.default_rng(seed).integers(0, 256, bursts * BEATS * 4).astype(np.uint8).tobytes()
    bench.write(0x1000, data)
    for register, value in ((SRC, 0x1000), (DST, 0x8000), (BURSTS, bursts), (CONTROL, 1)):
        bench.register_write(register, value)
    assert bench.run_while(CONTROL, 1, 20_000)
    return data, bench.read(0x8000, len(data))


@pytest.mark.parametrize(
    "memory",
    [
        MemoryModel(),
        MemoryModel(latency=5, bytes_per_cycle=1),
        MemoryModel(latency=3, stall_seed=7, stall_probability=0.4),
    ],
    ids=["plain", "slow", "stalls"],
)
def test_data_arrive_whatever_the_memory_does(memory):
    with RtlBench(copy_engine(), "copier", memory) as bench:
        sent, received = copy(bench, 1)
        assert received == sent


def test_bandwidth_and_latency_cost_cycles():
    taken = []
    for memory in (
        MemoryModel(latency=2),
        MemoryModel(latency=60),
        MemoryModel(latency=2, bytes_per_cycle=1),
    ):
        with RtlBench(copy_engine(), "copier", memory) as bench:
            copy(bench, 1)
            taken.append(bench.cycle)
    assert taken[1] > taken[0] + 16 * 50
    # At one byte a cycle each beat but a burst's first waits four cycles, in each direction; the fast memory
    # needs far less.
    assert taken[2] >= 16 * 2 * (BEATS - 1) * 4 > taken[0]


@pytest.mark.parametrize("bug", BUGS)
def test_each_broken_rule_is_reported(bug):
    with pytest.raises(ProtocolError, match=BUGS[bug]):
        with RtlBench(
            copy_engine(bug), "copier", MemoryModel(latency=3, stall_seed=7, stall_probability=0.4)
        ) as bench:
            copy(bench, 1)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"latency": -1}, MemoryTimingError, "latency must be 0 cycles or more, not -1"),
        ({"bytes_per_cycle": 0}, MemoryTimingError, "at least 1 byte per cycle, not 0"),
        ({"outstanding": 0}, SimulationError, "outstanding must be >= 1"),
        ({"stall_probability": 1.0}, SimulationError, "stall_probability < 1, not 16 and 1.0"),
    ],
)
def test_a_memory_that_cannot_be_is_refused(values, error, message):
    with pytest.raises(error, match=message):
        MemoryModel(**values)
