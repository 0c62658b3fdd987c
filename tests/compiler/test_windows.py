"""What is worked out in closed form about windows, against the positions counted one by one."""

from __future__ import annotations

import random

import numpy as np

from systolith.compiler.lower.spatial import Window
from systolith.compiler.ops.average_pool import _counts

SEED = 5


def test_taps_that_meet_more_than_padding() -> None:
    rng = random.Random(SEED)
    for _ in range(800):
        extent, out, stride = rng.randint(1, 9), rng.randint(1, 9), rng.randint(1, 12)
        kernel, dilation, pad = rng.randint(1, 9), rng.randint(1, 7), rng.randint(0, 20)
        window = Window(
            x=(1, extent, 1, 1),
            y=(1, out, 1, 1),
            kernel=(kernel, 1),
            strides=(stride, 1),
            dilations=(dilation, 1),
            pads=(pad, 0),
        )
        met = [
            tap
            for tap in range(kernel)
            if any(0 <= position * stride - pad + tap * dilation < extent for position in range(out))
        ]
        right = range(met[0], met[-1] + 1) if met else range(1)
        assert window.taps()[0] == right, (SEED, window)


def test_a_huge_pad_takes_no_time() -> None:
    big = 1 << 60
    window = Window(
        x=(1, 5, 1, 1), y=(1, big, 1, 1), kernel=(3, 1), strides=(1, 1), dilations=(1, 1), pads=(big // 2, 0)
    )
    assert window.taps()[0] == range(3)


def test_elements_that_divide_a_mean() -> None:
    rng = random.Random(SEED)
    for _ in range(800):
        size, out, kernel, stride = (rng.randint(1, 9) for _ in range(4))
        dilation, first, last, padding = (
            rng.randint(1, 4),
            rng.randint(0, 9),
            rng.randint(0, 9),
            rng.random() < 0.5,
        )
        low, high = (-first, size + last) if padding else (0, size)
        right = [
            sum(low <= position * stride - first + tap * dilation < high for tap in range(kernel))
            for position in range(out)
        ]
        given = (size, out, kernel, stride, dilation, first, last, padding)
        np.testing.assert_array_equal(_counts(*given), right, err_msg=f"seed {SEED}: {given}")
