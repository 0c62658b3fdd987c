"""Everything that runs on the array: convolution, matrix product, average pooling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from systolith.compiler.lower.context import Lowering
from systolith.reference.average_pool import AveragePool
from systolith.reference.conv import Conv
from systolith.reference.graph import Requant
from systolith.reference.matmul import MatMul
from systolith.spec.isa import Destination, Mode, OperandA

__all__ = ["images", "lower_average_pool", "lower_conv", "lower_matmul"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Image:
    """One NHWC image: first byte, extents."""

    address: int
    height: int
    width: int
    channels: int

    @property
    def pitch(self) -> int:
        return self.width * self.channels


@dataclass(frozen=True, slots=True, kw_only=True)
class _Window:
    """Geometry of the kernel."""

    kh: int
    kw: int
    strides: tuple[int, int]
    dilations: tuple[int, int]
    top: int
    left: int


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


def _emit(low: Lowering, x: _Image, y: _Image, window: _Window, passes: list[_Pass], pad: int, bias: np.ndarray, requant: Requant,
          out_rows: range, out_cols: range, key: tuple) -> None:
    """One rectangle of the output, tile by tile: pixels outside, channels inside, so that the next layer can start early."""
    arch = low.arch
    sy, sx = window.strides
    flat = (window.kh == window.kw == 1 and (sy, sx) == (1, 1) and (window.top, window.left) == (0, 0)
            and len(out_rows) == y.height == x.height and len(out_cols) == y.width == x.width)
    if flat:
        pixels = x.height * x.width
        x = _Image(address=x.address, height=1, width=pixels, channels=x.channels)
        y = _Image(address=y.address, height=1, width=pixels, channels=y.channels)
        out_rows, out_cols = range(1), range(pixels)
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
            y0 = oy * sy - window.top
            x0 = (ox * sx - window.left) * x.channels + p.channel
            depthwise = p.mode is Mode.DEPTHWISE
            low.emit("MATMUL", mode=p.mode, base=x.address + y0 * x.pitch + x0, y0=y0, x0=x0, height=x.height, row_bytes=x.pitch, pad=pad,
                     ky=window.kh, ky_addr=window.dilations[0] * x.pitch, ky_y=window.dilations[0], kx=p.kx, kx_x=p.kx_x, kt=p.kt,
                     oy=ny, oy_addr=sy * x.pitch, oy_y=sy, ox=(nx - 1) * sx + p.taps if depthwise else nx,
                     ox_x=x.channels if depthwise else sx * x.channels, taps=p.taps, stride=sx if depthwise else 1,
                     tile=tile, acc=acc, accumulate=0, final=1)
            at = (oy * y.width + ox) * y.channels + p.first
            target = {"dst": y.address + at, "dst_row": y.pitch, "dst_px": y.channels}
            if low.chain is None:
                low.emit("OUTPUT", acc=acc, ny=ny, nx=nx, channels=p.count, param=param, **target, **operands)
            else:
                low.emit("OUTPUT", dest=Destination.VECTOR, acc=acc, ny=ny, nx=nx, channels=p.count, param=param, **operands)
                # `y` is one image of the batch; the other operand lies exactly as the whole result does.
                b = low.chain.address + y.address - low.places[low.result].address + at
                low.emit(low.chain.mnemonic, a_source=OperandA.OUTPUT, ny=ny, nx=nx, bytes=p.count, b=b,
                         b_row=y.pitch, b_px=y.channels, **target, **low.chain.operands)


def _passes(low: Lowering, weights: np.ndarray, group: int, strides: tuple[int, int], dilation: int) -> list[_Pass]:
    arch = low.arch
    if arch.depthwise and group > 1 and weights.shape[0] == group and weights.shape[1] == 1 and strides[1] <= 16:
        passes = _depthwise_passes(weights, dilation, arch.rows, arch.cols)
        if passes is not None:
            return passes
    return _dense_passes(weights, group, dilation, arch.rows, arch.cols)


def _nhwc(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    return (shape[0], 1, shape[2], shape[1]) if len(shape) == 3 else (shape[0], shape[2], shape[3], shape[1])


def images(low: Lowering) -> list[tuple[_Image, _Image]]:
    """Input and output image of the current node, for each element of the batch."""
    pairs = []
    for name in (low.node.inputs[0], low.result):
        n, h, w, c = _nhwc(low.graph.tensors[name].shape)
        pairs.append([_Image(address=low.places[name].address + i * h * w * c, height=h, width=w, channels=c) for i in range(n)])
    return list(zip(*pairs, strict=True))


def lower_conv(low: Lowering, op: Conv) -> None:
    """Conv; input and output lie channels last."""
    window = _Window(kh=op.weights.shape[2], kw=op.weights.shape[3], strides=op.strides, dilations=op.dilations, top=op.pads[0], left=op.pads[1])
    passes = _passes(low, op.weights, op.group, op.strides, op.dilations[1])
    bias = op.bias.astype(np.int64) - op.x_zero * op.weights.astype(np.int64).sum(axis=(1, 2, 3))
    for x, y in images(low):
        _emit(low, x, y, window, passes, op.x_zero, bias, op.requant, range(y.height), range(y.width), ())


def lower_average_pool(low: Lowering, op: AveragePool) -> None:
    """AveragePool: a depthwise convolution with weights of one; each rectangle with its own divisor has its own scale."""
    pairs = images(low)
    channels = pairs[0][0].channels
    ones = np.ones((channels, 1, *op.kernel), np.int8)
    window = _Window(kh=op.kernel[0], kw=op.kernel[1], strides=op.strides, dilations=op.dilations, top=op.pads[0], left=op.pads[1])
    # A single channel is a dense convolution with one input.
    passes = _passes(low, ones, channels, op.strides, op.dilations[1])
    bias = np.full(channels, -op.x_zero * op.kernel[0] * op.kernel[1], np.int64)
    for x, y in pairs:
        for rows in _runs(op.counts_y):
            for cols in _runs(op.counts_x):
                count = int(op.counts_y[rows[0]]) * int(op.counts_x[cols[0]])
                _emit(low, x, y, window, passes, op.x_zero, bias, op.requants[count], rows, cols, (count,))


def lower_matmul(low: Lowering, op: MatMul) -> None:
    """MatMul: a 1 x 1 convolution over the rows of x, its weight rows in the order in which x lies in memory."""
    place_x, place_y = (low.places[name] for name in (low.node.inputs[0], low.result))
    weights = op.weights if place_x.layout.flatten is None else op.weights[place_x.layout.flatten]
    k, m = weights.shape
    rows = place_x.bytes // k
    x = _Image(address=place_x.address, height=1, width=rows, channels=k)
    y = _Image(address=place_y.address, height=1, width=rows, channels=m)
    passes = _dense_passes(np.ascontiguousarray(weights.T)[:, :, None, None], 1, 1, low.arch.rows, low.arch.cols)
    window = _Window(kh=1, kw=1, strides=(1, 1), dilations=(1, 1), top=0, left=0)
    bias = op.bias.astype(np.int64) - op.x_zero * weights.astype(np.int64).sum(axis=0)
    _emit(low, x, y, window, passes, op.x_zero, bias, op.requant, range(1), range(rows), ())


def _runs(counts: np.ndarray) -> list[range]:
    """Maximal ranges of equal values."""
    edges = [0, *(np.flatnonzero(np.diff(counts)) + 1), len(counts)]
    return [range(int(a), int(b)) for a, b in zip(edges, edges[1:], strict=False)]
