"""The systolic array against a plain model of MATMUL, and its rate cycle by cycle."""

import dataclasses
import random

import numpy as np
import pytest

from systolith.hw.engine.matrix import MatrixEngine
from systolith.sim.benches.stimulus import acc_entries, matmul, random_matmul
from systolith.spec import timing
from systolith.spec.arch import PRESETS
from systolith.spec.isa import Mode
from systolith.spec.regs import ErrorCode
from tests.hw.convolution import padded_convolution
from tests.hw.kit import verilog_text
from tests.hw.matrix_bench import ARCHS, ASYMMETRIC, PLAIN, SQUARE, TALL, TINY, Model, Run, check, each_arch


def test_the_model_multiplies_a_matrix():
    # The model's own anchor: a product over 2 chunks against NumPy.
    model = Model(SQUARE, 1)
    model.execute(matmul(SQUARE, base=16, kt=2, ox=3, ox_x=8))
    expected = model.act[16:40].reshape(3, 8) @ model.tiles[:2].reshape(8, 4)
    np.testing.assert_array_equal(model.acc[:3], expected)
    assert not model.acc[3:].any()


@each_arch
def test_dense_convolution_with_padding(arch):
    # 3 x 3 over 5 x 5 pixels of 2 chunks of R channels.
    pixel = 2 * arch.rows
    instr = padded_convolution(
        arch, first=64, pixel=pixel, height=5, width=5, pad=-7, kx=3, kx_x=pixel, kt=2, tile=3, acc=2, final=1
    )
    run = check(arch, [instr], seed=2)
    assert len(run.taken) == 25
    if arch.weight_load_cycles <= 25:
        assert run.issued == list(range(run.issued[0], run.issued[0] + 18 * 25))


