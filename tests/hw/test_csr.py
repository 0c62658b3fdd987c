"""The CSR block follows the table of `spec.regs`."""

import pytest

from systolith.hw.soc.csr import CsrBlock
from systolith.spec.arch import PRESETS
from systolith.spec.regs import (
    CSR_BYTES,
    CSRS,
    DEFAULT_WATCHDOG,
    WATCHDOG_BIT,
    Access,
    Control,
    config_values,
)
from tests.hw.axi_memory import csr_read, csr_write
from tests.hw.kit import simulate


def run(body, arch=PRESETS["tiny"]):
    """A body that takes the context and the block."""
    dut = CsrBlock(arch)

    async def testbench(ctx):
        await body(ctx, dut)

    simulate(dut, testbench)


def test_every_register_reads_its_own_value():
    async def body(ctx, dut):
        constants = config_values(PRESETS["tiny"])
        expected = {name: constants.get(name, 0) for name in CSRS}
        expected["WATCHDOG"] = DEFAULT_WATCHDOG
        for i, (name, csr) in enumerate(CSRS.items()):
            if csr.access is Access.WRITE:
                assert await csr_write(ctx, dut.bus, csr.address, 0x1234_0000 + i) == 0
                expected[name] = 0x1234_0000 + i
            elif csr.access is Access.READ and name not in constants:
                ctx.set(dut.values[name.lower()], 0xABC0_0000 + i)
                expected[name] = 0xABC0_0000 + i
        assert {
            name: (await csr_read(ctx, dut.bus, csr.address))[0] for name, csr in CSRS.items()
        } == expected
        assert ctx.get(dut.settings.entry) == expected["ENTRY"]

    run(body)


def test_strobes_select_bytes_and_running_protects_settings():
    async def body(ctx, dut):
        address = CSRS["ENTRY"].address
        await csr_write(ctx, dut.bus, address, 0x11223344)
        await csr_write(ctx, dut.bus, address, 0xAABBCCDD, strobe=0b0101)
        assert await csr_read(ctx, dut.bus, address) == (0x11BB33DD, 0)
        ctx.set(dut.running, 1)
        assert await csr_write(ctx, dut.bus, address, 0) == 0
        assert await csr_read(ctx, dut.bus, address) == (0x11BB33DD, 0)

    run(body)


@pytest.mark.parametrize(
    ("value", "start", "reset"),
    [
        (Control.START, 1, 0),
        (Control.RESET, 0, 1),
        (Control.START | Control.RESET, 0, 1),
        (0, 0, 0),
        (4, 0, 0),
    ],
)
def test_control_pulses_for_one_cycle_and_reset_wins(value, start, reset):
    counts = [0, 0]
    dut = CsrBlock(PRESETS["tiny"])

    async def watch(ctx):
        async for _, _, start_pulse, reset_pulse in ctx.tick().sample(dut.start, dut.reset):
            counts[0] += start_pulse
            counts[1] += reset_pulse

    async def testbench(ctx):
        assert await csr_write(ctx, dut.bus, CSRS["CONTROL"].address, value) == 0
        await ctx.tick().repeat(3)
        assert await csr_read(ctx, dut.bus, CSRS["CONTROL"].address) == (0, 0)

    simulate(dut, testbench, processes=[watch])
    assert counts == [start, reset]


def test_an_address_without_a_register_answers_slverr():
    async def body(ctx, dut):
        address = 4 * len(CSRS)
        assert address < CSR_BYTES, "the map is full: choose another address"
        assert (await csr_read(ctx, dut.bus, address))[1] == 2
        assert await csr_write(ctx, dut.bus, address, 1) == 2
        assert (await csr_read(ctx, dut.bus, 0))[1] == 0

    run(body)


def test_a_compact_core_keeps_the_bits_that_it_has_a_use_for():
    """Bases are multiples of 16, sizes are not; of WATCHDOG one bit counts; the rest reads as zero."""
    arch = PRESETS["icebreaker"]
    address, size = (1 << arch.addr_bits) - 16, (2 << arch.addr_bits) - 1
    kept = dict.fromkeys(("PROGRAM_LO", "DATA_LO", "ENTRY"), address)
    kept |= {"PROGRAM_SIZE": size, "DATA_SIZE": size, "WATCHDOG": 1 << WATCHDOG_BIT}

    async def body(ctx, dut):
        constants = config_values(arch)
        for value in (0xFFFF_FFFF, 0):
            for csr in CSRS.values():
                if csr.access is Access.WRITE:
                    assert await csr_write(ctx, dut.bus, csr.address, value) == 0
            for name, csr in CSRS.items():
                expected = constants.get(name, kept.get(name, 0) & value)
                assert await csr_read(ctx, dut.bus, csr.address) == (expected, 0), name

    run(body, arch)
