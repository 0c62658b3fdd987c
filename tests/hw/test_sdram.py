# amaranth: UnusedElaboratable=no
"""The SDRAM controller on the chip's model, which checks every rule, against an array of bytes."""

import dataclasses
import itertools
import random

import pytest
from amaranth.hdl import ResetInserter, Signal

from systolith.hw.soc.sdram import SdramController
from systolith.hw.soc.sdram_chip import GW2AR_18_SDRAM, ULX3S_SDRAM, SdramError
from systolith.sim.sdram import SdramChip, SdramRuleError
from systolith.spec.timing import SDRAM_READ
from tests.hw.axi_manager import AxiManager, Burst, random_bursts
from tests.hw.kit import simulate
from tests.hw.sdram_bench import CONFIGS, drive

EACH = pytest.mark.parametrize("config", CONFIGS)


def run(config, bursts, *, chip=None, idle=20, stall=0.0, seed=0, alone=False):
    """Bursts through the controller of a configuration; returns the chip and the cycles of its refreshes."""
    timing, bus_bits, pin_cycles = config
    dut = SdramController(timing, bus_bits=bus_bits, addr_bits=32, pin_cycles=pin_cycles)
    chip = SdramChip(chip or timing, pin_cycles)
    refreshes = []

    cycle = itertools.count()

    def note():
        refreshes.extend([next(cycle)] * (chip.counts.refreshes - len(refreshes)))

    async def manage(ctx):
        await AxiManager(dut.axi, bursts, stall=stall, seed=seed, alone=alone).run(ctx)
        await ctx.tick().repeat(idle)

    simulate(dut, manage, processes=[drive(dut.pins, chip, note)], seed=seed)
    return chip, refreshes


