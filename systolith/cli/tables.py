"""Tables that several commands print: layers of the core, nodes of the host."""

from __future__ import annotations

from typing import Any

from systolith.report import (
    HOST_COLUMNS,
    LAYER_COLUMNS,
    Reporter,
    host_cells,
    layer_rows,
    skipped_lines,
)

__all__ = ["print_host", "print_layers"]


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
    for text in skipped_lines(info["layers"]):
        reporter.line(text)
    print_host(reporter, info["host_nodes"])


def print_host(reporter: Reporter, nodes: list[dict[str, Any]]) -> None:
    """The nodes on the host and, once they ran, what each segment took."""
    if not nodes:
        return
    title = "nodes that run on the host, in ONNX Runtime, before or after the core"
    reporter.table(title, HOST_COLUMNS, host_cells(nodes), left=4)
    for segment in dict.fromkeys(node["segment"] for node in nodes):
        seconds = next(node.get("segment_seconds") for node in nodes if node["segment"] == segment)
        if seconds is not None:
            reporter.line(f"host, {segment} the core: {seconds * 1000:.3f} ms")
