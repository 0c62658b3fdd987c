"""Transposed convolution on the array: one convolution per phase of the stride, each of which writes every
stride-th row and column of the result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import gcd

import numpy as np

from systolith.compiler.lower.array import Layer, emit_rectangle
from systolith.compiler.lower.context import Lowering
from systolith.compiler.lower.pieces import Box
from systolith.compiler.lower.registry import Order, lowering
from systolith.compiler.lower.spatial import Views, Window, over_images, spatial_window
from systolith.compiler.lower.tile_blocks import TileBlock, convolution_blocks
from systolith.reference.conv_transpose import ConvTranspose

__all__ = ["lower_conv_transpose"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spread(Window):
    """Geometry of the whole: strides, dilations and pads as of ConvTranspose."""

    def needed(self, box: Box) -> Box:
        """The part of x that meets a box of y; at least one position."""
        spans = []
        for axis, out in enumerate(box[1:3]):
            extent, stride, pad = self.x[1 + axis], self.strides[axis], self.pads[axis]
            reach = (self.kernel[axis] - 1) * self.dilations[axis]
            first = min(max((out.start + pad - reach) // stride, 0), extent - 1)
            end = min(max((out.stop - 1 + pad) // stride + 1, first + 1), extent)
            spans.append(range(first, end))
        return (box[0], *spans, range(self.x[3]))


@dataclass(frozen=True, slots=True)
class _Axis:
    """One phase along one axis: taps of the kernel in the order in which they meet the input, the dilation
    between them, and the padding before the first."""

    taps: tuple[int, ...]
    dilation: int
    pad: int


def _phase(phase: int, kernel: int, stride: int, dilation: int, pad: int) -> _Axis:
    taps = tuple(k for k in range(kernel) if (phase + pad - k * dilation) % stride == 0)[::-1]
    if not taps:
        return _Axis((), 1, 0)
    return _Axis(taps, dilation // gcd(stride, dilation), (taps[0] * dilation - phase - pad) // stride)


@lowering(ConvTranspose, order=Order.CHANNELS_LAST, streams=True)
def lower_conv_transpose(low: Lowering, op: ConvTranspose) -> None:
    """ConvTranspose; input and output lie channels last."""
    plain, _ = spatial_window(low, op.weights.shape[2:], (1, 1), (1, 1), (0, 1))
    spread = _Spread(
        x=plain.x,
        y=plain.y,
        kernel=plain.kernel,
        strides=op.strides,
        dilations=op.dilations,
        pads=op.pads,
    )
    phases: list[tuple[Layer, list[TileBlock]]] = []
    for at in product(*(range(min(s, out)) for s, out in zip(op.strides, spread.y[1:3], strict=True))):
        down, across = (
            _phase(at[axis], spread.kernel[axis], op.strides[axis], op.dilations[axis], op.pads[axis])
            for axis in (0, 1)
        )
        weights = op.weights[:, :, list(down.taps)][:, :, :, list(across.taps)]
        if not weights.size:
            # No tap meets these positions, which hold the bias.
            weights = np.zeros((*weights.shape[:2], 1, 1), np.int8)
        out = [len(range(first, size, s)) for first, size, s in zip(at, op.out, op.strides, strict=True)]
        window = Window(
            x=spread.x,
            y=(spread.y[0], *out, spread.y[3]),
            kernel=weights.shape[2:],
            strides=(1, 1),
            dilations=(down.dilation, across.dilation),
            pads=(down.pad, across.pad),
        )
        rows, cols = taps = window.taps()
        weights, window = weights[:, :, rows.start : rows.stop, cols.start : cols.stop], window.of_taps(taps)
        layer = Layer(
            window=window,
            pad=op.x_zero,
            bias=op.bias.astype(np.int64) - op.x_zero * weights.astype(np.int64).sum(axis=(1, 2, 3)),
            spread=op.strides,
            phase=at,
        )
        blocks = convolution_blocks(low.arch, np.ascontiguousarray(weights), op.group, window)
        phases.append((layer, [replace(block, key=(*at, *block.key)) for block in blocks]))

    def compute(views: Views, rows: range, cols: range) -> None:
        for layer, blocks in phases:
            own = [
                range(*(-(-(edge - first) // step) for edge in (box.start, box.stop)))
                for box, first, step in zip((rows, cols), layer.phase, op.strides, strict=True)
            ]
            if all(own):
                emit_rectangle(low, layer, views, blocks, op.requant, *own, ())

    over_images(low, spread, compute)