def random_traffic(config, seed, count):
    """Random bursts at both ends of the chip and somewhere in it."""
    timing, bus_bits, _ = config
    rng = random.Random(seed)
    pages = [rng.randrange(timing.bytes // 4096) * 4096 for _ in range(3)] + [0, timing.bytes - 4096]
    return random_bursts(rng, pages, timing.columns * timing.bits // 8, bus_bits // 8, count)


def stream(config, count, writes):
    """`count` bursts of 64 bytes in ascending order, `writes` of a pattern, from another place, among
    them."""
    bus_bytes = config[1] // 8
    beats = 64 // bus_bytes
    bursts, at = [], {False: 0, True: 1 << 20}
    for index in range(count):
        write = writes[index % len(writes)]
        bursts.append(
            Burst(write, at[write], beats, [index] * beats * write, [(1 << bus_bytes) - 1] * beats * write)
        )
        at[write] += 64
    return bursts


@pytest.mark.parametrize("stall", [0.0, 0.3])
@EACH
def test_every_byte_is_where_it_was_written(config, stall):
    seed = f"{config} {stall}"
    bursts, expected, memory = random_traffic(CONFIGS[config], seed, 70)
    chip, _ = run(CONFIGS[config], bursts, stall=stall, seed=seed)
    for index, (burst, want) in enumerate(zip(bursts, expected, strict=True)):
        assert set(burst.responses) == {0} and (want is None or burst.data == want), (
            f"seed {seed}, burst {index}: {burst}"
        )
    assert {addr: chip.read(addr, 1)[0] for addr in memory} == memory, f"seed {seed}"


@pytest.mark.parametrize("stop", [140, 202])
def test_a_reset_in_the_middle_is_a_new_beginning(stop):
    config = timing, bus_bits, _ = CONFIGS["16 bits, CL2"]
    dut, chip, reset = SdramController(timing, bus_bits=bus_bits, addr_bits=32), SdramChip(timing), Signal()
    lost, _, _ = random_traffic(config, f"lost {stop}", 60)
    bursts, expected, _ = random_traffic(config, f"kept {stop}", 30)

    async def manage(ctx):
        await AxiManager(dut.axi, lost, stall=0.2, seed=stop).run(ctx, stop=stop)
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(reset, 0)
        # A write that stops half-way harms nothing but its bytes.
        chip.restart()
        # The second traffic begins with zeros; of the first, nothing may come.
        for base in {burst.addr // 4096 * 4096 for burst in bursts}:
            chip.write(base, bytes(4096))
        await AxiManager(dut.axi, bursts, stall=0.2, seed=stop).run(ctx)
        await ctx.tick().repeat(20)

    simulate(ResetInserter(reset)(dut), manage, processes=[drive(dut.pins, chip)], seed=stop)
    assert lost[0].done > 0 and lost[-1].done < 0, "the reset is not in the middle"
    for index, (burst, want) in enumerate(zip(bursts, expected, strict=True)):
        assert set(burst.responses) == {0} and (want is None or burst.data == want), (
            f"reset after {stop} cycles, burst {index}: {burst}"
        )


@pytest.mark.parametrize(
    ("writes", "turn"),
    [((False,), 0), ((True,), 0), ((False, True), 5)],
    ids=["reads", "writes", "both in turn"],
)
@EACH
def test_one_word_per_cycle_but_for_refreshes_and_turns(config, writes, turn):
    timing, *_ = CONFIGS[config]
    bursts = stream(CONFIGS[config], 52, writes)
    _, refreshes = run(CONFIGS[config], bursts, idle=1)
    # From the end of the fourth: by then power-up is over.
    words, ends = (64 * 48) // (timing.bits // 8), sorted(burst.done for burst in bursts)
    lost = ends[-1] - ends[3] - words
    assert -8 <= lost <= 18 * (len(refreshes) - 8) + turn * 48, (
        f"{lost} cycles lost in {len(refreshes) - 8} refreshes"
    )


@EACH
def test_latency(config):
    timing, bus_bits, pin_cycles = CONFIGS[config]
    row = timing.columns * timing.bits // 8
    # The first waits for power-up. Then: its row, a closed bank, another row of the first bank.
    bursts = [Burst(False, addr, 1) for addr in (0, 64, row, 4 * row)]
    run(CONFIGS[config], bursts, alone=True)
    hit = SDRAM_READ + timing.cas_latency + bus_bits // timing.bits + pin_cycles
    closed = hit + max(1, timing.cycles(timing.t_rcd) - 1)
    assert [burst.first - burst.accepted for burst in bursts[1:]] == [
        hit,
        closed,
        closed + timing.cycles(timing.t_rp),
    ]


@EACH
def test_refreshes_come_in_time(config):
    timing, bus_bits, _ = CONFIGS[config]
    interval = timing.refresh * timing.clock_hz / 1e9
    burst = 16 * bus_bits // timing.bits
    busy = stream(CONFIGS[config], round(4 * interval) // (64 * 8 // timing.bits), (False, False, True))
    for bursts, idle in (([], round(4.5 * interval)), (busy, 1)):
        _, refreshes = run(CONFIGS[config], bursts, idle=idle)
        gaps = [after - before for before, after in zip(refreshes[8:], refreshes[9:], strict=False)]
        assert len(gaps) >= 3
        # One may be late by what is under way; on average none is, so that every row has its turn within the
        # chip's time.
        assert (
            max(gaps) <= interval + 2 * burst + 20
            and sum(gaps[:-1]) <= (len(gaps) - 1) * interval + 2 * burst + 20
        )
        assert bursts or max(gaps) <= interval


def test_the_chip_has_its_time_to_power_up():
    # A slow clock, which makes few cycles of 200 us.
    timing = dataclasses.replace(GW2AR_18_SDRAM, clock_hz=10_000_000)
    bursts = [Burst(False, 0, 1)]
    run((timing, 32, 0), bursts)
    assert bursts[0].first > 2000


@EACH
def test_nothing_is_beyond_the_chip(config):
    timing, bus_bits, _ = CONFIGS[config]
    strobe = (1 << bus_bits // 8) - 1
    beyond = (timing.bytes, 1 << 31)
    bursts = [
        Burst(True, 0, 2, [1, 2], [strobe] * 2),
        *(Burst(True, addr, 2, [5, 6], [strobe] * 2) for addr in beyond),
        *(Burst(False, addr, 2) for addr in beyond),
        Burst(False, 0, 2),
    ]
    chip, _ = run(CONFIGS[config], bursts, alone=True)
    assert [set(burst.responses) for burst in bursts] == [{0}, {3}, {3}, {3}, {3}, {0}]
    assert bursts[-1].data == [1, 2] and chip.counts.writes == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t_rcd": 200.0}, r"(READ|WRITE) breaks tRCD"),
        ({"t_rp": 200.0}, r"(REFRESH|ACTIVE) breaks tRP"),
        ({"t_ras": 1000.0}, r"PRECHARGE breaks tRAS"),
        ({"t_rc": 1500.0}, r"(REFRESH|ACTIVE) breaks tRC"),
        ({"t_rfc": 200.0}, r"(REFRESH|ACTIVE) breaks tRFC"),
        ({"t_rrd": 200.0}, r"ACTIVE breaks tRRD"),
        ({"t_wr": 200.0}, r"PRECHARGE breaks tWR"),
        ({"t_ras_max": 1000.0}, r"PRECHARGE breaks the longest tRAS"),
        ({"refresh": 3000.0}, r"REFRESH is missing"),
        ({"power_up": 1000.0}, r"PRECHARGE comes before the end of power-up"),
        (
            {"cas_latency": 3},
            r"MODE REGISTER SET with a mode that is not modelled, or another CAS latency than 3",
        ),
        ({"rows": 4096}, r"ACTIVE of a row past the last"),
        ({"columns": 256}, r"(READ|WRITE) of a column past the last"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_chip_with_one_stricter_rule_finds_it_broken(change, message):
    config = CONFIGS["16 bits, CL2"]
    bursts, *_ = random_traffic(config, "strict", 60)
    with pytest.raises(SdramRuleError, match=rf"^SDRAM: {message}.* \(cycle \d+\)$"):
        run(config, bursts, chip=dataclasses.replace(config[0], **change))


def commander():
    """A chip in its first cycle, as the function that gives it a command."""
    chip = SdramChip(CONFIGS["16 bits, CL2"][0])
    rest = {"clk_en": 1, "cs": 1, "dqm": 0, "dq_o": 0, "dq_oe": 0}

    def step(command, bank=0, a=0, **pins):
        chip.step(ras=command >> 2, cas=command >> 1 & 1, we=command & 1, ba=bank, a=a, **rest | pins)

    return step


NOP, TERMINATE, READ, WRITE, ACTIVE, PRECHARGE, REFRESH, MODE = range(8)
START = [(PRECHARGE, 0, 1 << 10), *[(REFRESH, 0, 0)] * 8, (MODE, 0, 0x21)]
OPEN = [*START, (ACTIVE, 1, 5)]


@pytest.mark.parametrize(
    ("commands", "message"),
    [
        ([*OPEN, (ACTIVE, 1, 6)], "ACTIVE of bank 1, which is open"),
        ([*OPEN, (READ, 0, 0)], "READ in bank 0, which is closed"),
        ([*OPEN, (WRITE, 1, 0)], "WRITE without data on DQ"),
        ([*OPEN, (READ, 1, 1 << 10)], "READ with auto precharge is not modelled"),
        ([*OPEN, (TERMINATE, 0, 0)], "BURST TERMINATE is not modelled"),
        ([*OPEN, (REFRESH, 0, 0)], "REFRESH while bank 1 is open"),
        ([*OPEN, (MODE, 0, 0x21)], "MODE REGISTER SET while bank 1 is open"),
        ([(REFRESH, 0, 0)], "REFRESH before PRECHARGE of all banks"),
        ([*START[:8], START[-1]], "MODE REGISTER SET before eight times REFRESH"),
        ([*START[:-1], (ACTIVE, 0, 0)], "ACTIVE before the mode is set"),
        (
            [*START[:-1], (MODE, 0, 0x27)],
            "MODE REGISTER SET with a mode that is not modelled, or another CAS latency than 2",
        ),
    ],
)
def test_the_chip_refuses_a_command_that_does_not_fit(commands, message):
    step = commander()

    def execute(commands):
        for command in commands:
            for _ in range(20):
                step(NOP)
            step(*command)

    execute(commands[:-1])
    with pytest.raises(SdramRuleError, match=rf"^SDRAM: {message}"):
        execute(commands[-1:])


@pytest.mark.parametrize(
    ("second", "after", "pins", "message"),
    [
        ((READ, 1, 2), 1, {}, "READ cuts a burst short"),
        ((PRECHARGE, 1, 0), 1, {}, "PRECHARGE cuts a READ short"),
        ((NOP, 0, 0), 2, {"dq_oe": 1}, "DQ is driven by both sides"),
        ((NOP, 0, 0), 4, {"dq_oe": 1}, "DQ is driven by both sides"),
        ((NOP, 0, 0), 1, {"clk_en": 0}, "CKE is low"),
    ],
)
def test_the_chip_refuses_what_disturbs_a_read(second, after, pins, message):
    step = commander()
    for command in (*OPEN, (READ, 1, 0)):
        for _ in range(20):
            step(NOP)
        step(*command)
    for _ in range(after - 1):
        step(NOP)
    with pytest.raises(SdramRuleError, match=rf"^SDRAM: {message}"):
        step(*second, **pins)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 8}, r"^bits must be a power of two from 16 to 32, not 8$"),
        ({"rows": 3000}, r"^rows must be a power of two from 2048 to 8192, not 3000$"),
        ({"cas_latency": 1}, r"^cas_latency must be 2 or 3, not 1$"),
        (
            {"clock_hz": 120_000_000},
            r"^clock_hz must be at most 100000000 at a CAS latency of 2, not 120000000$",
        ),
        ({"t_rp": 0.0}, r"^t_rp must be more than 0 ns, not 0\.0$"),
    ],
)
def test_a_chip_that_cannot_be_is_refused(change, message):
    with pytest.raises(SdramError, match=message):
        dataclasses.replace(ULX3S_SDRAM, **change)


@pytest.mark.parametrize(
    ("timing", "bus_bits", "message"),
    [
        (GW2AR_18_SDRAM, 16, r"^bus_bits must be 1, 2, 4 or 8 words of 32 bits, not 16$"),
        (
            dataclasses.replace(ULX3S_SDRAM, clock_hz=20_000_000),
            128,
            r"^clock_hz must leave time for two bursts between refreshes; 20000000 is too slow$",
        ),
    ],
)
def test_a_controller_that_cannot_be_is_refused(timing, bus_bits, message):
    with pytest.raises(SdramError, match=message):
        SdramController(timing, bus_bits=bus_bits, addr_bits=32)
