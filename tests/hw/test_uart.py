# amaranth: UnusedElaboratable=no
"""The serial line, bit by bit."""

import random

import pytest
from amaranth.hdl import Module

from systolith.hw.soc.uart import UartReceiver, UartTransmitter
from tests.hw.kit import collect, simulate

DIVISORS = [2, 4, 7, 25]


def receive(divisor: int, levels: list[tuple[int, float]]) -> list[int]:
    """What comes of a line with these levels, each held for so many bits."""
    dut = UartReceiver(divisor=divisor)
    got: list[int] = []

    async def drive(ctx):
        now = 0.0
        ctx.set(dut.rx, 1)
        await ctx.tick().repeat(4)
        at = 0
        for level, bits in [*levels, (1, 2)]:
            ctx.set(dut.rx, level)
            now += bits * divisor
            while at < round(now):
                await ctx.tick()
                at += 1

    simulate(dut, drive, beside=[collect(dut.o, got)])
    return got


def byte(value: int, *, stop: int = 1, length: float = 1.0) -> list[tuple[int, float]]:
    return [(0, length), *((value >> i & 1, length) for i in range(8)), (stop, length)]


@pytest.mark.parametrize("divisor", DIVISORS)
def test_bytes_come_in_back_to_back(divisor):
    values = [0x00, 0xFF, 0x55, 0xA5, 0x01, 0x80]
    assert receive(divisor, [level for value in values for level in byte(value)]) == values


@pytest.mark.parametrize("length", [0.97, 1.03])
def test_a_line_that_is_3_percent_off_is_understood(length):
    values = [0x00, 0xFF, 0x55, 0xA5]
    assert receive(25, [level for value in values for level in byte(value, length=length)]) == values


def test_a_glitch_is_no_start_bit():
    assert receive(16, [(1, 1), (0, 0.3), (1, 3), *byte(0x42)]) == [0x42]


def test_a_break_gives_no_bytes_and_the_next_one_is_good():
    assert receive(8, [(0, 40), (1, 1), *byte(0x42)]) == [0x42]


def test_a_byte_without_its_stop_bit_is_dropped():
    assert receive(8, [*byte(0x11), *byte(0x22, stop=0), (1, 1), *byte(0x33)]) == [0x11, 0x33]


@pytest.mark.parametrize("divisor", DIVISORS)
def test_what_is_sent_arrives_after_ten_bits_each(divisor):
    top = Module()
    top.submodules.transmitter = transmitter = UartTransmitter(divisor=divisor)
    top.submodules.receiver = receiver = UartReceiver(divisor=divisor)
    top.d.comb += receiver.rx.eq(transmitter.tx)
    rng = random.Random(divisor)
    values = [0x00, 0xFF, *(rng.randrange(256) for _ in range(6))]
    got: list[int] = []
    taken: list[int] = []

    async def send(ctx):
        cycle = 0
        for value in values:
            ctx.set(transmitter.i.payload, value)
            ctx.set(transmitter.i.valid, 1)
            while not ctx.get(transmitter.i.ready):
                await ctx.tick()
                cycle += 1
                assert cycle < 20 * divisor * len(values), "the transmitter is never ready"
            taken.append(cycle)
            await ctx.tick()
            cycle += 1
        ctx.set(transmitter.i.valid, 0)
        assert not ctx.get(transmitter.i.ready)
        await ctx.tick().repeat(12 * divisor)
        assert ctx.get(transmitter.tx) == 1

    simulate(top, send, beside=[collect(receiver.o, got)], seed=divisor)
    assert got == values
    assert {b - a for a, b in zip(taken, taken[1:], strict=False)} == {10 * divisor}


@pytest.mark.parametrize("unit", [UartReceiver, UartTransmitter])
def test_a_divisor_out_of_range_is_refused(unit):
    with pytest.raises(ValueError, match="the divisor must be from 2 to 65536 clock cycles per bit, not 1"):
        unit(divisor=1)
