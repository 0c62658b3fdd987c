"""Recurrent cells in integers: activation functions and update rules, for hardware, reference and docs.

Gate pre-activations are int16 with 12 fractional bits (-8 to 8). Sigmoid and tanh come from one table each
with 256 segments and linear interpolation; their values have 15 fractional bits. Every function takes Python
integers or NumPy ``int64`` arrays.

The rules are those of ONNX LSTM, GRU (linear_before_reset = 1) and RNN (tanh), the last with a leak as echo
state networks have it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from systolith.spec.numerics import INT8, FixedFormat, Integers, round_shift, saturate

__all__ = [
    "GATE",
    "HIDDEN_FRAC",
    "SEGMENT_BITS",
    "SIGMOID",
    "STATE",
    "TANH",
    "UNIT_FRAC",
    "WIDE_MAX",
    "gru",
    "interpolate",
    "lstm",
    "rnn",
    "segments",
    "split",
]

#: Gate pre-activations.
GATE = FixedFormat(16, frac=12)
#: Cell state (its binary point travels with the instruction) and hidden state (15 fractional bits).
STATE = FixedFormat(16, frac=15)
#: Fractional bits of sigmoid and tanh, and of a hidden state of 16 bits.
UNIT_FRAC = 15
#: Fractional bits of the hidden state as int8.
HIDDEN_FRAC = 7
#: Largest hidden state of 16 bits: the largest whose rounded high byte is an int8.
WIDE_MAX = (INT8.max << 8) + 127
#: Bits of a pre-activation below its segment of the table.
SEGMENT_BITS = 8


def segments(function: Callable[[float], float]) -> tuple[tuple[int, int], ...]:
    """Value at the beginning of each segment, and difference to its end; in order of the segment read as
    unsigned byte."""
    count = 1 << (GATE.width - SEGMENT_BITS)
    width = 2.0 ** (SEGMENT_BITS - GATE.frac)

    def value(segment: int) -> int:
        return STATE.quantise(function(segment * width))

    signed = [*range(count // 2), *range(-count // 2, 0)]
    return tuple((value(i), value(i + 1) - value(i)) for i in signed)


#: Segments of the logistic function and of the hyperbolic tangent.
SIGMOID = segments(lambda x: 1 / (1 + math.exp(-x)))
TANH = segments(math.tanh)


def interpolate(table: tuple[tuple[int, int], ...], gate: Integers) -> Integers:
    """The function of a pre-activation (int16, 12 fractional bits); int16 with 15 fractional bits."""
    segment, rest = (gate >> SEGMENT_BITS) & (len(table) - 1), gate & ((1 << SEGMENT_BITS) - 1)
    if isinstance(gate, int):
        value, rise = table[segment]
    else:
        # Arrays of the same type, without importing NumPy.
        value, rise = segment * 0, segment * 0
        value.flat, rise.flat = zip(*(table[i] for i in segment.flat), strict=True)
    return value + round_shift(rise * rest, SEGMENT_BITS)


def _state(value: Integers) -> Integers:
    return saturate(value, STATE.min, STATE.max)


def _hidden(value: Integers, frac: int, wide: bool) -> Integers:
    if wide:
        return saturate(round_shift(value, frac - UNIT_FRAC), STATE.min, WIDE_MAX)
    return saturate(round_shift(value, frac - HIDDEN_FRAC), INT8.min, INT8.max)


def split(hidden: Integers) -> tuple[Integers, Integers]:
    """A hidden state of 16 bits as two int8, ``256 * high + low``: `high` is what a reader of int8 sees,
    rounded."""
    high = (hidden + 128) >> 8
    return high, hidden - (high << 8)


def lstm(
    i: Integers, f: Integers, g: Integers, o: Integers, c: Integers, shift: int, wide: bool = False
) -> tuple[Integers, Integers]:
    """New cell state and hidden state, int8 or (`wide`) int16; `c` has ``12 - shift`` fractional bits."""
    i, f, o = (interpolate(SIGMOID, gate) for gate in (i, f, o))
    entering = round_shift(i * interpolate(TANH, g), UNIT_FRAC)
    c = _state(round_shift(f * c + (entering << (GATE.frac - shift)), UNIT_FRAC))
    return c, _hidden(o * interpolate(TANH, _state(c << shift)), 2 * UNIT_FRAC, wide)


def gru(
    r: Integers, z: Integers, x: Integers, h_part: Integers, h: Integers, wide: bool = False
) -> tuple[Integers, Integers]:
    """New hidden state with 15 fractional bits, and as int8 (`wide`: int16); `x` and `h_part` are the shares
    of the candidate."""
    r, z = (interpolate(SIGMOID, gate) for gate in (r, z))
    new = interpolate(TANH, _state(x + round_shift(r * h_part, UNIT_FRAC)))
    h = _state(new + round_shift(z * (h - new), UNIT_FRAC))
    return h, _hidden(h, UNIT_FRAC, wide)


def rnn(gate: Integers, h: Integers, alpha: int, wide: bool = False) -> tuple[Integers, Integers]:
    """New hidden state with 15 fractional bits, and as int8 (`wide`: int16); `alpha` has 15 fractional bits,
    2**15 is no leak."""
    h = _state(h + round_shift(alpha * (interpolate(TANH, gate) - h), UNIT_FRAC))
    return h, _hidden(h, UNIT_FRAC, wide)
