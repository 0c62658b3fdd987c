"""The arithmetic of a recurrent cell."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed

from systolith.hw.leaf.cell_lane import FACTOR, CellLane
from systolith.spec.cells import HIDDEN_FRAC, SEGMENT_BITS, SIGMOID, STATE, TANH, UNIT_FRAC
from systolith.spec.numerics import INT8
from tests.formal.kit.arithmetic import half_to_even, later, saturated
from tests.formal.kit.claims import Claims, Inside
from tests.formal.kit.plant import Plant
from tests.formal.kit.proof import proof

_LANE = "systolith.hw.leaf.cell_lane"


def _multiplies(m: Module, claims: Claims, inside: Inside) -> None:
    """The lane's product is that of its factors a cycle before. What comes of it is claimed of any product,
    so that no solver has to compare multipliers."""
    product = Signal(signed(2 * FACTOR.width))
    m.d.comb += product.eq(inside["product_a"] * inside["product_b"])
    claims.claim("product", ~later(m, 1, 1, "awake") | (inside["product"] == later(m, product, 1, "factors")))


@proof(
    Plant(
        "the sum decides a tie",
        _LANE,
        "self._rounded(m, total, odd, ",
        "self._rounded(m, total, 0, ",
        "state",
    ),
    Plant(
        "the state wraps",
        "systolith.hw.leaf.rounding",
        "Mux(negative & ~top.all(), -(1 << (bits - 1)), whole[:bits].as_signed() + up)",
        "whole[:bits].as_signed() + up",
        "state",
    ),
    Plant(
        "the hidden state is cut, not rounded",
        _LANE,
        "up.eq(total[point - 1] &",
        "up.eq((bits != INT8.width) & total[point - 1] &",
        "hidden",
    ),
    depth=3,
)
def cell_product(m: Module, claims: Claims) -> None:
    """The cell's products, three cycles later, one per cycle: `post + (pre + a*b) / 2**15`, nearest, ties to
    even, saturated to int16; and where `pre` and `post` are 0, `a*b / 2**23` saturated to int8; for all
    inputs."""
    lane = CellLane()
    inside = claims.design("lane", lane)
    looked_up = later(m, lane.lookup, 1, "lookup")
    # A product is not begun a cycle after a lookup, whose result would meet its own.
    taken = later(m, ~looked_up, 1, "taken")
    factors, product = (inside["product_a"], inside["product_b"]), inside["product"]
    _multiplies(m, claims, inside)
    right = [
        found == later(m, given, 1, f"factor_{name}")
        for found, given, name in zip(factors, (lane.a, lane.b), "ab", strict=True)
    ]
    claims.claim("factors", ~taken | (right[0] & right[1]))
    pre, post = later(m, lane.pre, 2, "pre"), later(m, lane.post, 2, "post")
    total = Signal(signed(2 * FACTOR.width + 1))
    m.d.comb += total.eq(product + pre)
    state = saturated(
        m, half_to_even(m, total, UNIT_FRAC, "state") + post, STATE.min, STATE.max, "wanted_state"
    )
    point = 2 * UNIT_FRAC - HIDDEN_FRAC
    hidden = saturated(m, half_to_even(m, product, point, "hidden"), INT8.min, INT8.max, "wanted_hidden")
    good = later(m, taken, 2, "good")
    alone = later(m, (pre == 0) & (post == 0), 1, "alone")
    claims.claim("state", ~good | (lane.o == later(m, state, 1, "wanted_state")))
    claims.claim("hidden", ~(good & alone) | (lane.hidden == later(m, hidden, 1, "wanted_hidden")))
    claims.cover("saturates", good & (lane.o == STATE.min))
    claims.cover("hidden_saturates", good & alone & (lane.hidden == INT8.max))


@proof(
    Plant(
        "the table of the other function",
        _LANE,
        "Cat(self.x[SEGMENT_BITS:], self.tanh)",
        "Cat(self.x[SEGMENT_BITS:], ~self.tanh)",
        "interpolated",
    ),
    Plant(
        "the rest of the argument is a bit off",
        _LANE,
        "<< (UNIT_FRAC - SEGMENT_BITS)",
        "<< (UNIT_FRAC - SEGMENT_BITS - 1)",
        "factors",
    ),
    depth=4,
)
def cell_lookup(m: Module, claims: Claims) -> None:
    """The cell's lookups, four cycles later, one per cycle: sigmoid or tanh of any int16 by the segments of
    `spec.cells`, interpolated with ties to even; or the argument itself."""
    lane = CellLane()
    inside = claims.design("lane", lane)
    segment = Cat(lane.x[SEGMENT_BITS:], lane.tanh)
    found = Signal(signed(STATE.width)), Signal(signed(STATE.width))
    with m.Switch(segment):
        for at, (value, rise) in enumerate((*SIGMOID, *TANH)):
            with m.Case(at):
                m.d.comb += [found[0].eq(value), found[1].eq(rise)]
    value, rise = (later(m, part, 1, name) for part, name in zip(found, ("value", "rise"), strict=True))
    x, plain = later(m, lane.x, 1, "x"), later(m, lane.plain, 1, "plain")
    _multiplies(m, claims, inside)
    taken = later(m, lane.lookup, 2, "taken")
    rise, rest = later(m, Mux(plain, 0, rise), 1, "rise"), later(m, x[:SEGMENT_BITS], 1, "rest")
    # The product has as many bits below its point as all others.
    aligned = rest << (UNIT_FRAC - SEGMENT_BITS)
    right = (inside["product_a"] == rise) & (inside["product_b"] == aligned)
    claims.claim("factors", ~taken | right)
    base = later(m, Mux(plain, x, value), 2, "base")
    share = half_to_even(m, inside["product"], UNIT_FRAC, "share")
    wanted = saturated(m, base + share, STATE.min, STATE.max, "wanted")
    good = later(m, taken, 2, "good")
    claims.claim("interpolated", ~good | (lane.o == later(m, wanted, 1, "wanted")))
    claims.cover("tanh_of_a_negative", good & (lane.o < -100))
