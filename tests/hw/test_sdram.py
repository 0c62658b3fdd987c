"""The SDRAM controller on the chip's model, which checks every rule, against an array of bytes."""

import dataclasses
import random

import pytest

from systolith.hw.soc.sdram import SdramController
from systolith.hw.soc.sdram_chip import GW2AR_18_SDRAM, ULX3S_SDRAM, SdramError
from systolith.sim.sdram import SdramChip, SdramRuleError
from tests.hw.sdram_bench import ADDR_BITS, Bench, Burst, fast_start

CL2 = fast_start(ULX3S_SDRAM)
CL3 = fast_start(dataclasses.replace(ULX3S_SDRAM, clock_hz=100_000_000, cas_latency=3, t_ck=7.0))
WIDE = fast_start(GW2AR_18_SDRAM)
CONFIGS = {"16 bits, CL2": (CL2, 32, 0), "16 bits, CL3, bus of 128": (CL3, 128, 2), "32 bits": (WIDE, 32, 1)}


def random_bursts(rng, timing, bus_bytes, count):
    """Reads and writes that often meet in few rows of all banks; returns them, and what the reads must give."""
    row_bytes = timing.columns * timing.bits // 8
    starts = [rng.randrange(timing.bytes // 4096) * 4096 for _ in range(3)] + [0, timing.bytes - 4096]
    memory, bursts, expected = {}, [], []
    while len(bursts) < count:
        beats = rng.choice((1, 1, 2, rng.randint(1, 16), 16))
        near = rng.choice((0, row_bytes - 2 * bus_bytes, rng.randrange(4096))) // bus_bytes * bus_bytes
        beats = min(beats, (4096 - near) // bus_bytes)
        addr = rng.choice(starts) + near
        if rng.random() < 0.5:
            burst = Burst(True, addr, beats, [rng.getrandbits(8 * bus_bytes) for _ in range(beats)],
                          [rng.choice((-1, 0, rng.getrandbits(bus_bytes))) % (1 << bus_bytes) for _ in range(beats)])
            for beat in range(beats):
                for lane in range(bus_bytes):
                    if burst.strobes[beat] >> lane & 1:
                        memory[addr + beat * bus_bytes + lane] = burst.data[beat] >> 8 * lane & 255
            expected.append(None)
        else:
            burst = Burst(False, addr, beats)
            expected.append([sum(memory.get(addr + beat * bus_bytes + lane, 0) << 8 * lane for lane in range(bus_bytes)) for beat in range(beats)])
        bursts.append(burst)
    return bursts, expected, memory


@pytest.mark.parametrize("stall", [0.0, 0.3])
@pytest.mark.parametrize("config", CONFIGS)
def test_every_byte_is_where_it_was_written(config, stall):
    timing, bus_bits, pin_cycles = CONFIGS[config]
    seed = f"{config} {stall}"
    bursts, expected, memory = random_bursts(random.Random(seed), timing, bus_bits // 8, 100)
    bench = Bench(timing, bus_bits=bus_bits, stall=stall, seed=seed, pin_cycles=pin_cycles)
    bench.run(bursts, idle=20)
    for index, (burst, want) in enumerate(zip(bursts, expected, strict=True)):
        assert set(burst.responses) == {0}, f"seed {seed}, burst {index}"
        assert want is None or burst.data == want, f"seed {seed}, burst {index}: {burst}"
    for addr, value in memory.items():
        assert bench.chip.read(addr, 1)[0] == value, f"seed {seed}, byte {addr:#x}"
