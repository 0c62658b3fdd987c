"""What the command line prints: tables and progress on a terminal, plain lines elsewhere, JSON files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from systolith.evidence.difference import Difference
from systolith.spec import outputs
from systolith.spec.printable import printable

__all__ = [
    "HOST_COLUMNS",
    "LAYER_COLUMNS",
    "STEP_COLUMNS",
    "Reporter",
    "difference_lines",
    "host_cells",
    "layer_rows",
    "reporter_for",
    "skipped_lines",
    "snr_lines",
    "step_cells",
    "write_json",
]

HOST_COLUMNS = ("host node", "op", "reason", "step", "MACs", "elements", "bytes")
STEP_COLUMNS = ("step", "where", "nodes", "why", "MACs", "bytes", "cycles")
LAYER_COLUMNS = ("layer", "op", "MACs", "cycles", "roofline", "of roofline", "limit")


class Reporter:
    """Writes results to standard output, a spinner to standard error.

    Parameters
    ----------
    out, err : rich consoles; whether they are terminals decides the form
    """

    def __init__(self, out: Console | None = None, err: Console | None = None) -> None:
        self.out = out if out is not None else Console(highlight=False, soft_wrap=True)
        self.err = err if err is not None else Console(stderr=True, highlight=False, soft_wrap=True)

    def line(self, text: str) -> None:
        """One line of result; what a terminal would obey is escaped, see `spec.printable`."""
        # Not through rich, which would expand the tabs of plain tables.
        print(printable(text, keep="\t"), file=self.out.file)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 2) -> None:
        """A table: drawn on a terminal, tab-separated lines elsewhere; the first `left` columns are text."""
        if not self.out.is_terminal:
            self.line(title)
            for row in (columns, *rows):
                self.line("\t".join(map(printable, row)))
            return
        table = Table(title=_plain(title), title_justify="left")
        for i, column in enumerate(columns):
            table.add_column(column, justify="left" if i < left or column == "limit" else "right")
        for row in rows:
            table.add_row(*(_plain(shortened(cell)) for cell in row))
        self.out.print(table)

    @contextmanager
    def progress(self) -> Iterator[Callable[[str], None]]:
        """A callable for `progress=`: a spinner on a terminal, one plain line per stage elsewhere; both on
        standard error, so that standard output holds results alone."""
        if not self.err.is_terminal:
            yield lambda text: print(printable(text), file=self.err.file, flush=True)
            return
        with self.err.status("starting") as status:
            yield lambda text: status.update(_plain(text))


def _plain(text: str) -> str:
    """Names come from models: brackets in them are no markup, and control characters no commands."""
    return printable(text).replace("[", r"\[")


def shortened(text: str, most: int = 60) -> str:
    """The text, or its two ends: what a converter calls a node may be longer than a line."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}\N{HORIZONTAL ELLIPSIS}{text[-half:]}"


class _Silent(Reporter):
    """Used with ``--json -``: standard output holds the JSON alone."""

    def line(self, text: str) -> None:
        return

    def table(self, *args: object, **kwargs: object) -> None:
        return


def reporter_for(json_path: str | None) -> Reporter:
    """A silent one where standard output is to hold the JSON alone."""
    return _Silent() if json_path == "-" else Reporter()


def difference_lines(difference: Difference) -> list[str]:
    """A difference as text: what differs, then where it began."""
    lines = [str(difference)]
    if difference.location is not None:
        lines += [f"  {label:<12}{text}" for label, text in difference.location.rows()]
    if difference.note:
        lines.append(f"  {'note':<12}{difference.note}")
    return lines


def layer_rows(layers: Iterable[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Cells of the per-layer table, under `LAYER_COLUMNS`."""
    return [
        (
            layer["name"],
            layer["op"],
            f"{layer['macs']:,}",
            f"{layer['cycles']:,}",
            f"{layer['roofline_cycles']:,}",
            f"{layer['roofline_cycles'] / layer['cycles']:.0%}" if layer["cycles"] else "-",
            layer["limit"],
        )
        for layer in layers
    ]


def skipped_lines(layers: Iterable[dict[str, Any]]) -> list[str]:
    """What each layer saves by leaving out tiles of its weights."""
    return [
        f"{layer['name']}: {layer['skipped_tiles']:,} tiles of the weights are all zero and skipped, "
        f"{layer['skipped_macs']:,} of {layer['macs']:,} MACs"
        for layer in layers
        if layer["skipped_tiles"]
    ]


def snr_lines(found: dict[str, dict[str, float | None]]) -> list[str]:
    """Signal to noise against the float model, of each output and each recurrent layer."""
    labels = {"outputs": "output", "recurrent": "recurrent layer"}
    return [
        f"{labels[kind]} {name!r}: "
        + ("equal to float" if value is None else f"{value:.1f} dB from float")
        + " on the calibration data"
        for kind, values in found.items()
        for name, value in values.items()
    ]


def host_cells(nodes: Iterable[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Cells of the table of nodes on the host, under `HOST_COLUMNS`."""
    return [
        (
            node["name"],
            node["op"],
            node["reason"],
            str(node["step"]),
            f"{node['macs']:,}" if node["macs_known"] else "-",
            "-" if node["elements"] is None else f"{node['elements']:,}",
            f"{node['bytes']:,}",
        )
        for node in nodes
    ]


def step_cells(steps: Iterable[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Cells of the table of steps, under `STEP_COLUMNS`."""
    return [
        (
            str(step["step"]),
            step["where"],
            _ends(step["nodes"]),
            "; ".join(step["reasons"]) or "-",
            f"{step['macs']:,}",
            f"{step['bytes']:,}",
            f"{step['cycles']:,}" if step["where"] == "core" else "-",
        )
        for step in steps
    ]


def _ends(names: Sequence[str]) -> str:
    """The first and the last of some names, and how many there are."""
    return " ".join(names) if len(names) < 2 else f"{names[0]} to {names[-1]} ({len(names)})"


def write_json(path: str | Path | None, value: Mapping[str, Any]) -> None:
    """Write `value` as JSON if a path is given; "-" is standard output.

    Raises
    ------
    OutputError   If it cannot be written; what was there stays.
    """
    if path is None:
        return
    text = json.dumps(value, indent=2) + "\n"
    if str(path) == "-":
        print(text, end="")
        return
    outputs.write(path, text.encode())
