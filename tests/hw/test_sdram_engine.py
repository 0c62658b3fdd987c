# amaranth: UnusedElaboratable=no
"""The engine that drives an SDRAM chip, on the chip's model, which checks every rule, against an array of
bytes."""

import random

import pytest

from systolith.hw.soc.sdram_engine import SdramEngine
from systolith.sim.sdram import SdramChip
from tests.hw.kit import chance, send, simulate
from tests.hw.sdram_bench import CONFIGS, drive

EACH = pytest.mark.parametrize("config", CONFIGS)


def random_segments(config, rng, count):
    """Segments in a few rows of all banks, so that rows meet and change; some lie outside the chip."""
    timing, bus_bits, _ = config
    columns = timing.columns * timing.bits // bus_bits
    rows = [0, timing.rows - 1, rng.randrange(timing.rows)]
    segments = []
    for _ in range(count):
        beats = rng.choice((1, 1, 2, 16, rng.randint(1, 16)))
        segments.append(
            {
                "column": rng.choice((0, columns - beats, rng.randint(0, columns - beats))),
                "bank": rng.randrange(timing.banks),
                "row": rng.choice(rows),
                "len": beats - 1,
                "write": rng.randrange(2),
                "last": rng.randrange(2),
                "error": chance(rng, 0.1),
            }
        )
    return segments


def address(config, segment):
    """Address of the first byte: row, bank and column from the top."""
    timing, bus_bits, _ = config
    row = segment["row"] * timing.banks + segment["bank"]
    return row * timing.columns * timing.bits // 8 + segment["column"] * bus_bits // 8


def run(config, segments, *, gap=0.0, seed=0, idle=30):
    """What the segments did: beats that were read, ends of bursts that were written, both with their cycles;
    what should have been; the chip and the memory it should hold."""
    timing, bus_bits, pin_cycles = config
    dut = SdramEngine(timing, bus_bits=bus_bits, pin_cycles=pin_cycles)
    chip = SdramChip(timing, pin_cycles)
    rng = random.Random(f"engine {seed}")
    size = bus_bits // 8
    memory, writes, expected = {}, [], {"reads": [], "written": []}
    for segment in segments:
        for beat in range(segment["len"] + 1):
            at = address(config, segment) + beat * size
            last = segment["last"] and beat == segment["len"]
            if segment["write"]:
                data, strobe = (
                    rng.getrandbits(bus_bits),
                    rng.choice((-1, 0, rng.getrandbits(size))) % (1 << size),
                )
                writes.append({"data": data, "strobe": strobe})
                for lane in range(size):
                    if strobe >> lane & 1 and not segment["error"]:
                        memory[at + lane] = data >> 8 * lane & 255
                if last:
                    expected["written"].append(segment["error"])
            else:
                word = sum(memory.get(at + lane, 0) << 8 * lane for lane in range(size))
                # What comes from outside the chip may be anything.
                expected["reads"].append((None if segment["error"] else word, last, segment["error"]))
    driven = bus_bits // timing.bits * sum(s["len"] + 1 for s in segments if s["write"] and not s["error"])
    found = {"reads": [], "written": [], "cycles": [], "driven": 0}

    async def feed_writes(ctx):
        await send(ctx, dut.writes, writes, rng)

    async def feed(ctx):
        await send(ctx, dut.segments, segments, rng, gap)

    async def watch(ctx):
        quiet = cycle = 0
        due = [len(expected["reads"]), len(expected["written"])]
        while quiet < idle:
            _, _, valid, data, last, error, written, bad, drives = await ctx.tick().sample(
                dut.reads.valid,
                dut.reads.data,
                dut.reads.last,
                dut.reads.error,
                dut.written.valid,
                dut.written.error,
                dut.pins.dq_oe,
            )
            found["driven"] += drives
            if valid:
                found["reads"].append((None if error else data, last, error))
            if written:
                found["written"].append(bad)
            if valid or written:
                found["cycles"].append(cycle)
            done = [len(found["reads"]), len(found["written"])] == due
            quiet = quiet + 1 if done else 0
            cycle += 1
            assert cycle < 30_000, f"hangs with {len(found['reads'])} reads of {due[0]}"

    simulate(dut, watch, beside=[feed, feed_writes], processes=[drive(dut.pins, chip)], seed=seed)
    assert found["driven"] == driven, "DQ is driven without a WRITE, or is not with one"
    return found, expected, chip, memory


@pytest.mark.parametrize("gap", [0.0, 0.7])
@EACH
def test_segments_move_the_bytes_of_an_array(config, gap):
    seed = f"{config} {gap}"
    segments = random_segments(CONFIGS[config], random.Random(seed), 90)
    found, expected, chip, memory = run(CONFIGS[config], segments, gap=gap, seed=seed)
    assert found["reads"] == expected["reads"], f"seed {seed}"
    assert found["written"] == expected["written"], f"seed {seed}"
    assert {at: chip.read(at, 1)[0] for at in memory} == memory, f"seed {seed}"
    assert any(error for *_, error in expected["reads"]) and any(expected["written"])


@pytest.mark.parametrize("write", [0, 1])
@EACH
def test_one_word_per_cycle_within_an_open_row(config, write):
    timing, bus_bits, _ = CONFIGS[config]
    words = bus_bits // timing.bits
    # From the second on, the row is open.
    segments = [
        {"column": 16 * index, "bank": 1, "row": 7, "len": 15, "write": write, "last": 1, "error": 0}
        for index in range(4)
    ]
    found, *_ = run(CONFIGS[config], segments, seed=f"rate {config}")
    ends = found["cycles"] if write else found["cycles"][15::16]
    assert [after - before for before, after in zip(ends, ends[1:], strict=False)] == [16 * words] * 3


@EACH
def test_the_next_row_of_another_bank_is_opened_meanwhile(config):
    timing, bus_bits, _ = CONFIGS[config]
    words = bus_bits // timing.bits
    assert 16 * words >= timing.cycles(timing.t_rp) + timing.cycles(timing.t_rcd) + 3
    segments = [
        {
            "column": 0,
            "bank": index % timing.banks,
            "row": index,
            "len": 15,
            "write": 0,
            "last": 1,
            "error": 0,
        }
        for index in range(8)
    ]
    found, *_ = run(CONFIGS[config], segments, seed=f"banks {config}")
    ends = found["cycles"][15::16]
    # Beats of one word leave the command bus no slot for PRECHARGE and ACTIVATE.
    lost = {after - before - 16 * words for before, after in zip(ends, ends[1:], strict=False)}
    assert lost == {0} if words > 1 else max(lost) <= 2