@each_arch
@pytest.mark.parametrize("channels", [1, 3])
def test_small_channels_are_contiguous_runs_with_padding_per_byte(arch, channels):
    # 5 x 5, stride 2, padding 2: a kernel row is one run of 5 * channels bytes, cut into chunks of R bytes.
    width = 7
    row = width * channels
    chunks = -(-5 * channels // arch.rows)
    instr = matmul(
        arch,
        base=(40 - 2 * row - 2 * channels) % arch.act_bytes,
        y0=-2,
        x0=-2 * channels,
        height=7,
        row_bytes=row,
        pad=11,
        ky=5,
        ky_addr=row,
        ky_y=1,
        kt=chunks,
        oy=4,
        oy_addr=2 * row,
        oy_y=2,
        ox=4,
        ox_x=2 * channels,
        final=1,
    )
    check(arch, [instr], seed=3)


@each_arch
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_depthwise(arch, stride):
    taps, width = min(3, arch.rows), 9
    instr = padded_convolution(
        arch,
        first=32,
        pixel=arch.cols,
        height=4,
        width=width,
        mode=Mode.DEPTHWISE,
        pad=5,
        oy=3,
        ox=width + 2,
        taps=taps,
        stride=stride,
        tile=1,
        final=1,
    )
    model = Model(arch, 4)
    # Rows beyond the taps would see the previous output row.
    model.tiles[:, taps:] = 0
    model.execute(instr)
    run = Run(model, [instr], seed=4)
    assert run.taken == model.released
    assert len(run.taken) == 3 * len(range(0, width + 3 - taps, stride))
    np.testing.assert_array_equal(run.acc, model.acc)


@each_arch
def test_accumulate_and_forwarding_between_equal_addresses(arch):
    # One vector per tile: every sum meets the one just written.
    first = matmul(arch, base=5, kt=9, acc=3)
    second = matmul(arch, base=90, kt=6, tile=4, acc=3, accumulate=1)
    third = matmul(arch, base=7, kt=2, ox=2, ox_x=3, acc=3, accumulate=1, final=1)
    check(arch, [first, second, third], seed=5)


@pytest.mark.parametrize("vectors", range(1, 8))
@pytest.mark.parametrize(
    "arch", [arch for arch in ARCHS if arch.weight_load_cycles == 1], ids=lambda arch: arch.name
)
def test_sums_meet_those_of_any_few_vectors_before(arch, vectors):
    # Tiles follow each other at once, so an entry is read so many cycles after its last sum was made.
    first = matmul(arch, base=5, kt=5, ox=vectors, ox_x=3, acc=2)
    second = matmul(arch, base=90, kt=3, ox=vectors, ox_x=5, tile=5, acc=2, accumulate=1, final=1)
    run = check(arch, [first, second], seed=11)
    assert run.issued == list(range(run.issued[0], run.issued[0] + 8 * vectors))


@pytest.mark.parametrize(
    "arch", [TINY, SQUARE, *ASYMMETRIC, TALL, PRESETS["array8"]], ids=lambda arch: arch.name
)
def test_batch_one_takes_one_tile_per_weight_load(arch):
    tiles, g = 24, arch.weight_load_cycles
    instr = matmul(arch, base=1, kt=tiles, final=1)
    model = Model(arch, 6)
    model.execute(instr)
    run = Run(model, [instr], seed=6)
    assert run.taken == model.released
    first = run.issued[0]
    assert run.issued == list(range(first, first + tiles * g, g))
    # The sums are written, and the instruction is done, R + LATENCY cycles after its last request.
    assert run.done == [run.issued[-1] + timing.matrix_write(arch)]


@each_arch
@pytest.mark.parametrize(("tiles", "vectors"), [(1, 1), (1, 3), (2, 1), (3, 5), (2, 9)])
def test_queued_instructions_follow_without_bubble(arch, tiles, vectors):
    instrs = [
        matmul(arch, base=7 * n, kt=tiles, ox=vectors, ox_x=5, tile=n, acc=n % 3 * vectors, accumulate=n & 1)
        for n in range(7)
    ]
    run = check(arch, instrs, seed=7)
    period = max(vectors, arch.weight_load_cycles)
    starts = run.issued[::vectors]
    if tiles * period < 3:
        # The words of an instruction take three beats at least.
        assert all(start <= starts[0] + 3 * n for n, start in enumerate(starts[::tiles]))
    else:
        assert starts == list(range(starts[0], starts[0] + len(instrs) * tiles * period, period))
    assert run.done == [
        run.issued[(n + 1) * tiles * vectors - 1] + timing.matrix_write(arch) for n in range(len(instrs))
    ]


@each_arch
@pytest.mark.parametrize("seed", range(3))
def test_random_instructions_with_random_reads(arch, seed):
    rng = random.Random(seed)
    model = Model(arch, seed)
    instrs, acc = [], 0
    while acc < arch.acc_depth:
        instr = random_matmul(arch, rng, acc, arch.weight_tiles // 2)
        if instr.mode == Mode.DEPTHWISE:
            # Tiles without weights beyond the taps, in the upper half, which dense instructions leave alone.
            at = arch.weight_tiles // 2 + 8 * len(instrs) % (arch.weight_tiles // 2 - 8)
            instr = matmul(arch, **{**instr.operands, "tile": at})
            model.tiles[at : at + instr.ky * instr.kx, instr.taps :] = 0
        instrs.append(instr)
        # An entry that is not released may be used again.
        acc += acc_entries(instr) if instr.final or rng.random() < 0.7 else 0
        if len(instrs) == 24:
            break
    for instr in instrs:
        model.execute(instr)
    run = Run(model, instrs, seed=seed, read=rng.choice([0.2, 1.0]), gap=rng.choice([0.0, 0.7]))
    assert not run.errors and len(run.done) == len(instrs), f"seed {seed}"
    assert run.taken == model.released, f"seed {seed}"
    np.testing.assert_array_equal(run.acc, model.acc, err_msg=f"seed {seed}")


def test_output_reads_wait_for_the_array():
    # The later instructions read the banks by turns: a read of the one that is in use waits, the array never
    # does.
    first = matmul(SQUARE, ox=24, ox_x=4, final=1)
    later = [matmul(SQUARE, kt=8, ox=2, ox_x=4, acc=40, accumulate=1) for _ in range(4)]
    run = check(SQUARE, [first, *later], seed=8, read=0.4)
    assert 4 < run.refused <= 24
    assert run.issued == list(range(run.issued[0], run.issued[0] + 24 + 64))


def test_output_reads_do_not_wait_for_sums_that_are_forwarded():
    # One entry for all tiles: each sum takes the one before it from the adder.
    first = matmul(SQUARE, ox=8, ox_x=4, final=1)
    run = check(
        SQUARE,
        [first, matmul(SQUARE, kt=24, acc=40), matmul(SQUARE, kt=24, acc=40, accumulate=1)],
        seed=8,
        read=1.0,
    )
    assert run.refused == 0
    assert run.issued == list(range(run.issued[0], run.issued[0] + 8 + 48))


@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize(
    ("arch", "operands", "code"),
    [
        (TINY, {"mode": Mode.DEPTHWISE, "kt": 2}, ErrorCode.ILLEGAL_INSTRUCTION),
        (PLAIN, {"mode": Mode.DEPTHWISE}, ErrorCode.ILLEGAL_INSTRUCTION),
        (SQUARE, {"acc": 63, "ox": 2, "final": 1}, ErrorCode.OPERAND_RANGE),
        (SQUARE, {"tile": 127, "kt": 2, "ox": 3}, ErrorCode.OPERAND_RANGE),
        (PLAIN, {"tile": 126, "kt": 3}, ErrorCode.OPERAND_RANGE),
    ],
)
def test_an_error_comes_after_all_earlier_instructions_are_done(arch, operands, code, ahead):
    good = [matmul(arch, base=n, kt=3, ox=4, ox_x=2, acc=4 * n, final=1) for n in range(ahead)]
    later = matmul(arch, base=9, kt=2, acc=20, final=1)
    model = Model(arch, 9)
    for instr in good:
        model.execute(instr)
    before = model.acc[:20].copy()
    if operands.get("final"):
        model.released.append((63, None))
    run = Run(model, [*good, matmul(arch, **operands), later], seed=9)
    assert [c for _, c in run.errors] == [code]
    assert len(run.done) == ahead
    assert all(cycle < run.errors[0][0] for cycle in run.done)
    assert [t for t in run.taken if t[0] != 63] == [r for r in model.released if r[0] != 63]
    if not operands.get("tile"):
        np.testing.assert_array_equal(run.acc[:20], before)
    # Nothing of the instruction behind the error takes effect.
    assert not run.acc[20].any()


def test_the_last_entry_and_the_last_tile_may_be_used():
    check(SQUARE, [matmul(SQUARE, tile=126, kt=2, acc=62, ox=2, ox_x=4, final=1)], seed=10)


def test_extreme_values_do_not_overflow_inside_the_array():
    model = Model(TALL, 11)
    model.act[:], model.tiles[:] = -128, -128
    instr = matmul(TALL, kt=4, ox=2, final=1)
    model.execute(instr)
    run = Run(model, [instr])
    assert run.taken == model.released == [(n, [4 * 8 * 128 * 128] * 2) for n in range(2)]


def test_a_coordinate_far_outside_does_not_come_back_into_the_window():
    # x runs to 100 times the memory in steps of half of it: any register short of that returns to 0.
    half = TINY.act_bytes // 2
    instr = matmul(TINY, base=3, row_bytes=64, pad=1, kx=200, kx_x=half, final=1)
    check(TINY, [instr], seed=12)


def test_verilog_of_array8_is_small():
    text = verilog_text(MatrixEngine(PRESETS["array8"]))
    # The engine and its four memories of sums: no module per PE.
    assert text.count("\nmodule ") <= 5
    assert len(text) < 270_000


def test_a_core_without_depthwise_has_no_pixel_registers():
    plain, full = (
        verilog_text(MatrixEngine(dataclasses.replace(SQUARE, depthwise=value))) for value in (False, True)
    )
    assert "pixels0_half" in full and "pixels" not in plain
