"""Loop counters, nests of them, and delay lines."""

from collections.abc import Iterable
from itertools import accumulate
from operator import and_

from amaranth.hdl import Cat, Module, Mux, Signal, Value

from systolith.hw.leaf import delay, loop, nest, twins
from tests.formal.kit.claims import Claims
from tests.formal.kit.plant import Plant
from tests.formal.kit.proof import proof


@proof(
    Plant(
        "the last round comes a round early",
        "systolith.hw.leaf.loop",
        "self.last.eq(self.nears)",
        "self.last.eq(self._left == 2)",
        "last_in_the_last_round",
    ),
    Plant(
        "a loop of one round does not end",
        "systolith.hw.leaf.loop",
        "self.last.eq(count == 0)",
        "self.last.eq(0)",
        "last_in_the_last_round",
    ),
)
def loop_counter(m: Module, claims: Claims) -> None:
    """A loop of any 16-bit count has `count` + 1 rounds: `last` is 1 in the last of them and in no other, and
    `nears` in the one before that, whenever it is stepped and begun again."""
    bits = 16
    begins, steps, count = claims.free(1, "begins"), claims.free(1, "steps"), claims.free(bits, "count")
    counter = loop.Loop(m, bits, "loop")
    #: Rounds are counted up, as the specification has them.
    running, rounds, ends = Signal(), Signal(bits), Signal(bits)
    with m.If(begins):
        counter.begin(count)
        m.d.sync += [running.eq(1), rounds.eq(0), ends.eq(count)]
    with m.Elif(steps & running):
        counter.step()
        m.d.sync += [running.eq(rounds != ends), rounds.eq(rounds + 1)]
    claims.claim("last_in_the_last_round", ~running | (counter.last == (rounds == ends)))
    claims.claim("nears_in_the_one_before", ~running | (counter.nears == (rounds + 1 == ends)))
    claims.invariant("left", ~running | ((counter._left == ends - rounds) & (rounds <= ends)))
    claims.cover("third_of_three", running & counter.last & (ends == 2))
    claims.cover("one_round", running & counter.last & (ends == 0))


@proof(
    Plant(
        "a loop of two rounds turns as one of one",
        "systolith.hw.leaf.nest",
        "Mux(last, self._two[loop], left == 2)",
        "Mux(last, self._one[loop], left == 2)",
        "last_in_the_last_round",
    ),
    Plant(
        "an inner loop is not looked at",
        "systolith.hw.leaf.nest",
        "following[loop] = Mux(inside, turned, last)",
        "following[loop] = turned",
        "ends_with_all_inside",
    ),
    Plant(
        "the innermost loop begins with a round less",
        "systolith.hw.leaf.nest",
        "left.eq(Mux(last, counts[loop], left - 1))",
        "left.eq(Mux(last, counts[loop] - 1, left - 1))",
        "last_in_the_last_round",
    ),
    cycles=10,
)
def nest_of_loops(m: Module, claims: Claims) -> None:
    """Three nested loops of any 8-bit counts go through their rounds as an odometer: for each, `last` is 1 in
    its last round, `ends` where all inside it are in theirs too; `begin` and `step` say whether the next
    round is the last of all."""
    bits = {"x": 8, "y": 8, "z": 8}
    begins, steps = claims.free(1, "begins"), claims.free(1, "steps")
    given = {name: claims.free(width, f"given_{name}") for name, width in bits.items()}
    held = {name: Signal(width, name=f"held_{name}") for name, width in bits.items()}
    counts = {name: Mux(begins, given[name], held[name]) for name in bits}
    loops = nest.Nest(m, bits, "nest")
    #: An odometer, innermost first.
    running, begun = Signal(), Signal()
    rounds = {name: Signal(width, name=f"round_{name}") for name, width in bits.items()}
    at_end = {name: rounds[name] == held[name] for name in bits}
    all_inside = dict(zip(bits, accumulate(at_end.values(), and_), strict=True))
    said, says = Signal(), Signal()
    m.d.sync += said.eq(says)
    m.d.sync += begun.eq(0)
    with m.If(begins):
        m.d.comb += says.eq(loops.begin(counts))
        m.d.sync += [running.eq(1), begun.eq(1)]
        m.d.sync += [held[name].eq(given[name]) for name in bits]
        m.d.sync += [rounds[name].eq(0) for name in bits]
    with m.Elif(steps & running):
        m.d.comb += says.eq(loops.step(counts))
        m.d.sync += [running.eq(~all_inside["z"]), begun.eq(1)]
        carry = 1
        for name in bits:
            with m.If(carry):
                m.d.sync += rounds[name].eq(Mux(at_end[name], 0, rounds[name] + 1))
            carry = all_inside[name]
    same = [loops.last[name] == at_end[name] for name in bits]
    ends = [loops.ends[name] == all_inside[name] for name in bits]
    left = [
        (loops._left[name] == held[name] - rounds[name])
        & (rounds[name] <= held[name])
        & (loops._near[name] == (loops._left[name] == 1))
        & (loops._one[name] == (held[name] == 0))
        & (loops._two[name] == (held[name] == 1))
        for name in bits
    ]

    def while_running(conditions: list[Value]) -> Value:
        return ~running | Cat(conditions).all()

    claims.claim("last_in_the_last_round", while_running(same))
    claims.claim("ends_with_all_inside", while_running(ends))
    claims.claim("says_the_last_of_all", ~(running & begun) | (said == all_inside["z"]))
    claims.invariant("left", while_running(left))
    several = Cat(count != 0 for count in held.values()).all()
    claims.cover("last_of_eight", running & all_inside["z"] & several & (rounds["z"] == 1))


@proof(
    Plant(
        "a delay of one cycle less",
        "systolith.hw.leaf.delay",
        "range(cycles)",
        "range(cycles - 1)",
        "so_many_cycles_later",
    ),
    Plant(
        "a copy is taken a register early",
        "systolith.hw.leaf.twins",
        "[delayed(m, twin, 1,",
        "[delayed(m, twin, 0,",
        "copies_two_cycles_later",
    ),
    depth=7,
    cycles=8,
)
def delay_lines(m: Module, claims: Claims) -> None:
    """`delayed` gives a value 0 to 4 cycles later, `register_twins` one cycle later and `register_copies`
    two, each copy the same."""
    value, mark = claims.free(4, "value"), claims.free(1, "mark")
    kept, age = Signal(4), Signal(range(8), init=7)
    now = Signal(range(8))
    # A value is kept at any time, and looked for when it is due.
    with m.If(mark & (age == 7)):
        m.d.sync += [kept.eq(value), age.eq(1)]
    with m.Elif(age != 7):
        m.d.sync += age.eq(age + 1)
    m.d.comb += now.eq(Mux(mark & (age == 7), 0, age))
    wanted = Mux(now == 0, value, kept)
    lines = [delay.delayed(m, value, cycles, f"line{cycles}") for cycles in range(5)]
    two = twins.register_copies(m, value, 2, "two")
    four = twins.register_copies(m, value, 4, "four")

    def due(cycles: int, values: Iterable[Value]) -> Value:
        return Cat((now != cycles) | (found == wanted) for found in values).all()

    late = [due(cycles, [line]) for cycles, line in enumerate(lines)]
    claims.claim("so_many_cycles_later", Cat(late).all())
    claims.claim("twins_a_cycle_later", due(1, twins.register_twins(m, value, "twin")))
    claims.claim("copies_two_cycles_later", due(2, [*two, *four]))
    claims.cover("something_arrives", (now == 4) & (kept != 0))
