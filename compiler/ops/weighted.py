"""Weighted sums of activations (Conv, Gemm, MatMul): weights, bias and scales from real numbers to
integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from systolith.compiler.base.errors import QuantiseError, UnsupportedError
from systolith.compiler.base.formats import quantised_weights
from systolith.compiler.ops.registry import NodeView
from systolith.compiler.ops.values import Const
from systolith.reference.graph import Op, Requant
from systolith.spec import numerics

__all__ = ["Linear", "int8_weights", "per_channel", "scalar_requant"]

_LIMIT = 1 << 31
#: Beyond it a bias leaves too little of 32 bits to its sums. A result that int8 can hold is at most 256 of
#: its steps, so in units of a bias of this size a step has 2**20 units at least.
_LARGEST_BIAS = 1 << 28


def int8_weights(node: NodeView, index: int, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 weights, symmetric, and one float64 scale per index of `axis`."""
    value, name = node.value(index), node.proto.input[index]
    if not isinstance(value, Const):
        raise UnsupportedError(
            "import",
            node.name,
            f"both operands of {node.op_type} are computed",
            f"only products with constant weights are supported: make {name!r} an initializer",
        )
    if value.ints is None and node.in_float:
        ints, scale = quantised_weights(value.array, axis)
        node.note(index, Const(value.array, ints, scale, np.zeros(scale.shape, np.int64), axis % ints.ndim))
        return ints, scale
    if value.ints is None or value.ints.dtype != np.int8:
        raise QuantiseError(
            "quantise",
            node.name,
            f"weights {name!r} are not quantised to 8 bits",
            "give the int8 weights through DequantizeLinear, or compile the float model with calibration "
            "data",
        )
    if np.any(value.zero):
        raise QuantiseError(
            "quantise",
            node.name,
            f"weights {name!r} have a non-zero zero point",
            "quantise weights symmetrically (int8 with zero point 0, or uint8 with 128)",
        )
    channels = value.shape[axis]
    if value.scale.size > 1 and value.axis % value.array.ndim != axis % value.array.ndim:
        raise QuantiseError(
            "quantise",
            node.name,
            f"weights {name!r} are quantised along axis {value.axis}",
            f"quantise them per tensor or along the axis of the output channels ({axis % value.array.ndim})",
        )
    return value.ints, np.broadcast_to(value.scale.reshape(-1), (channels,)).copy()


def per_channel(array: np.ndarray, rank: int, axis: int, channels: int) -> np.ndarray | None:
    """`array` as one number per channel, if it broadcasts along nothing but the channel axis of a tensor of
    `rank` axes."""
    if array.ndim > rank:
        return None
    full = array.reshape((1,) * (rank - array.ndim) + array.shape)
    axis %= rank
    if any(extent != 1 for at, extent in enumerate(full.shape) if at != axis) or full.shape[axis] not in (
        1,
        channels,
    ):
        return None
    return np.broadcast_to(full.reshape(-1), (channels,)).astype(np.float64)


