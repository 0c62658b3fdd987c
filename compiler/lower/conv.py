"""Convolution on the array."""

from __future__ import annotations

import numpy as np

from systolith.compiler.lower.array import Layer, emit_rectangle
from systolith.compiler.lower.context import Lowering
from systolith.compiler.lower.registry import Order, lowering
from systolith.compiler.lower.spatial import Views, over_images, spatial_window
from systolith.compiler.lower.tile_blocks import convolution_blocks
from systolith.reference.conv import Conv

__all__ = ["lower_conv"]


@lowering(Conv, order=Order.CHANNELS_LAST, streams=True, chains=True)
def lower_conv(low: Lowering, op: Conv) -> None:
    """Conv; input and output lie channels last."""
    window, laid_down = spatial_window(low, op.weights.shape[2:], op.strides, op.dilations, op.pads)
    weights = op.weights.swapaxes(2, 3) if laid_down else op.weights
    # What meets padding alone adds nothing, because the padding is the zero point.
    rows, cols = taps = window.taps()
    weights, window = weights[:, :, rows.start : rows.stop, cols.start : cols.stop], window.of_taps(taps)
    blocks = convolution_blocks(low.arch, weights, op.group, window)
    bias = op.bias.astype(np.int64) - op.x_zero * weights.astype(np.int64).sum(axis=(1, 2, 3))

    layer = Layer(window=window, pad=op.x_zero, bias=bias)

    def compute(views: Views, rows: range, cols: range) -> None:
        emit_rectangle(low, layer, views, blocks, op.requant, rows, cols, ())

    over_images(low, window, compute)
