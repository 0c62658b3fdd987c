"""Invariants of Amaranth's queues inside other designs, tied to a `Passage` through those."""

from amaranth.hdl import Mux, Value

from tests.formal.kit.claims import Claims, Inside
from tests.formal.kit.streams import Passage

__all__ = ["Ring", "pointers_agree"]


def pointers_agree(produce: Value, consume: Value, level: Value, depth: int) -> Value:
    """Whether the pointers into a ring of so many rows and its level agree."""
    distance = Mux(produce >= consume, produce - consume, produce + depth - consume)
    in_range = (produce < depth) & (consume < depth) & (level <= depth)
    return in_range & ((distance == level) | ((distance == 0) & (level == depth)))


class Ring:
    """A `SyncFIFO` or `SyncFIFOBuffered` inside a design.

    Parameters
    ----------
    path : str       path of its submodule
    depth : int      that it was made with
    buffered : bool  it is a `SyncFIFOBuffered`

    Attributes
    ----------
    level : Value   entries in it
    """

    def __init__(self, claims: Claims, inside: Inside, path: str, depth: int, *, buffered: bool) -> None:
        self._claims, self._path = claims, path.replace(".", "_") or "ring"
        path = f"{path}." if path else ""
        self._rows = inside.rows(f"{path}storage")
        self._consume = inside[f"{path}consume"]
        self._depth = depth - buffered
        inner = inside[f"{path}inner_level" if buffered else f"{path}level"]
        self._exit = inside[f"{path}r_data"] if buffered else None
        self._waits = inside[f"{path}r_rdy"] if buffered else 0
        self.level = inner + self._waits
        claims.invariant(
            f"{self._path}_pointers",
            pointers_agree(inside[f"{path}produce"], self._consume, inner, self._depth),
        )
        if buffered:
            # What lies in the memory goes to the exit as soon as that is free.
            claims.invariant(f"{self._path}_exit_is_filled", self._waits | (inner <= 1))

    def live(self) -> list[tuple[Value, Value]]:
        """Each row of the memory, behind whether there is an entry in it."""
        inner = self.level - self._waits
        return [
            (Mux(at >= self._consume, at - self._consume, at + self._depth - self._consume) < inner, row)
            for at, row in enumerate(self._rows)
        ]

    def holds(self, passage: Passage, before: Value | int = 0, taken: slice = slice(None)) -> None:
        """The watched entry lies here if it has from `before` to `before + level` others ahead of it, at
        `taken` of its row."""
        name = f"{self._path}_{passage.prefix}"
        if self._exit is not None:
            self._claims.invariant(
                f"{name}exit", ~self._waits | passage.lies(Value.cast(before), self._exit[taken])
            )
        # Where the watched entry lies in the memory.
        inner = before + self._waits
        behind = self._consume + (passage.ahead - inner)
        place = Mux(behind >= self._depth, behind - self._depth, behind)
        here = passage.watched & (passage.ahead >= inner) & (passage.ahead < before + self.level)
        for at, row in enumerate(self._rows):
            self._claims.invariant(f"{name}row{at}", ~(here & (place == at)) | (row[taken] == passage.kept))
