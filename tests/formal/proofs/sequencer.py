"""The sequencer: queues in order, tokens that are never taken before they are given."""

from unittest.mock import patch

from amaranth.hdl import Cat, Module, Mux, Signal, Value

from systolith.hw.core.sequencer import IN_FLIGHT, Sequencer
from systolith.spec.arch import PRESETS
from systolith.spec.isa import Engine
from tests.formal.kit.claims import Claims, Inside
from tests.formal.kit.plant import Plant
from tests.formal.kit.proof import proof
from tests.formal.kit.streams import Passage

_SEQUENCER = "systolith.hw.core.sequencer"
_ARCH = PRESETS["tiny"]
#: Bits of a semaphore, fewer than it has, so that runs from power-up reach its end.
_BITS = 2


def _next(m: Module, value: Value, name: str) -> Signal:
    """The value a cycle later; 0 after a reset."""
    value = Value.cast(value)
    register = Signal(len(value), name=f"{name}_before")
    m.d.sync += register.eq(value)
    return register


def _under_way(m: Module, claims: Claims, sequencer: Sequencer, engine: Engine) -> Signal:
    """Instructions that an engine was given and that are not done; it is done with no others."""
    port = getattr(sequencer, engine.name.lower())
    count = Signal(range(IN_FLIGHT + 1), name=f"{engine.name.lower()}_under_way")
    m.d.sync += count.eq(count + (port.cmd.valid & port.cmd.ready) - port.done)
    claims.assume(f"{engine.name.lower()}_is_done_with_what_it_was_given", ~port.done | (count != 0))
    return count


@proof(
    Plant(
        "a token is there again in the cycle after it was taken",
        _SEQUENCER,
        "several | (some & ~takes[engine])",
        "several | some",
        "never_below_zero",
    ),
    Plant(
        "the instruction behind does not wait for what is taken now",
        _SEQUENCER,
        "(waits & (~present | Mux(valid, wait, 0))).any()",
        "(waits & ~present).any()",
        "never_below_zero",
    ),
    Plant(
        "an overflow is not reported",
        _SEQUENCER,
        "error | overflows[engine].any()",
        "error",
        "never_above_its_bits",
    ),
    depth=4,
    cycles=12,
)
def semaphores(m: Module, claims: Claims) -> None:
    """No semaphore goes below zero: each token that an issued instruction waits for was given before, and is
    taken once; none wraps above its bits without an error, three cycles later. For all programs and all pairs
    of engines; semaphores of two bits."""
    sequencer = Sequencer(_ARCH)
    with patch.dict(Sequencer.elaborate.__globals__, semaphore_bits=lambda arch: _BITS):
        inside = claims.design("sequencer", sequencer)
    names = {engine: engine.name.lower() for engine in Engine}
    never, exact, wraps = [], [], []
    #: A semaphore has wrapped: the core stops with an error, and its tokens mean nothing.
    over = Signal()
    for taker, name in names.items():
        some, several = inside[f"some_{name}"], inside[f"several_{name}"]
        taking, may, wait = inside[f"{name}_taking"], inside[f"{name}_may"], inside[f"{name}_wait"]
        port = getattr(sequencer, name)
        issued = _next(m, Mux(port.cmd.valid & port.cmd.ready, wait, 0), f"{name}_issued")
        exact.append(taking == issued)
        for giver, other in names.items():
            count, give = inside[f"tokens_{other}_{name}"], inside[f"gives_{other}"][taker]
            take = taking[giver]
            never.append(~take | (count != 0))
            wraps.append(give & ~take & (count == (1 << _BITS) - 1))
            pair = f"{other}_{name}"
            claims.invariant(f"some_{pair}", over | ~some[giver] | (count != 0))
            claims.invariant(f"several_{pair}", over | ~several[giver] | (count > take))
        claims.invariant(f"none_is_wanted_twice_{name}", ~may | ~(wait & taking).any())
        claims.invariant(f"what_is_wanted_is_there_{name}", ~may | ~(wait & ~some).any())
    with m.If(Cat(wraps).any()):
        m.d.sync += over.eq(1)
    claims.claim("never_below_zero", over | Cat(never).all())
    claims.claim("issued_takes_its_tokens_once", Cat(exact).all())
    wrapped = Signal(3)
    m.d.sync += wrapped.eq(Cat(Cat(wraps).any(), wrapped))
    claims.claim("never_above_its_bits", ~wrapped[2] | sequencer.error)
    claims.cover("an_overflow", wrapped[2])
    claims.cover("a_token_is_taken", Cat(inside[f"{name}_taking"] for name in names.values()).any())


