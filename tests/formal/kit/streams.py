"""Properties of streams and of what passes them on, for any design."""

from amaranth.hdl import Module, Mux, Signal, Value

from tests.formal.kit.claims import Claims, Inside

__all__ = ["Passage", "stays_offered"]


def stays_offered(m: Module, name: str, valid: Value, ready: Value, payload: Value) -> Value:
    """What was offered and not taken is offered still, unchanged; for a claim or an assumption."""
    payload = Value.cast(payload)
    waiting, before = Signal(name=f"{name}_waiting"), Signal(len(payload), name=f"{name}_before")
    m.d.sync += [waiting.eq(valid & ~ready), before.eq(payload)]
    return ~waiting | (valid & (payload == before))


class Passage:
    """Claims that what enters a design leaves it unchanged, once, in order, and that nothing else does.

    One entry is watched, whichever the prover likes: that it leaves in its turn says so of all of them. A
    reset empties the design.

    Parameters
    ----------
    capacity : int           entries that it may hold at most
    enters, leaves : Value   an entry goes in, or out, in this cycle; not the same one in the same cycle
    entry, exit : Value      that entry
    name : str               before the names of the claims, where a proof has several passages

    Attributes
    ----------
    count : Signal      entries inside
    watched : Signal    the watched entry is inside
    ahead : Signal      entries before it
    kept : Signal       that entry
    turn : Value        it is the next to leave
    prefix : str        prefix of the names of the claims
    """

    def __init__(
        self,
        m: Module,
        claims: Claims,
        *,
        capacity: int,
        enters: Value,
        entry: Value,
        leaves: Value,
        exit: Value,
        name: str = "",
    ) -> None:
        self._claims, self.prefix = claims, (prefix := f"{name}_" if name else "")
        entry, exit = Value.cast(entry), Value.cast(exit)
        self.count = Signal(range(capacity + 1), name=f"{prefix}count")
        self.watched = Signal(name=f"{prefix}watched")
        self.ahead = Signal(range(capacity + 1), name=f"{prefix}ahead")
        self.kept = Signal(len(entry), name=f"{prefix}kept")
        self.turn = turn = self.watched & (self.ahead == 0)
        seen, behind = Signal(name=f"{prefix}seen"), Signal(name=f"{prefix}behind")
        begins = claims.free(1, f"{prefix}watch")
        m.d.sync += self.count.eq(self.count + enters - leaves)
        with m.If(begins & enters & ~seen):
            m.d.sync += [
                seen.eq(1),
                self.watched.eq(1),
                self.kept.eq(entry),
                self.ahead.eq(self.count - leaves),
                behind.eq(self.count != leaves),
            ]
        with m.If(self.watched & leaves):
            m.d.sync += [self.watched.eq(~turn), self.ahead.eq(Mux(turn, 0, self.ahead - 1))]
        claims.claim(f"{prefix}nothing_from_nothing", ~leaves | (self.count != 0))
        claims.claim(f"{prefix}no_more_than_fit", (self.count != capacity) | leaves | ~enters)
        claims.claim(f"{prefix}in_order_and_unchanged", ~(turn & leaves) | (exit == self.kept))
        claims.invariant(f"{prefix}watched_is_inside", ~self.watched | (seen & (self.ahead < self.count)))
        claims.invariant(f"{prefix}count_is_in_range", self.count <= capacity)
        claims.cover(f"{prefix}leaves_behind_another", turn & leaves & behind & (self.kept != 0))

    def lies(self, place: Value | int, value: Value) -> Value:
        """If the watched entry has so many before it, it is this value; for an invariant."""
        return ~(self.watched & (self.ahead == place)) | (Value.cast(value) == self.kept)

    def in_register(self, inside: Inside, path: str, taken: slice = slice(None)) -> None:
        """Invariants of a passage through one `StreamRegister`, whose payload has the entry at `taken`."""
        path = f"{path}." if path else ""
        valid, waits = inside[f"{path}o__valid"], inside[f"{path}waits"]
        claims, prefix = self._claims, self.prefix
        claims.invariant(f"{prefix}are_in_the_register", self.count == valid + waits)
        claims.invariant(f"{prefix}fill_from_the_front", ~waits | valid)
        claims.invariant(f"{prefix}first", self.lies(0, inside[f"{path}first"][taken]))
        claims.invariant(f"{prefix}second", self.lies(1, inside[f"{path}second"][taken]))
