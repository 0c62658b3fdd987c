"""Properties of streams and of what passes them on, for any design."""

from amaranth.hdl import Module, Mux, Signal, Value

from tests.formal.kit.claims import Claims

__all__ = ["Passage", "stays_offered"]


def stays_offered(m: Module, name: str, valid: Value, ready: Value, payload: Value) -> Value:
    """What was offered and not taken is offered still, unchanged; for a claim or an assumption."""
    payload = Value.cast(payload)
    waiting, before = Signal(name=f"{name}_waiting"), Signal(len(payload), name=f"{name}_before")
    m.d.sync += [waiting.eq(valid & ~ready), before.eq(payload)]
    return ~waiting | (valid & (payload == before))


class Passage:
    """Claims that what enters a design leaves it unchanged, once, in order, and that nothing else does.

    One entry is watched, at whichever time the prover likes: that it leaves in its turn says so of all of
    them. A reset empties the design.

    Parameters
    ----------
    capacity : int                entries that it may hold at most
    enters, leaves : Value        an entry goes in, or out, in this cycle
    entry, exit : Value           that entry
    through : bool                an entry may leave in the cycle in which it enters

    Attributes
    ----------
    count : Signal      entries inside
    watched : Signal    the watched entry is inside
    ahead : Signal      entries before it
    kept : Signal       that entry
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
        prefix = f"{name}_" if name else ""
        entry, exit = Value.cast(entry), Value.cast(exit)
        self.count = Signal(range(capacity + 1), name=f"{prefix}count")
        self.watched = Signal(name=f"{prefix}watched")
        self.ahead = Signal(range(capacity + 1), name=f"{prefix}ahead")
        self.kept = Signal(len(entry), name=f"{prefix}kept")
        seen = Signal(name=f"{prefix}seen")
        begins = claims.free(1, f"{prefix}watch")
        turn = self.watched & (self.ahead == 0)
        m.d.sync += self.count.eq(self.count + enters - leaves)
        with m.If(begins & enters & ~seen):
            m.d.sync += [
                seen.eq(1),
                self.watched.eq(1),
                self.kept.eq(entry),
                self.ahead.eq(self.count - leaves),
            ]
        with m.If(self.watched & leaves):
            m.d.sync += [self.watched.eq(~turn), self.ahead.eq(Mux(turn, 0, self.ahead - 1))]
        claims.claim(f"{prefix}nothing_from_nothing", ~leaves | (self.count != 0))
        claims.claim(f"{prefix}no_more_than_fit", (self.count != capacity) | leaves | ~enters)
        claims.claim(f"{prefix}in_order_and_unchanged", ~(turn & leaves) | (exit == self.kept))
        claims.invariant(f"{prefix}watched_is_inside", ~self.watched | (seen & (self.ahead < self.count)))
        claims.invariant(f"{prefix}count_is_in_range", self.count <= capacity)
        claims.cover(f"{prefix}watched_leaves_behind_another", turn & leaves & (self.kept != 0) & seen)
        claims.cover(f"{prefix}is_full", self.count == capacity)

    def lies(self, place: Value | int, value: Value) -> Value:
        """If the watched entry has so many before it, it is this value; for an invariant."""
        return ~(self.watched & (self.ahead == place)) | (Value.cast(value) == self.kept)