def scalar_requant(node: NodeView, scale: float, zero: int, low: int, high: int) -> Requant:
    """One multiplier and shift for every channel."""
    try:
        mult, shift = numerics.approximate_scale(scale)
    except numerics.ScaleError as error:
        raise QuantiseError(
            "quantise", node.name, str(error), "quantise with scales closer to each other"
        ) from error
    return Requant(
        mult=np.array([mult], np.int64), shift=np.array([shift], np.int64), zero=zero, low=low, high=high
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear:
    """``(sum((x - x_zero) * w) * x_scale * w_scale[m]) + bias[m]`` before its result is quantised.

    Parameters
    ----------
    node : NodeView
    make : function            (weights, bias, requant) -> Op
    weights : int8 array       output channels along `axis`
    axis : int
    x_scale, x_zero
    w_scale, bias : float64    one per output channel; a scale may be negative once a constant was folded in
    out_axis : int             axis of the output channels in the result
    """

    node: NodeView
    make: Callable[[np.ndarray, np.ndarray, Requant], Op]
    weights: np.ndarray
    axis: int
    x_scale: float
    x_zero: int
    w_scale: np.ndarray
    bias: np.ndarray
    out_axis: int

    @property
    def channels(self) -> int:
        return len(self.w_scale)

    def build(self, scale: float, zero: int, low: int, high: int) -> Op:
        """The operator in integers.

        Raises
        ------
        QuantiseError   Where an accumulator could overflow, or a scale does not fit.
        """
        weights = np.moveaxis(self.weights.astype(np.int64), self.axis, 0).copy()
        flat = weights.reshape(self.channels, -1)
        flat[self.w_scale < 0] *= -1
        if flat.max(initial=0) > 127:
            raise QuantiseError(
                "quantise",
                self.node.name,
                "a weight of -128 would change sign by a negative factor",
                "keep weights within -127 to 127",
            )
        unit = self.x_scale * np.abs(self.w_scale)
        mult = np.empty(self.channels, np.int64)
        shift = np.empty(self.channels, np.int64)
        bias = np.empty(self.channels, np.int64)
        span = max(127 - self.x_zero, self.x_zero + 128)
        for m in range(self.channels):
            reach = float(np.abs(flat[m]).sum()) * span
            if reach * unit[m] < scale * 2.0**-16:
                # The weights (all zero, or scaled to nothing) cannot move the result; any unit serves the
                # bias, up to saturation.
                flat[m] = 0
                unit[m] = scale * 2.0**-16
                bias[m] = round(float(np.clip(self.bias[m] / unit[m], -(2.0**26), 2.0**26)))
            else:
                exact = self.bias[m] / unit[m]
                if abs(exact) >= _LARGEST_BIAS and self._reach(flat[m : m + 1], exact, span).max() >= _LIMIT:
                    # Beside this bias the weights are minute: in a coarser unit both fit, unless what their
                    # rounding adds up to moves the result.
                    coarser = abs(self.bias[m]) / _LARGEST_BIAS
                    wanted = flat[m] * (unit[m] / coarser)
                    if float(np.abs(np.rint(wanted) - wanted).sum()) * span * coarser <= scale / 2:
                        flat[m] = np.rint(wanted)
                        unit[m], exact = coarser, self.bias[m] / coarser
                bias[m] = int(np.rint(exact))
            try:
                mult[m], shift[m] = numerics.approximate_scale(float(unit[m]) / float(scale))
            except numerics.ScaleError as error:
                raise QuantiseError(
                    "quantise",
                    self.node.name,
                    f"output channel {m}: {error}",
                    "check the scales around this node",
                ) from error
        self._prove(flat, bias, span)
        requant = Requant(mult=mult, shift=shift, zero=zero, low=low, high=high)
        out = np.ascontiguousarray(np.moveaxis(weights, 0, self.axis)).astype(np.int8)
        return self.make(out, bias.astype(np.int32), requant)

    def _reach(self, flat: np.ndarray, bias: np.ndarray | float, span: int) -> np.ndarray:
        """The largest magnitude of a partial sum, of each row of weights."""
        total = np.abs(flat).sum(axis=1)
        folded = np.abs(bias - self.x_zero * flat.sum(axis=1))
        return np.maximum(total * span + np.abs(bias), total * 128 + folded)

    def _prove(self, flat: np.ndarray, bias: np.ndarray, span: int) -> None:
        """No partial sum leaves 32 bits: neither of x - x_zero, nor of x itself with the zero point folded
        into the bias."""
        worst = self._reach(flat, bias, span)
        m = int(worst.argmax())
        if worst[m] >= _LIMIT:
            raise QuantiseError(
                "quantise",
                self.node.name,
                f"the sum of output channel {m} can reach {int(worst[m])}, which passes 32 bits",
                "use fewer inputs per sum, smaller weights or a smaller bias",
            )
