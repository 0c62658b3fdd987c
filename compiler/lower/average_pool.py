"""Average pooling on the array."""

from __future__ import annotations

import numpy as np

from systolith.compiler.lower.array import Layer, emit_rectangle
from systolith.compiler.lower.context import Lowering
from systolith.compiler.lower.registry import Order, lowering
from systolith.compiler.lower.spatial import Views, over_images, spatial_window
from systolith.compiler.lower.tile_blocks import convolution_blocks
from systolith.reference.average_pool import AveragePool

__all__ = ["lower_average_pool"]


@lowering(AveragePool, order=Order.CHANNELS_LAST, streams=True)
def lower_average_pool(low: Lowering, op: AveragePool) -> None:
    """AveragePool: a depthwise convolution with weights of one; each rectangle with its own divisor has its
    own scale."""
    window, laid_down = spatial_window(low, op.kernel, op.strides, op.dilations, op.pads)
    counts_y, counts_x = (op.counts_x, op.counts_y) if laid_down else (op.counts_y, op.counts_x)
    channels = window.x[3]
    # A single channel is a dense convolution with one input.
    blocks = convolution_blocks(low.arch, np.ones((channels, 1, *window.kernel), np.int8), channels, window)
    bias = np.full(channels, -op.x_zero * op.kernel[0] * op.kernel[1], np.int64)

    layer = Layer(window=window, pad=op.x_zero, bias=bias)

    def compute(views: Views, box_rows: range, box_cols: range) -> None:
        for rows in _runs(counts_y, box_rows):
            for cols in _runs(counts_x, box_cols):
                count = int(counts_y[rows[0]]) * int(counts_x[cols[0]])
                emit_rectangle(low, layer, views, blocks, op.requants[count], rows, cols, (count,))

    over_images(low, window, compute)


def _runs(counts: np.ndarray, box: range) -> list[range]:
    """Maximal ranges of equal values inside a box."""
    edges = [
        box.start,
        *(int(i) + 1 for i in np.flatnonzero(np.diff(counts)) if box.start <= i < box.stop - 1),
        box.stop,
    ]
    return [range(a, b) for a, b in zip(edges, edges[1:], strict=False)]
