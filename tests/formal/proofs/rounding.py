"""Rounding and clamping, for all inputs, beside the arithmetic that they stand for, in wide numbers."""

from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value, signed

from systolith.hw.compact.output import CompactOutput
from systolith.hw.leaf import rounding
from systolith.spec.cells import GATE
from systolith.spec.numerics import ACC, MULT_BITS, SHIFT_BITS
from tests.formal.kit.arithmetic import later, nearest_even, saturated
from tests.formal.kit.claims import Claims
from tests.formal.kit.plant import Plant
from tests.formal.kit.proof import proof

_ROUNDING = "systolith.hw.leaf.rounding"


def _divide(m: Module, claims: Claims, bits: int, result_bits: int) -> None:
    value, shift = claims.free(signed(bits), "value"), claims.free(SHIFT_BITS, "shift")
    found = rounding.divide_round(m, value, shift, 0, result_bits)
    exact = nearest_even(m, value, shift, "exact")
    low, high = -(1 << (result_bits - 1)), (1 << (result_bits - 1)) - 1
    wanted = later(m, saturated(m, exact, low, high, "wanted"), 3, "wanted")
    # Three cycles after power-up, what comes out was put in.
    age = Signal(range(4))
    m.d.sync += age.eq(Mux(age == 3, 3, age + 1))
    claims.claim("half_to_even_and_saturated", (age != 3) | (found == wanted))
    claims.cover("a_tie_of_odd", later(m, (exact != value >> shift) & (value[:4] == 0b1110), 3, "tie"))
    claims.cover("saturates", (age == 3) & (found == high))


_DIVIDE_PLANTS = (
    Plant("ties go up", _ROUNDING, "(shifted.rest | shifted.whole[0])", "1", "half_to_even_and_saturated"),
    Plant(
        "a dropped bit is forgotten",
        _ROUNDING,
        "& (rest > at) for at in",
        "& (rest > at + 1) for at in",
        "half_to_even_and_saturated",
    ),
    Plant(
        "rounding up passes the largest",
        _ROUNDING,
        "(top.any() | whole[: bits - 1].all())",
        "top.any()",
        "half_to_even_and_saturated",
    ),
)


@proof(*_DIVIDE_PLANTS, depth=3)
def divide_round_output(m: Module, claims: Claims) -> None:
    """The output stage's division of a 49-bit product by 2**0 to 2**63: nearest, ties to even, saturated to
    16 bits, three cycles later; for all inputs."""
    _divide(m, claims, ACC.width + 1 + MULT_BITS, GATE.width)


@proof(_DIVIDE_PLANTS[0], depth=3)
def divide_round_vector(m: Module, claims: Claims) -> None:
    """The vector unit's division of a 36-bit sum by 2**0 to 2**63: nearest, ties to even, saturated to 11
    bits, three cycles later; for all inputs."""
    _divide(m, claims, 36, 11)


@proof(
    Plant("the lower bound is left out", _ROUNDING, "Mux(total < low, low, total)", "total", "clamped"),
    Plant(
        "the sum wraps",
        _ROUNDING,
        'signed(len(value) + 1), name=f"{name}_total"',
        'signed(len(value)), name=f"{name}_total"',
        "clamped",
    ),
)
def add_clamp(m: Module, claims: Claims) -> None:
    """Zero point and bounds of output stage and vector unit: `min(max(value + zero, low), high)`, whichever
    of the bounds is the greater; for all inputs."""
    right = []
    for bits, bound in ((GATE.width, GATE.width), (11, 8)):
        value = claims.free(signed(bits), f"value{bits}")
        zero, low, high = (claims.free(signed(bound), f"{name}{bits}") for name in ("zero", "low", "high"))
        found = rounding.add_clamp(m, value, zero, low, high, f"unit{bits}")
        wanted = saturated(m, value + zero, low, high, f"wanted{bits}")
        right.append(found == wanted)
        claims.cover(f"between{bits}", (found > low) & (found < high) & (zero < 0))
    claims.claim("clamped", right[0] & right[1])


@proof(
    Plant(
        "ties go up",
        "systolith.hw.compact.output",
        "up.eq(value[0] & (sticky | whole[0]) & ~over)",
        "up.eq(value[0] & ~over)",
        "rounded_and_clamped",
    ),
    Plant(
        "a magnitude out of range wraps",
        "systolith.hw.compact.output",
        "over | (~select & value[width:].any())",
        "over",
        "rounded_and_clamped",
    ),
    depth=2,
)
def compact_output_round(m: Module, claims: Claims) -> None:
    """A compact core's rounding, on 48-bit magnitudes and signs: nearest, ties to even, zero point added,
    clamped to int8 bounds, two cycles later; for all inputs."""
    magnitude, shift = claims.free(48, "magnitude"), claims.free(SHIFT_BITS, "shift")
    sign, valid = claims.free(1, "sign"), claims.free(1, "valid")
    o = {name: claims.constant(signed(8), name) for name in ("zero", "low", "high")}
    gathered: dict[str, Value] = {}

    def gather(_: Module, ready: Value, __: Any, result: Value) -> None:
        gathered.update(ready=ready, result=result)

    tag = Signal(1)
    stage = SimpleNamespace(_o=o, _gather=gather)
    CompactOutput._round(stage, m, valid, tag, magnitude, shift, sign)
    # An element has two cycles, in which its sign stays.
    was_valid, was_sign = later(m, valid, 1, "valid"), later(m, sign, 1, "sign")
    claims.assume("an_element_has_two_cycles", ~was_valid | (~valid & (sign == was_sign)))
    # To even is the same on both sides of zero.
    exact = Signal(signed(49))
    m.d.comb += exact.eq(magnitude)
    nearest = nearest_even(m, exact, shift, "exact")
    total = Mux(sign, -nearest, nearest) + o["zero"]
    wanted = saturated(m, total, o["low"], o["high"], "wanted")
    wanted = later(m, wanted, 2, "wanted")
    claims.claim("rounded_and_clamped", ~gathered["ready"] | (gathered["result"] == wanted))
    claims.claim("two_cycles_later", ~gathered["ready"] | later(m, valid, 2, "comes"))
    claims.cover("between", gathered["ready"] & (wanted > o["low"]) & (wanted < o["high"]))
