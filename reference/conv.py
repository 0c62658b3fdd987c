"""Convolution over int8, NCHW: every attribute of ONNX Conv, in one and two dimensions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from systolith.reference.graph import Op, Requant
from systolith.reference.requantise import requantise

__all__ = ["Conv", "windows"]

#: Numbers of 64 bits in what is multiplied, or requantised, at once.
_PATCHES = 1 << 23


def windows(
    x: np.ndarray, kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int]
) -> np.ndarray:
    """View of an already padded [N, C, H, W] as [N, C, OH, OW, KH, KW]."""
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, span, axis=(2, 3))
    return view[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Conv(Op):
    """``requantise(sum((x - x_zero) * w) + bias)``.

    x is [N, C, H, W] or [N, C, L]; a 1-D convolution has H = KH = 1 here.

    Parameters
    ----------
    weights : int8 [M, C/group, KH, KW]
    bias : int32 [M]                  in units of x_scale * w_scale[m]
    strides, dilations : (int, int)
    pads : (top, left, bottom, right) filled with the zero point
    group : int
    x_zero : int
    requant : Requant                 per output channel
    """

    weights: np.ndarray
    bias: np.ndarray
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    group: int
    x_zero: int
    requant: Requant

    def sums(self, x: np.ndarray) -> np.ndarray:
        """int64 sums [N, M, OH, OW] before requantisation."""
        n, c, h, w = x.shape
        top, left, bottom, right = self.pads
        padded = np.zeros((n, c, h + top + bottom, w + left + right), np.float64)
        inside = padded[:, :, top : top + h, left : left + w]
        np.subtract(x, self.x_zero, out=inside, dtype=np.float64)
        m, per_group, kh, kw = self.weights.shape
        view = windows(padded, (kh, kw), self.strides, self.dilations)
        oh, ow = view.shape[2:4]
        out = np.empty((n, m, oh, ow), np.int64)
        mg = m // self.group
        # As many output rows at once as their patches fit into memory.
        rows = max(1, _PATCHES // max(1, n * ow * per_group * kh * kw))
        for g in range(self.group):
            kernel = self.weights[g * mg : (g + 1) * mg].reshape(mg, -1).astype(np.float64)
            for top in range(0, oh, rows):
                part = view[:, g * per_group : (g + 1) * per_group, top : top + rows]
                patch = part.transpose(0, 2, 3, 1, 4, 5).reshape(-1, per_group * kh * kw)
                # Exact: every product and partial sum is an integer far below 2**53.
                sums = (patch @ kernel.T).astype(np.int64).reshape(n, -1, ow, mg)
                out[:, g * mg : (g + 1) * mg, top : top + rows] = sums.transpose(0, 3, 1, 2)
        out += self.bias.astype(np.int64).reshape(1, -1, 1, 1)
        return out

    def run(self, x: np.ndarray) -> np.ndarray:
        """int8 [N, M, OH, OW], or [N, M, OL] for a 3-D input."""
        x4 = x[:, :, None, :] if x.ndim == 3 else x
        sums = self.sums(x4)
        y = np.empty(sums.shape, np.int8)
        rows = max(1, _PATCHES // max(1, sums[:, :, 0].size))
        for top in range(0, sums.shape[2], rows):
            y[:, :, top : top + rows] = requantise(sums[:, :, top : top + rows], self.requant, axis=1)
        return y[:, :, 0, :] if x.ndim == 3 else y

    def macs(self, *shapes: tuple[int, ...]) -> int:
        """Multiply-accumulates, padding included."""
        (x,) = shapes
        h, w = (1, x[2]) if len(x) == 3 else x[2:]
        m, per_group, kh, kw = self.weights.shape
        oh = (h + self.pads[0] + self.pads[2] - (kh - 1) * self.dilations[0] - 1) // self.strides[0] + 1
        ow = (w + self.pads[1] + self.pads[3] - (kw - 1) * self.dilations[1] - 1) // self.strides[1] + 1
        return int(x[0] * m * oh * ow * per_group * kh * kw)

    def with_table(self, table: np.ndarray) -> Op:
        """The same operator, its result looked up."""
        return replace(self, requant=self.requant.with_table(table))

    def padded(self, pads: tuple[int, int, int, int], fill: int) -> Op | None:
        """The same operator with larger pads, where its own hold `fill` too."""
        if fill != self.x_zero:
            return None
        top, left, bottom, right = (own + more for own, more in zip(self.pads, pads, strict=True))
        return replace(self, pads=(top, left, bottom, right))
