"""The page of latencies, docs/timing.md, read from `spec.timing` itself: names, sums, values and comments."""

from __future__ import annotations

import ast
import enum
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from systolith.spec import timing
from systolith.spec.arch import PRESETS
from systolith.spec.enums import Cell

__all__ = ["timing_page"]


@dataclass(frozen=True, slots=True)
class _Row:
    """One entry: its name, the sum that it is, its value in cycles, and what it means."""

    name: str
    formula: str
    cycles: object
    meaning: str


def _sections() -> Iterator[tuple[str, list[_Row]]]:
    """The entries of the table, in its order, under the headings that stand in its source."""
    source = inspect.getsource(timing)
    entries = {
        node.target.id: node
        for node in ast.parse(source).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    heading, rows, meaning = "", list[_Row](), list[str]()
    for line in source.splitlines():
        if line.startswith("# -- "):
            if rows:
                yield heading, rows
            heading, rows = line.strip("# -"), []
        elif line.startswith("#:"):
            meaning.append(line.removeprefix("#:").strip())
        elif (name := line.partition(":")[0]) in entries:
            value = entries[name].value
            assert value is not None
            rows.extend(_rows(name, value, " ".join(meaning)))
            meaning = []
    yield heading, rows


def _rows(name: str, formula: ast.expr, meaning: str) -> Iterator[_Row]:
    value = getattr(timing, name)
    if not isinstance(value, Mapping):
        yield _Row(name, ast.unparse(formula), value, meaning)
        return
    assert isinstance(formula, ast.Dict)
    for (key, cycles), part in zip(value.items(), formula.values, strict=True):
        assert isinstance(key, enum.Enum)
        yield _Row(f"{name}[{key.name}]", ast.unparse(part), cycles, meaning)


def _table(rows: list[_Row]) -> str:
    text = "| latency | cycles | sum | from, to |\n|---|---|---|---|\n"
    for row in rows:
        formula = "" if row.formula == str(row.cycles) else f"`{row.formula}`"
        text += f"| `{row.name}` | {row.cycles} | {formula} | {row.meaning} |\n"
    return text


def _of_architectures() -> str:
    """What depends on the architecture, for every preset."""
    text = "| preset | array: request to sums | compact: end to next in its unit |\n|---|---|---|\n"
    for name, arch in PRESETS.items():
        issue = timing.compact_issue(arch) if arch.compact else "-"
        text += f"| `{name}` | {timing.matrix_write(arch)} | {issue} |\n"
    return text


def _of_cells() -> str:
    """Recurrent cells, with hidden states of 8 and of 16 bits."""
    text = "| cell | hidden state | last gate to last write | chunk to chunk |\n|---|---|---|---|\n"
    for kind in Cell:
        for wide in (False, True):
            write, chunk = timing.cell_write(kind, wide), timing.cell_chunk(kind, wide)
            text += f"| {kind.name} | {16 if wide else 8} bits | {write} | {chunk} |\n"
    return text


def timing_page(note: str) -> str:
    """docs/timing.md; `note` says that it is generated."""
    text = (
        f"# Latencies\n\n{note}"
        "In clock cycles, from `spec/timing.py`, where they are written once: the hardware's pipelines are "
        "made or asserted from them, `tests/hw` counts them, and the cycle model and the lowering add them "
        "up. A latency from one event to another is the difference of the cycles in which they happen, where "
        "nothing has to wait.\n"
    )
    for heading, rows in _sections():
        text += f"\n## {heading}\n\n{_table(rows)}"
    text += f"\n## By architecture\n\n{_of_architectures()}"
    text += f"\n## Recurrent cells\n\n{_of_cells()}"
    return text
