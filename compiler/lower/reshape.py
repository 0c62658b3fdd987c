"""The same elements under another shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from systolith.compiler.base.layout import Layout, is_linear, row_major
from systolith.compiler.lower.context import Lowering
from systolith.compiler.lower.operands import bring
from systolith.compiler.lower.orders import read_flattened
from systolith.compiler.lower.registry import Axes, lowering
from systolith.reference.reshape import Reshape

__all__ = ["lower_reshape"]


def _wants(op: Reshape, shape: tuple[int, ...], after: Axes) -> Axes:
    return row_major(shape)


@lowering(Reshape, wants=_wants, relabels=True)
def lower_reshape(low: Lowering, op: Reshape) -> None:
    """Reshape: no instruction where the tensor lies row-major or its readers take it as it lies."""
    node, graph = low.node, low.graph
    name, shape = node.inputs[0], graph.tensors[node.output].shape
    extents, place = graph.tensors[name].shape, low.places[name]
    order = place.layout.order
    if not is_linear(order, extents) and place.layout.flatten is None:
        keeps_batch = order[0] == 0 and len(shape) == 2 and shape[0] == extents[0]
        if keeps_batch and read_flattened(graph, node.output):
            low.places[node.output] = replace(
                place, layout=Layout(order=row_major(shape), flatten=_flatten_order(extents, order))
            )
            return
        bring(low, name, row_major(extents))
        place = low.places[name]
    low.places[node.output] = replace(place, layout=Layout(order=row_major(shape)))


def _flatten_order(shape: tuple[int, ...], order: tuple[int, ...]) -> np.ndarray:
    """Row-major index of the element at each byte of one item of the batch (axis 0 outermost)."""
    item = np.arange(int(np.prod(shape[1:], dtype=np.int64))).reshape(shape[1:])
    return item.transpose([axis - 1 for axis in order[1:]]).ravel()
