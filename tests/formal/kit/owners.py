"""Invariants of answers that go back to whoever asked, by a queue of owners."""

from tests.formal.kit.claims import Claims, Inside
from tests.formal.kit.rings import Ring
from tests.formal.kit.streams import Passage

__all__ = ["returns_to_owner"]


def returns_to_owner(
    claims: Claims,
    inside: Inside,
    passage: Passage,
    *,
    owners: Ring,
    register: str,
    owner: slice,
    last: int | None,
) -> None:
    """Invariants of what comes back: in a stream register beside its owner, who is the oldest in a queue.

    Parameters
    ----------
    owner : slice   bits of the register's payload
    last : int      bit of its payload, None: each is the last of its burst
    """
    valid, waits = inside[f"{register}.o__valid"], inside[f"{register}.waits"]
    first, second = inside[f"{register}.first"], inside[f"{register}.second"]
    ends_first, ends_second = (valid, waits) if last is None else (valid & first[last], waits & second[last])
    ended = ends_first + ends_second
    claims.invariant("bursts_are_owned", passage.count == owners.level + ended)
    claims.invariant(f"{register}_first_owner", ~valid | passage.lies(0, first[owner]))
    claims.invariant(f"{register}_second_owner", ~waits | passage.lies(ends_first, second[owner]))
    # A beat lies in the register only while its burst is under way.
    claims.invariant(f"{register}_is_of_a_burst", ~valid | (passage.count != 0))
    claims.invariant(f"{register}_second_is_of_a_burst", ~waits | (passage.count > ends_first))
    owners.holds(passage, ended)
