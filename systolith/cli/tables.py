"""Tables that several commands print: layers of the core, steps of the plan, nodes of the host."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from systolith.report import (
    HOST_COLUMNS,
    LAYER_COLUMNS,
    STEP_COLUMNS,
    Reporter,
    host_cells,
    layer_rows,
    skipped_lines,
    snr_lines,
    step_cells,
)
from systolith.results import core_share
from systolith.spec.plan import host_step

if TYPE_CHECKING:
    from systolith.evidence.fidelity import Fidelity

__all__ = ["print_fidelity", "print_host", "print_layers"]


def print_layers(
    reporter: Reporter,
    info: dict[str, Any],
    total: str = "estimated",
    layers: str = "estimated by the cycle model",
) -> None:
    """The layers of an image, as `results.describe` gives them; `total` and `layers` say where cycles come
    from."""
    title = f"{info['model']} on {info['arch']}: cycles of the layers, {layers}"
    reporter.table(title, LAYER_COLUMNS, layer_rows(info["layers"]))
    reporter.line(
        f"{info['cycles']:,} cycles {total}, {info['macs']:,} MACs, {info['utilisation']:.1%} of "
        f"{info['peak_macs_per_cycle']} MACs a cycle, roofline {info['roofline_cycles']:,} cycles"
    )
    reporter.line(core_share(info))
    for text in skipped_lines(info["layers"]):
        reporter.line(text)
    if len(info["steps"]) > 1:
        reporter.table("steps, in order", STEP_COLUMNS, step_cells(info["steps"]), left=4)
    print_host(reporter, info["host_nodes"])


def print_fidelity(reporter: Reporter, found: Fidelity | None) -> None:
    """How far outputs and recurrent layers are from the float model, and where most of it arises."""
    if found is not None:
        for text in snr_lines(found.snr()):
            reporter.line(text)
        reporter.line(found.summary())


def print_host(reporter: Reporter, nodes: list[dict[str, Any]]) -> None:
    """The nodes on the host and, once they ran, what each step took."""
    if not nodes:
        return
    reporter.table("nodes that run on the host, in ONNX Runtime", HOST_COLUMNS, host_cells(nodes), left=4)
    for number, step in itertools.groupby(nodes, key=lambda node: node["step"]):
        rows = list(step)
        if "step_seconds" in rows[0]:
            names = [node["name"] for node in rows]
            reporter.line(f"{host_step(number, names)}: {rows[0]['step_seconds'] * 1000:.3f} ms")
