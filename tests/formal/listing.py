"""The list of proofs as a table of docs/verification.md."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.formal.kit.proof import Proof

__all__ = ["PAGE", "exchanged", "rows", "table", "without_times"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "verification.md"
_MARKS = re.compile(r"(<!-- proofs: python -m tests\.formal -->\n)(.*?)(<!-- end -->)", re.S)
_HEAD = ["| proof | what is proved | k | s | planted bugs that it finds |", "|---|---|---|---|---|"]


def rows(proofs: Iterable[Proof], seconds: Mapping[str, tuple[float, float]]) -> str:
    """The table; `seconds` are those of a proof and of finding its plants, of one core."""
    lines = list(_HEAD)
    for proof in proofs:
        own, plants = seconds[proof.name]
        found = "; ".join(plant.name for plant in proof.plants)
        lines.append(
            f"| `{proof.name}` | {proof.statement} | {proof.depth} | {own:.1f} + {plants:.1f} | {found} |"
        )
    return "\n".join(lines) + "\n"


def table(page: str) -> str:
    """The table that a page holds.

    Raises
    ------
    ValueError   If it has no place for one.
    """
    if (found := _MARKS.search(page)) is None:
        raise ValueError("the page has no marks between which the list of proofs belongs")
    return found[2]


def exchanged(page: str, text: str) -> str:
    """The page with another table."""
    table(page)
    return _MARKS.sub(lambda marks: marks[1] + text + marks[3], page)


def without_times(text: str) -> str:
    """A table without the column that each machine fills in another way."""
    return re.sub(r"\| [0-9.]+ \+ [0-9.]+ \|", "| |", text)
