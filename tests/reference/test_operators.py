"""Every reference operator against loops over Python integers, written from ONNX's definitions."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from systolith.reference.add import Add
from systolith.reference.average_pool import AveragePool
from systolith.reference.concat import Concat
from systolith.reference.conv import Conv
from systolith.reference.graph import Requant
from systolith.reference.lookup import Lookup
from systolith.reference.matmul import MatMul
from systolith.reference.max_pool import MaxPool
from systolith.reference.mul import Mul
from systolith.reference.reshape import Reshape
from systolith.reference.transpose import Transpose

SEEDS = range(8)


def requant(rng, channels, table=False):
    return Requant(
        mult=rng.integers(1 << 15, 1 << 16, channels),
        shift=rng.integers(20, 28, channels),
        zero=int(rng.integers(-128, 128)),
        low=-100,
        high=110,
        table=rng.integers(-128, 128, 256).astype(np.int8) if table else None,
    )


def expected(total, r, channel):
    """One result, by exact fractions; Python's round is half to even."""
    channel = channel if len(r.mult) > 1 else 0
    q = round(Fraction(total * int(r.mult[channel]), 1 << int(r.shift[channel]))) + r.zero
    q = min(max(q, r.low), r.high)
    return q if r.table is None else int(r.table[q & 255])


def int8(rng, *shape):
    return rng.integers(-128, 128, shape).astype(np.int8)


def out_extent(size, pads, kernel, stride, dilation):
    return (size + pads - (kernel - 1) * dilation - 1) // stride + 1


