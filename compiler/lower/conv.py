"""Everything that runs on the array: convolution, matrix product, average pooling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from systolith.compiler.lower.context import Lowering
from systolith.compiler.lower.pieces import Box, Operand, View, in_boxes
from systolith.compiler.lower.spatial import Views, Window, over_images, spatial_window
from systolith.reference.average_pool import AveragePool
from systolith.reference.conv import Conv
from systolith.reference.graph import Requant
from systolith.reference.matmul import MatMul
from systolith.spec.isa import Destination, Mode, OperandA

__all__ = ["lower_average_pool", "lower_conv", "lower_matmul"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """A block of output channels, and how the array computes it.

    Parameters
    ----------
    key : hashable          identifies the weights within the node
    first, count : int      output channels
    channel : int           first input channel
    mode : Mode
    kx, kx_x, kt : int      runs of a kernel row, bytes between them, chunks of R in each
    taps : int              vectors before the first result (DEPTHWISE), else 1
    tiles : int8 [kh * kx * kt, R, C]
    """

    key: tuple
    first: int
    count: int
    channel: int
    mode: Mode
    kx: int
    kx_x: int
    kt: int
    taps: int
    tiles: np.ndarray


def _chunks(count: int, size: int) -> list[tuple[int, int]]:
    """(first, length) of as few, evenly sized pieces as possible."""
    pieces = -(-count // size)
    step = -(-count // pieces)
    return [(i, min(step, count - i)) for i in range(0, count, step)]


def _dense_passes(weights: np.ndarray, group: int, dilation: int, rows: int, cols: int) -> list[_Pass]:
    m, per_group, kh, kw = weights.shape
    channels, mg = per_group * group, m // group
    # Several small groups share a pass: their weights stand on the diagonal of the tile.
    together = 1 if group == 1 else max(1, min(rows // per_group, cols // mg, group))
    contiguous = group == 1 and dilation == 1
    passes = []
    for g in range(0, group, together):
        groups = min(together, group - g)
        for first, count in ([(0, mg * groups)] if groups > 1 else [(i, min(cols, mg - i)) for i in range(0, mg, cols)]):
            inputs = per_group * groups
            runs, length = (1, kw * inputs) if contiguous else (kw, inputs)
            kt = -(-length // rows)
            dense = np.zeros((kh, kw, inputs, cols), np.int8)
            for i in range(groups):
                block = weights[(g + i) * mg:(g + i + 1) * mg]
                block = block[first:first + count] if groups == 1 else block
                at = 0 if groups == 1 else i * mg
                dense[:, :, i * per_group:(i + 1) * per_group, at:at + len(block)] = block.transpose(2, 3, 1, 0)
            tiles = np.zeros((kh * runs, kt * rows, cols), np.int8)
            tiles[:, :length] = dense.reshape(kh * runs, length, cols)
            passes.append(_Pass(key=(g, first), first=g * mg + first, count=count, channel=g * per_group, mode=Mode.DENSE, kx=runs,
                                kx_x=dilation * channels, kt=kt, taps=1, tiles=tiles.reshape(-1, rows, cols)))
    return passes


def _depthwise_passes(weights: np.ndarray, dilation: int, rows: int, cols: int) -> list[_Pass] | None:
    """Passes in the array's FIR mode, or None where the kernel does not fit it."""
    channels, _, kh, kw = weights.shape
    span = (kw - 1) * dilation + 1
    if span > rows and dilation > 1:
        return None
    runs = -(-span // rows)
    taps = min(span, rows)
    passes = []
    for first in range(0, channels, cols):
        block = weights[first:first + cols, 0]
        tiles = np.zeros((kh, runs, rows, cols), np.int8)
        for j in range(kw):
            run, tap = divmod(j * dilation, rows) if runs > 1 else (0, j * dilation)
            # The newest vector meets row 0, so the last tap of the kernel stands there.
            tiles[:, run, taps - 1 - tap, :len(block)] = block[:, :, j].T
        passes.append(_Pass(key=(first,), first=first, count=len(block), channel=first, mode=Mode.DEPTHWISE, kx=runs, kx_x=rows * channels, kt=1,
                            taps=taps, tiles=tiles.reshape(-1, rows, cols)))
    return passes


def _emit(low: Lowering, views: Views, window: Window, passes: list[_Pass], pad: int, bias: np.ndarray, requant: Requant,
          out_rows: range, out_cols: range, key: tuple) -> None:
    """One rectangle of the output, tile by tile: pixels outside, channels inside, so that the next layer can start early."""
    arch = low.arch
    sy, sx = window.strides
    x, y = views.x, views.y
    if (window.kernel == (1, 1) == (sy, sx) and window.pads == (0, 0)
            and all(view.first[1] == out_cols.start and view.extents[1] == len(out_cols) for view in (x, y, views.other or y))):
        # A 1 x 1 kernel sees one long row of pixels.
        views = views.flattened(out_rows)
        x, y = views.x, views.y
        out_rows, out_cols = range(1), range(y.extents[1])
    (height, width, x_channels), (_, y_width, y_channels) = x.extents, y.extents
    x_pitch, y_pitch = width * x_channels, y_width * y_channels
    most = max(1, arch.acc_depth // 2)
    tiles = []
    if len(out_cols) <= most:
        for row, rows in _chunks(len(out_rows), max(1, most // len(out_cols))):
            tiles.append((out_rows[row], rows, out_cols[0], len(out_cols)))
    else:
        for row in out_rows:
            tiles += [(row, 1, out_cols[col], cols) for col, cols in _chunks(len(out_cols), most)]
    operands = low.output_operands(requant)
    for oy, ny, ox, nx in tiles:
        for p in passes:
            tile = low.weights(p.key, lambda p=p: p.tiles)
            channels = slice(p.first, p.first + p.count)
            mult, shift = (np.broadcast_to(v, len(bias))[channels] for v in (requant.mult, requant.shift))
            param = low.params((*key, p.key), bias[channels], mult, shift)
            acc = low.accumulators(ny * nx)
            y0 = oy * sy - window.pads[0] - x.first[0]
            x0 = (ox * sx - window.pads[1] - x.first[1]) * x_channels + p.channel
            depthwise = p.mode is Mode.DEPTHWISE
            low.emit("MATMUL", mode=p.mode, base=x.address + y0 * x_pitch + x0, y0=y0, x0=x0, height=height, row_bytes=x_pitch, pad=pad,
                     ky=window.kernel[0], ky_addr=window.dilations[0] * x_pitch, ky_y=window.dilations[0], kx=p.kx, kx_x=p.kx_x, kt=p.kt,
                     oy=ny, oy_addr=sy * x_pitch, oy_y=sy, ox=(nx - 1) * sx + p.taps if depthwise else nx,
                     ox_x=x_channels if depthwise else sx * x_channels, taps=p.taps, stride=sx if depthwise else 1,
                     tile=tile, acc=acc, accumulate=0, final=1)
            target = {"dst": y.at((oy, ox, p.first)), "dst_row": y_pitch, "dst_px": y_channels}
            if low.chain is None:
                low.emit("OUTPUT", acc=acc, ny=ny, nx=nx, channels=p.count, param=param, **target, **operands)
            else:
                other = views.other
                low.emit("OUTPUT", dest=Destination.VECTOR, acc=acc, ny=ny, nx=nx, channels=p.count, param=param, **operands)
                low.emit(low.chain.mnemonic, a_source=OperandA.OUTPUT, ny=ny, nx=nx, bytes=p.count, b=other.at((oy, ox, p.first)),
                         b_row=other.extents[1] * y_channels, b_px=y_channels, **target, **low.chain.operands)


def _passes(low: Lowering, weights: np.ndarray, group: int, window: Window) -> list[_Pass]:
    arch, dilation = low.arch, window.dilations[1]
    if arch.depthwise and group > 1 and weights.shape[0] == group and weights.shape[1] == 1 and window.strides[1] <= 16:
        passes = _depthwise_passes(weights, dilation, arch.rows, arch.cols)
        if passes is not None:
            return passes
    return _dense_passes(weights, group, dilation, arch.rows, arch.cols)


def lower_conv(low: Lowering, op: Conv) -> None:
    """Conv; input and output lie channels last."""
    window, laid_down = spatial_window(low, op.weights.shape[2:], op.strides, op.dilations, op.pads)
    weights = op.weights.swapaxes(2, 3) if laid_down else op.weights
    passes = _passes(low, weights, op.group, window)
    bias = op.bias.astype(np.int64) - op.x_zero * weights.astype(np.int64).sum(axis=(1, 2, 3))

    def compute(views: Views, rows: range, cols: range) -> None:
        _emit(low, views, window, passes, op.x_zero, bias, op.requant, rows, cols, ())

    over_images(low, window, compute)


def lower_average_pool(low: Lowering, op: AveragePool) -> None:
    """AveragePool: a depthwise convolution with weights of one; each rectangle with its own divisor has its own scale."""
    window, laid_down = spatial_window(low, op.kernel, op.strides, op.dilations, op.pads)
    counts_y, counts_x = (op.counts_x, op.counts_y) if laid_down else (op.counts_y, op.counts_x)
    channels = window.x[3]
    # A single channel is a dense convolution with one input.
    passes = _passes(low, np.ones((channels, 1, *window.kernel), np.int8), channels, window)
    bias = np.full(channels, -op.x_zero * op.kernel[0] * op.kernel[1], np.int64)

    def compute(views: Views, box_rows: range, box_cols: range) -> None:
        for rows in _runs(counts_y, box_rows):
            for cols in _runs(counts_x, box_cols):
                count = int(counts_y[rows[0]]) * int(counts_x[cols[0]])
                _emit(low, views, window, passes, op.x_zero, bias, op.requants[count], rows, cols, (count,))

    over_images(low, window, compute)


def lower_matmul(low: Lowering, op: MatMul) -> None:
    """MatMul: a 1 x 1 convolution over the rows of x, its weight rows in the order in which x lies in memory."""
    place_x, place_y = (low.places[name] for name in (low.node.inputs[0], low.result))
    weights = op.weights if place_x.layout.flatten is None else op.weights[place_x.layout.flatten]
    k, m = weights.shape
    passes = _dense_passes(np.ascontiguousarray(weights.T)[:, :, None, None], 1, 1, low.arch.rows, low.arch.cols)
    bias = op.bias.astype(np.int64) - op.x_zero * weights.astype(np.int64).sum(axis=0)
    rows = place_x.bytes // k
    window = Window(x=(1, 1, rows, k), y=(1, 1, rows, m), kernel=(1, 1), strides=(1, 1), dilations=(1, 1), pads=(0, 0))
    operands = [Operand(name=low.node.inputs[0], place=place_x, extents=(1, rows, k), window=lambda box: (*box[:2], range(k)))]
    if low.chain is not None:
        operands.append(Operand(name=low.chain.other, place=low.places[low.chain.other], extents=(1, rows, m)))

    def compute(box: Box, result: View, views: list[View]) -> None:
        _emit(low, Views(views[0], result, views[1] if len(views) > 1 else None), window, passes, op.x_zero, bias, op.requant, box[0], box[1], ())

    in_boxes(low, Operand(name=low.result, place=place_y, extents=(1, rows, m)), operands, (1,), compute)


def _runs(counts: np.ndarray, box: range) -> list[range]:
    """Maximal ranges of equal values inside a box."""
    edges = [box.start, *(int(i) + 1 for i in np.flatnonzero(np.diff(counts)) if box.start <= i < box.stop - 1), box.stop]
    return [range(a, b) for a, b in zip(edges, edges[1:], strict=False)]
