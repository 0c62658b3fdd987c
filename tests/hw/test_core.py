"""Whole programs on the simulated core."""

import dataclasses
import random
import struct

import pytest

from systolith.spec.arch import PRESETS
from systolith.spec.isa import isa_for
from systolith.spec.numerics import requantise
from systolith.spec.regs import Control, ErrorCode, Status
from tests.hw.core_bench import PROGRAM, CoreBench

TINY = PRESETS["tiny"]
NARROW = dataclasses.replace(TINY, name="narrow", bus_bits=32)
COPY = (
    "LOAD space=ACT region=DATA offset=3 bytes=200 base=9 signal=STORE",
    "STORE wait=LOAD region=DATA offset=1001 bytes=200 base=9",
    "HALT",
)
DONE = (Status.DONE, 0, 0)


@pytest.mark.parametrize(
    ("arch", "stall"), [(TINY, 0.0), (TINY, 0.3), (NARROW, 0.3)], ids=["plain", "stalls", "narrow"]
)
def test_a_program_copies_data_twice(arch, stall):
    async def body(bench, ctx):
        for turn in range(2):
            data = random.Random(turn).randbytes(300)
            await bench.start(ctx, COPY, data=data)
            assert await bench.wait(ctx) == DONE
            assert bench.data(1001, 200) == data[3:203]
            assert await bench.read(ctx, "INSTRUCTIONS") == 3
            beats = -(-203 // arch.bus_bytes)
            assert await bench.read(ctx, "WRITE_BEATS") in (beats, beats + 1)
            assert 0 < await bench.read(ctx, "LOAD_BUSY") < await bench.read(ctx, "CYCLES_LO")
            assert await bench.read(ctx, "STORE_WAIT") > 0

    CoreBench(arch, body, stall=stall, seed=3)


def test_a_long_stream_is_fetched_over_pages():
    async def body(bench, ctx):
        program = ["NOP"] * 120
        program[100] = COPY[0]
        program[101] = COPY[1]
        data = random.Random(9).randbytes(300)
        await bench.start(ctx, [*program, "HALT"], data=data, entry=48)
        assert await bench.wait(ctx) == DONE
        assert bench.data(1001, 200) == data[3:203]
        assert await bench.read(ctx, "INSTRUCTIONS") == 121

    CoreBench(TINY, body, latency=20, stall=0.1)


def test_illegal_instructions_stop_the_core_with_code_and_offset():
    async def body(bench, ctx):
        size = bench.isa.word_bytes
        halt = int.from_bytes(bench.isa.encode(bench.isa.make("HALT")), "little")
        nop_waits = 1 << bench.isa.header[0].bits
        for word in (15, halt | 1 << (8 * size - 1), nop_waits):
            await bench.start(ctx, ["NOP", word.to_bytes(size, "little"), *COPY], data=bytes(300))
            assert await bench.wait(ctx) == (Status.ERROR, ErrorCode.ILLEGAL_INSTRUCTION, size)
            before = bytes(bench.bytes)
            await bench.start(ctx, COPY, data=bytes(range(250)))
            assert await bench.wait(ctx) == DONE, "START after an error did not recover"
            assert bench.data(1001, 200) == bytes(range(3, 203)) and before != bytes(bench.bytes)

    CoreBench(TINY, body)


def test_running_out_of_the_program_region_is_a_region_error():
    async def body(bench, ctx):
        size = bench.isa.word_bytes
        await bench.start(ctx, ["NOP", "NOP", "NOP"], size=2 * size + 16)
        assert await bench.wait(ctx) == (Status.ERROR, ErrorCode.REGION, 2 * size)

    CoreBench(TINY, body)


def test_errors_of_engines_name_the_instruction():
    async def body(bench, ctx):
        size = bench.isa.word_bytes
        await bench.start(
            ctx, ["NOP", "LOAD region=DATA bytes=16", "LOAD region=DATA offset=8190 bytes=16", "HALT"]
        )
        assert await bench.wait(ctx) == (Status.ERROR, ErrorCode.REGION, 2 * size)
        await bench.start(ctx, ["STORE region=PROGRAM bytes=16", "HALT"])
        assert await bench.wait(ctx) == (Status.ERROR, ErrorCode.REGION, 0)

    CoreBench(TINY, body)


def test_a_bus_error_of_an_instruction_that_is_not_reached_is_no_error():
    async def body(bench, ctx):
        size = bench.isa.word_bytes
        await bench.start(ctx, ["NOP", "HALT", "NOP"])
        assert await bench.wait(ctx) == DONE
        await bench.start(ctx, ["NOP", "NOP", "NOP", "HALT"])
        assert await bench.wait(ctx) == (Status.ERROR, ErrorCode.BUS_READ, 2 * size)

    size = isa_for(TINY).word_bytes
    CoreBench(TINY, body, bad=range(PROGRAM + 2 * size, PROGRAM + 3 * size))


def test_the_watchdog_ends_a_wait_for_a_token_that_never_comes():
    async def body(bench, ctx):
        size = bench.isa.word_bytes
        await bench.start(ctx, ["NOP", COPY[1], "HALT"], watchdog=100)
        assert await bench.wait(ctx) == (Status.ERROR, ErrorCode.WATCHDOG, size)
        assert await bench.read(ctx, "CYCLES_LO") < 250

    CoreBench(TINY, body)


def test_the_watchdog_rests_while_the_core_idles():
    async def body(bench, ctx):
        for turn in range(2):
            data = random.Random(turn).randbytes(300)
            await ctx.tick().repeat(200)
            await bench.start(ctx, COPY, data=data, watchdog=100)
            assert await bench.wait(ctx) == DONE, f"idle for 200 cycles before run {turn}"
            assert bench.data(1001, 200) == data[3:203]

    # A first beat takes as long as on a board.
    CoreBench(TINY, body, latency=30)


def test_a_64th_token_is_an_error():
    async def body(bench, ctx):
        load = "LOAD region=DATA bytes=1 signal=STORE"
        await bench.start(ctx, [load] * 63 + ["HALT"])
        assert await bench.wait(ctx) == DONE
        await bench.start(ctx, [load] * 65 + ["HALT"])
        assert await bench.wait(ctx) == (Status.ERROR, ErrorCode.SEMAPHORE, 63 * bench.isa.word_bytes)

    CoreBench(TINY, body)


def test_reset_in_mid_flight_then_a_good_program():
    async def body(bench, ctx):
        for delay in (5, 12, 20, 33, 50):
            await bench.start(
                ctx,
                [
                    "LOAD region=DATA bytes=4000 signal=STORE",
                    "STORE wait=LOAD region=DATA offset=4096 bytes=4000",
                    "HALT",
                ],
            )
            await ctx.tick().repeat(delay)
            await bench.write(ctx, "CONTROL", Control.RESET)
            assert await bench.wait(ctx) == (Status(0), 0, 0)
            data = random.Random(delay).randbytes(300)
            await bench.start(ctx, COPY, data=data)
            assert await bench.wait(ctx) == DONE
            assert bench.data(1001, 200) == data[3:203], f"after a reset {delay} cycles into a program"

    CoreBench(TINY, body, latency=25, stall=0.1, seed=4)


@pytest.mark.parametrize("stall", [0.0, 0.3], ids=["plain", "stalls"])
def test_a_matrix_product_is_requantised_and_stored(stall):
    rng = random.Random(11)
    pixels, chunks = 5, 3
    x = [[rng.randint(-128, 127) for _ in range(2 * chunks)] for _ in range(pixels)]
    w = [[[rng.randint(-128, 127) for _ in range(2)] for _ in range(2)] for _ in range(chunks)]
    bias, mult, shift, zero = [rng.randint(-3000, 3000) for _ in range(2)], [40000, 51111], [24, 23], -7
    data = bytearray(256)
    data[0 : 6 * pixels] = bytes(v & 255 for row in x for v in row)
    tiles = bytearray(4 * chunks)
    for t in range(chunks):
        for r in range(2):
            for c in range(2):
                tiles[4 * t + TINY.weight_offset(r, c)] = w[t][r][c] & 255
    data[64 : 64 + len(tiles)] = tiles
    data[96:112] = b"".join(struct.pack("<iHBB", bias[c], mult[c], shift[c], 0) for c in range(2))
    expected = bytes(
        requantise(
            sum(x[p][2 * t + r] * w[t][r][c] for t in range(chunks) for r in range(2)) + bias[c],
            mult[c],
            shift[c],
            zero,
            -128,
            127,
        )
        & 255
        for p in range(pixels)
        for c in range(2)
    )

    async def body(bench, ctx):
        await bench.start(
            ctx,
            [
                "LOAD space=WEIGHT region=DATA offset=64 bytes=16",
                "LOAD space=PARAM region=DATA offset=96 bytes=16 signal=OUTPUT",
                f"LOAD space=ACT region=DATA bytes={6 * pixels} base=5 signal=MATRIX",
                f"MATMUL wait=LOAD base=5 height=1 row_bytes={6 * pixels} kt={chunks} ox={pixels} ox_x=6 "
                f"acc=3 final=1",
                f"OUTPUT wait=LOAD signal=STORE acc=3 nx={pixels} channels=2 dst=4099 dst_px=2 zero={zero} "
                f"low=-128 high=127",
                f"STORE wait=OUTPUT region=DATA offset=517 bytes={2 * pixels} base=4099",
                "HALT",
            ],
            data=data,
        )
        assert await bench.wait(ctx) == DONE
        assert list(bench.data(517, 2 * pixels)) == list(expected), f"seed 11, stall {stall}"
        assert await bench.read(ctx, "INSTRUCTIONS") == 7

    CoreBench(TINY, body, latency=8, stall=stall, seed=6)