@proof(
    Plant(
        "a full queue takes one more",
        _SEQUENCER,
        "dispatch.ready.eq((held + enter) < depth)",
        "dispatch.ready.eq(held < depth)",
        "commands_no_more_than_fit",
    ),
    Plant(
        "an instruction waits for what the one before does",
        _SEQUENCER,
        "m.d.sync += [valid.eq(more), wait.eq(waits), next_wait.eq(next_wait + more)]",
        "m.d.sync += [valid.eq(more), wait.eq(waits), next_wait.eq(next_wait + issue)]",
        "commands_in_order_and_unchanged",
    ),
    Plant(
        "tokens of the instruction behind",
        _SEQUENCER,
        "(flight_first + done)[: len(flight_first)]",
        "flight_first[: len(flight_first)]",
        "signals_in_order_and_unchanged",
    ),
    cycles=14,
)
def sequencer_queue(m: Module, claims: Claims) -> None:
    """An engine is given each instruction that was dispatched to it once, in order and unchanged, with its
    own waits; when it is done, the tokens are given that this instruction signals. Assumed: an engine is done
    with nothing that it was not given before. For OUTPUT; the queues of all engines are the same text."""
    sequencer = Sequencer(_ARCH)
    inside = claims.design("sequencer", sequencer)
    engine, name = Engine.OUTPUT, Engine.OUTPUT.name.lower()
    port, dispatch = getattr(sequencer, name), getattr(sequencer, f"dispatch_{name}")
    given = _under_way(m, claims, sequencer, engine)
    depth = _ARCH.queue_depth
    enter, issue = dispatch.valid & dispatch.ready, port.cmd.valid & port.cmd.ready
    entry = dispatch.payload
    wait, command = len(entry.wait), len(entry.command.as_value())
    commands = Passage(
        m,
        claims,
        capacity=depth,
        enters=enter,
        entry=Cat(entry.wait, entry.command),
        leaves=issue,
        exit=Cat(inside[f"{name}_wait"], port.cmd.payload),
        name="commands",
    )
    _queue(claims, inside, name, commands, wait, command, depth)
    done, signal = inside[f"{name}_done"], inside[f"{name}_signal"]
    signals = Passage(
        m,
        claims,
        capacity=depth + IN_FLIGHT - 1,
        enters=enter,
        entry=entry.signal,
        leaves=done,
        exit=signal,
        name="signals",
    )
    claims.claim("gives_what_it_signals", inside[f"gives_{name}"] == Mux(done, signal, 0))
    claims.claim("done_a_cycle_late", done == _next(m, port.done, "done"))
    _flight(m, claims, inside, name, signals, commands, given, issue)


def _queue(
    claims: Claims, inside: Inside, name: str, passage: Passage, wait: int, command: int, depth: int
) -> None:
    """Invariants of the queue: its pointers, its rows, and the waits of the oldest in a register."""
    first, end, held = inside[f"{name}_first"], inside[f"{name}_end"], inside[f"{name}_held"]
    valid, next_wait = inside[f"{name}_valid"], inside[f"{name}_next_wait"]
    claims.invariant("held", passage.count == held)
    claims.invariant("ready_if_there_is_room", ~inside[f"{name}_enter"] | (held < depth))
    dispatch_ready = inside[f"dispatch_{name}__ready"]
    claims.invariant("ready_says_room", ~dispatch_ready | (held < depth))
    claims.invariant("end", end == (first + held)[: len(end)])
    claims.invariant("next_wait", next_wait == (first + valid)[: len(next_wait)])
    claims.invariant("seen_at_once", valid | (held <= 1))
    claims.invariant("valid_holds", ~valid | (held != 0))
    claims.invariant("may_issue", ~inside[f"{name}_may"] | valid)
    oldest = passage.watched & (passage.ahead == 0) & valid
    claims.invariant("waits_in_register", ~oldest | (inside[f"{name}_wait"] == passage.kept[:wait]))
    place = (first + passage.ahead)[: len(first)]
    for at, (row, waits) in enumerate(
        zip(inside.rows(f"{name}_queue"), inside.rows(f"{name}_waits"), strict=True)
    ):
        here = passage.watched & (place == at)
        claims.invariant(f"row{at}", ~here | (row[-command:] == passage.kept[wait:]))
        claims.invariant(f"waits{at}", ~here | oldest | (waits == passage.kept[:wait]))


def _flight(
    m: Module,
    claims: Claims,
    inside: Inside,
    name: str,
    signals: Passage,
    commands: Passage,
    given: Value,
    issue: Value,
) -> None:
    """Invariants of the list of what is issued and not done."""
    done, signal = inside[f"{name}_done"], inside[f"{name}_signal"]
    first, end = inside[f"{name}_flight_first"], inside[f"{name}_flight_end"]
    flight = Signal(range(IN_FLIGHT), name="flight")
    m.d.comb += flight.eq(end - first)
    fresh = Signal(name="fresh")
    m.d.sync += fresh.eq(issue & (flight == done))
    may, room = inside[f"{name}_may"], inside[f"{name}_room"]
    claims.invariant("flight_room", ~room | (flight <= IN_FLIGHT - 3))
    claims.invariant("flight_may", ~may | (flight <= IN_FLIGHT - 2))
    claims.invariant("flight_counts", flight == given + done)
    claims.invariant("all_are_counted", signals.count == flight + commands.count)
    claims.invariant("done_is_known", ~done | ((flight != 0) & ~fresh))
    rows = inside.rows(f"{name}_signals")
    in_flight = signals.watched & (signals.ahead < flight)
    place = (first + signals.ahead)[: len(first)]
    for at, row in enumerate(rows):
        claims.invariant(f"flight{at}", ~(in_flight & (place == at)) | (row == signals.kept))
        known = (flight != 0) & ~fresh & (first == at)
        claims.invariant(f"signal{at}", ~known | (signal == row))
    queued = inside.rows(f"{name}_queue")
    first_queued = inside[f"{name}_first"]
    behind = (first_queued + (signals.ahead - flight))[: len(first_queued)]
    waits = signals.watched & (signals.ahead >= flight)
    width = len(signal)
    for at, row in enumerate(queued):
        # Behind the offset and the waits.
        field = row[32 + width : 32 + 2 * width]
        claims.invariant(f"queued_signal{at}", ~(waits & (behind == at)) | (field == signals.kept))
