"""Activation functions and update rules of recurrent cells."""

import math

import numpy as np
import pytest

from systolith.spec import cells

RNG = np.random.default_rng(20)


def gates(count, size):
    """Pre-activations: random ones, and the ends of the range."""
    values = RNG.integers(-32768, 32768, (count, size))
    values[:, :2] = -32768, 32767
    return values


@pytest.mark.parametrize(
    ("table", "function", "error"),
    [(cells.SIGMOID, lambda x: 1 / (1 + math.exp(-x)), 8e-5), (cells.TANH, math.tanh, 4.1e-4)],
)
def test_interpolation_is_near_the_function(table, function, error):
    x = np.arange(-32768, 32768)
    y = cells.interpolate(table, x)
    exact = np.array([function(v / 4096) for v in x.tolist()])
    assert np.abs(y / 32768 - exact).max() < error
    assert (np.diff(y) >= -1).all() and y.min() >= -32768 and y.max() <= 32767


def test_integers_and_arrays_agree():
    i, f, g, o, c, h = gates(6, 300)
    for shift in (0, 3, 8):
        state, hidden = cells.lstm(i, f, g, o, c, shift)
        for n in range(0, 300, 7):
            assert cells.lstm(*(int(v[n]) for v in (i, f, g, o, c)), shift) == (state[n], hidden[n])
    state, hidden = cells.gru(i, f, g, o, h)
    assert [cells.gru(*(int(v[n]) for v in (i, f, g, o, h))) for n in range(300)] == list(
        zip(state.tolist(), hidden.tolist(), strict=True)
    )
    for alpha in (1, 1000, 1 << 15):
        state, hidden = cells.rnn(i, h, alpha)
        assert [cells.rnn(int(a), int(b), alpha) for a, b in zip(i, h, strict=True)] == list(
            zip(state.tolist(), hidden.tolist(), strict=True)
        )


def test_rules_are_near_those_of_the_operators():
    i, f, g, o, c, h = gates(6, 5000)
    real = [v / 4096 for v in (i, f, g, o)]

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    for shift in (0, 2):
        frac = 2.0 ** (12 - shift)
        exact = sigmoid(real[1]) * (c / frac) + sigmoid(real[0]) * np.tanh(real[2])
        state, hidden = cells.lstm(i, f, g, o, c, shift)
        inside = np.abs(exact * frac) < 32000
        assert np.abs(state / frac - exact)[inside].max() < 0.002 * 2**shift
        exact_h = sigmoid(real[3]) * np.tanh(np.clip(state / frac, -8, 8))
        assert np.abs(hidden / 128 - exact_h).max() < 1 / 128 + 0.001
    new = np.tanh(np.clip(real[2] + sigmoid(real[0]) * real[3], -8, 8))
    exact = (1 - sigmoid(real[1])) * new + sigmoid(real[1]) * (h / 32768)
    state, hidden = cells.gru(i, f, g, o, h)
    assert np.abs(state / 32768 - exact).max() < 0.001
    assert np.abs(hidden / 128 - state / 32768).max() <= 1 / 128
    state, _ = cells.rnn(i, h, 1 << 15)
    assert (state == cells.interpolate(cells.TANH, i)).all()


def test_results_stay_in_their_formats():
    extremes = np.array([-32768, -1, 0, 1, 32767])
    i, f, g, o, c = (part.ravel() for part in np.meshgrid(*[extremes] * 5))
    for shift in (0, 8):
        for state, hidden in (
            cells.lstm(i, f, g, o, c, shift),
            cells.gru(i, f, g, o, c),
            cells.rnn(i, c, 1 << 15),
        ):
            assert (
                state.min() >= -32768
                and state.max() <= 32767
                and hidden.min() >= -128
                and hidden.max() <= 127
            )