@pytest.mark.parametrize("seed", SEEDS)
def test_conv_is_the_sum_over_the_window(seed):
    rng = np.random.default_rng(seed)
    group, per_group, out_per_group = (int(rng.integers(1, 4)) for _ in range(3))
    kernel, strides, dilations = (tuple(map(int, rng.integers(1, 4, 2))) for _ in range(3))
    pads = tuple(map(int, rng.integers(0, 3, 4)))
    m, h, w = group * out_per_group, 8, 9
    x, weights = int8(rng, 1, group * per_group, h, w), int8(rng, m, per_group, *kernel)
    op = Conv(
        weights=weights,
        bias=rng.integers(-5000, 5000, m).astype(np.int32),
        strides=strides,
        dilations=dilations,
        pads=pads,
        group=group,
        x_zero=int(rng.integers(-128, 128)),
        requant=requant(rng, m, table=bool(seed % 2)),
    )
    oh = out_extent(h, pads[0] + pads[2], kernel[0], strides[0], dilations[0])
    ow = out_extent(w, pads[1] + pads[3], kernel[1], strides[1], dilations[1])
    want = np.empty((1, m, oh, ow), np.int8)
    macs = 0
    for n, y, z in itertools.product(range(m), range(oh), range(ow)):
        total = int(op.bias[n])
        for c, ky, kx in itertools.product(range(per_group), range(kernel[0]), range(kernel[1])):
            iy, ix = (
                y * strides[0] - pads[0] + ky * dilations[0],
                z * strides[1] - pads[1] + kx * dilations[1],
            )
            macs += 1
            if 0 <= iy < h and 0 <= ix < w:
                total += (int(x[0, n // out_per_group * per_group + c, iy, ix]) - op.x_zero) * int(
                    weights[n, c, ky, kx]
                )
        want[0, n, y, z] = expected(total, op.requant, n)
    np.testing.assert_array_equal(op.run(x), want)
    assert op.macs(x.shape) == macs


def test_conv_in_pieces_is_the_same(monkeypatch):
    """Patches that take much memory are multiplied a few rows at a time."""
    rng = np.random.default_rng(3)
    op = Conv(
        weights=int8(rng, 4, 3, 3, 2),
        bias=np.arange(4, dtype=np.int32),
        strides=(2, 1),
        dilations=(1, 2),
        pads=(1, 0, 2, 1),
        group=2,
        x_zero=7,
        requant=requant(rng, 4),
    )
    x = int8(rng, 2, 6, 11, 9)
    whole, codes = op.sums(x), op.run(x)
    for patches in (1, 400, 1000):
        monkeypatch.setattr("systolith.reference.conv._PATCHES", patches)
        np.testing.assert_array_equal(op.sums(x), whole)
        np.testing.assert_array_equal(op.run(x), codes)


def test_conv_in_one_dimension_is_the_same_with_height_one():
    rng = np.random.default_rng(0)
    op = Conv(
        weights=int8(rng, 4, 3, 1, 5),
        bias=np.zeros(4, np.int32),
        strides=(1, 2),
        dilations=(1, 2),
        pads=(0, 3, 0, 1),
        group=1,
        x_zero=9,
        requant=requant(rng, 4),
    )
    x = int8(rng, 2, 3, 20)
    np.testing.assert_array_equal(op.run(x), op.run(x[:, :, None, :])[:, :, 0, :])
    assert op.macs(x.shape) == op.macs((2, 3, 1, 20))


@pytest.mark.parametrize("seed", SEEDS)
def test_matmul_is_the_sum_over_the_last_axis(seed):
    rng = np.random.default_rng(seed)
    x, weights = int8(rng, 2, 3, 11), int8(rng, 11, 5)
    op = MatMul(
        weights=weights,
        bias=rng.integers(-5000, 5000, 5).astype(np.int32),
        x_zero=int(rng.integers(-128, 128)),
        requant=requant(rng, 5),
    )
    want = np.array(
        [
            [
                [
                    expected(
                        sum((int(x[a, b, k]) - op.x_zero) * int(weights[k, m]) for k in range(11))
                        + int(op.bias[m]),
                        op.requant,
                        m,
                    )
                    for m in range(5)
                ]
                for b in range(3)
            ]
            for a in range(2)
        ],
        np.int8,
    )
    np.testing.assert_array_equal(op.run(x), want)
    assert op.macs(x.shape) == 2 * 3 * 11 * 5


@pytest.mark.parametrize("seed", SEEDS)
def test_max_pool_ignores_padding(seed):
    rng = np.random.default_rng(seed)
    x = int8(rng, 1, 2, 7, 8)
    pads, kernel, strides = (1, 0, 1, 1), (3, 2), (2, 3)
    op = MaxPool(
        kernel=kernel,
        strides=strides,
        dilations=(1, 2),
        pads=pads,
        table=int8(rng, 256) if seed % 2 else None,
    )
    oh, ow = out_extent(7, 2, 3, 2, 1), out_extent(8, 1, 2, 3, 2)
    want = np.empty((1, 2, oh, ow), np.int8)
    for c, y, z in itertools.product(range(2), range(oh), range(ow)):
        window = [
            int(x[0, c, iy, ix])
            for iy in range(y * 2 - 1, y * 2 + 2)
            for ix in (z * 3, z * 3 + 2)
            if 0 <= iy < 7 and 0 <= ix < 8
        ]
        want[0, c, y, z] = max(window) if op.table is None else op.table[max(window) & 255]
    np.testing.assert_array_equal(op.run(x), want)


@pytest.mark.parametrize("seed", SEEDS)
def test_average_pool_divides_by_the_count_of_each_window(seed):
    rng = np.random.default_rng(seed)
    x = int8(rng, 1, 2, 6, 7)
    counts_y, counts_x = np.array([2, 3, 2]), np.array([2, 3, 3, 1])
    requants = {count: requant(rng, 1) for count in {int(a * b) for a in counts_y for b in counts_x}}
    op = AveragePool(
        kernel=(3, 3),
        strides=(2, 2),
        dilations=(1, 1),
        pads=(1, 1, 0, 2),
        counts_y=counts_y,
        counts_x=counts_x,
        x_zero=int(rng.integers(-128, 128)),
        requants=requants,
    )
    want = np.empty((1, 2, 3, 4), np.int8)
    for c, y, z in itertools.product(range(2), range(3), range(4)):
        total = sum(
            int(x[0, c, iy, ix]) - op.x_zero
            for iy in range(y * 2 - 1, y * 2 + 2)
            for ix in range(z * 2 - 1, z * 2 + 2)
            if 0 <= iy < 6 and 0 <= ix < 7
        )
        want[0, c, y, z] = expected(total, requants[int(counts_y[y] * counts_x[z])], 0)
    np.testing.assert_array_equal(op.run(x), want)


@pytest.mark.parametrize("seed", SEEDS)
def test_add_and_mul_round_once(seed):
    rng = np.random.default_rng(seed)
    a, b = int8(rng, 2, 1, 5), int8(rng, 3, 1)
    zeros = dict(
        a_zero=int(rng.integers(-128, 128)),
        b_zero=int(rng.integers(-128, 128)),
        zero=int(rng.integers(-128, 128)),
        low=-90,
        high=120,
    )
    table = int8(rng, 256) if seed % 2 else None
    add = Add(a_mult=40000, b_mult=-23456, shift=17, table=table, **zeros)
    mul = Mul(a_mult=40000, shift=22, table=table, **zeros)

    def finish(total, shift):
        q = min(max(round(Fraction(total, 1 << shift)) + zeros["zero"], -90), 120)
        return q if table is None else int(table[q & 255])

    pairs = [
        (int(p) - zeros["a_zero"], int(q) - zeros["b_zero"])
        for p, q in zip(*(v.reshape(-1) for v in np.broadcast_arrays(a, b)), strict=True)
    ]
    np.testing.assert_array_equal(
        add.run(a, b).reshape(-1), [finish(p * 40000 - q * 23456, 17) for p, q in pairs]
    )
    np.testing.assert_array_equal(mul.run(a, b).reshape(-1), [finish(p * q * 40000, 22) for p, q in pairs])


def test_lookup_reads_the_operand_as_an_unsigned_byte():
    table = np.arange(256).astype(np.uint8).view(np.int8)
    codes = np.arange(-128, 128).astype(np.int8)
    np.testing.assert_array_equal(Lookup(table=table).run(codes), codes)
    assert Lookup(table=np.roll(table, 1)).run(np.array([-128], np.int8)) == 127


def test_moves_keep_the_elements():
    x = np.arange(24).astype(np.int8).reshape(2, 3, 4)
    np.testing.assert_array_equal(Reshape(shape=(4, 6)).run(x).reshape(-1), x.reshape(-1))
    assert all(Transpose(perm=(2, 0, 1)).run(x)[k, i, j] == x[i, j, k] for i, j, k in np.ndindex(2, 3, 4))
    np.testing.assert_array_equal(Concat(axis=1).run(x, x[:, :1]), np.concatenate([x, x[:, :1]], axis=1))
