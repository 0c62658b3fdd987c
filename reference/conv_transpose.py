"""Transposed convolution over int8, NCHW: every attribute of ONNX ConvTranspose, in one or two dimensions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np

from systolith.reference.graph import Op, Requant
from systolith.reference.requantise import requantise

__all__ = ["ConvTranspose"]


@dataclass(frozen=True, eq=False, kw_only=True)
class ConvTranspose(Op):
    """``requantise(sum((x - x_zero) * w) + bias)``, where input i meets output ``i * stride - pad + tap *
    dilation``.

    x is [N, C, H, W] or [N, C, L]; a 1-D operator has H = KH = 1 here.

    Parameters
    ----------
    weights : int8 [M, C/group, KH, KW]
    bias : int32 [M]                  in units of x_scale * w_scale[m]
    strides, dilations : (int, int)
    pads : (top, left)                rows and columns cut off the full result
    out : (int, int)                  extents of the result; what no input meets holds the bias
    group : int
    x_zero : int
    requant : Requant                 per output channel
    """

    weights: np.ndarray
    bias: np.ndarray
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int]
    out: tuple[int, int]
    group: int
    x_zero: int
    requant: Requant

    def sums(self, x: np.ndarray) -> np.ndarray:
        """int64 sums [N, M, OH, OW] before requantisation."""
        n, c, h, w = x.shape
        m, per_group, kh, kw = self.weights.shape
        (sy, sx), (dy, dx) = self.strides, self.dilations
        ends = [
            max(pad + out, (size - 1) * s + (k - 1) * d + 1)
            for pad, out, size, s, k, d in zip(
                self.pads, self.out, (h, w), self.strides, (kh, kw), self.dilations, strict=True
            )
        ]
        full = np.zeros((n, m, *ends), np.int64)
        shifted = (x.astype(np.float64) - self.x_zero).reshape(n, self.group, per_group, h * w)
        kernels = self.weights.astype(np.float64).reshape(self.group, m // self.group, per_group, kh, kw)
        for ky in range(kh):
            for kx in range(kw):
                # Exact: every product and partial sum is an integer far below 2**53.
                part = (kernels[None, :, :, :, ky, kx] @ shifted).astype(np.int64).reshape(n, m, h, w)
                rows = slice(ky * dy, ky * dy + (h - 1) * sy + 1, sy)
                full[:, :, rows, kx * dx : kx * dx + (w - 1) * sx + 1 : sx] += part
        top, left = self.pads
        cut = full[:, :, top : top + self.out[0], left : left + self.out[1]]
        return cut + self.bias.astype(np.int64).reshape(1, -1, 1, 1)

    def run(self, x: np.ndarray) -> np.ndarray:
        """int8 [N, M, OH, OW], or [N, M, OL] for a 3-D input."""
        x4 = x[:, :, None, :] if x.ndim == 3 else x
        y = requantise(self.sums(x4), self.requant, axis=1)
        return y[:, :, 0, :] if x.ndim == 3 else y

    def macs(self, *shapes: tuple[int, ...]) -> int:
        """Multiply-accumulates: each input element meets each weight of its channel."""
        (x,) = shapes
        m, per_group, kh, kw = self.weights.shape
        count: int = prod(x) * (m // self.group) * kh * kw
        return count

    def with_table(self, table: np.ndarray) -> Op:
        """The same operator, its result looked up."""
        return replace(self, requant=self.requant.with_table(table))
