"""AveragePool and GlobalAveragePool: a sum, and one scale per number of elements that count."""

from __future__ import annotations

from math import prod

import numpy as np

from systolith.compiler.base.errors import QuantiseError, UnsupportedError
from systolith.compiler.ops.max_pool import MOST_ROWS
from systolith.compiler.ops.reduce import summed
from systolith.compiler.ops.registry import NodeView, operand, register
from systolith.compiler.ops.values import Builder, Pending, Value
from systolith.compiler.ops.weighted import scalar_requant
from systolith.compiler.ops.window import known_auto_pad, one_or_two_dimensions, pads_not_negative, window_of
from systolith.reference.average_pool import AveragePool

__all__ = ["convert_average_pool", "convert_global_average_pool"]


def _counts(
    size: int, out: int, kernel: int, stride: int, dilation: int, first: int, last: int, padding_counts: bool
) -> np.ndarray:
    """How many elements of the window of each output position divide the sum."""
    starts = np.arange(out, dtype=np.int64) * stride - first
    low, high = (-first, size + last) if padding_counts else (0, size)
    # Taps before each of the two limits: those of start + tap * dilation < limit.
    below, inside = (np.clip(-((starts - limit) // dilation), 0, kernel) for limit in (low, high))
    return inside - below


def _convert(builder: Builder, node: NodeView, kernel: tuple[int, ...]) -> Value:
    x = operand(node, 0)
    window = window_of(node, kernel)
    tensor = builder.tensors[x.tensor]
    height, width = x.shape[2:] if len(x.shape) == 4 else (1, *x.shape[2:])
    top, left, bottom, right = window.pads
    include = bool(node.attrs.get("count_include_pad", 0))
    (kh, kw), (sy, sx), (dy, dx) = window.kernel, window.strides, window.dilations
    counts_y = _counts(height, window.out[0], kh, sy, dy, top, bottom, include)
    counts_x = _counts(width, window.out[1], kw, sx, dx, left, right, include)
    if 0 in counts_y or 0 in counts_x:
        raise UnsupportedError(
            "import", node.name, f"a window of {node.op_type} lies in the padding alone", "use smaller pads"
        )
    if kh * kw * 256 >= 1 << 31:
        raise QuantiseError(
            "quantise", node.name, f"a sum over {kh} x {kw} elements passes 32 bits", "pool in two steps"
        )

    def build(scale: float, zero: int, low: int, high: int) -> AveragePool:
        requants = {
            int(count): scalar_requant(node, tensor.scale / (int(count) * float(scale)), zero, low, high)
            for count in np.unique(np.multiply.outer(counts_y, counts_x))
        }
        return AveragePool(
            kernel=window.kernel,
            strides=window.strides,
            dilations=window.dilations,
            pads=window.reach,
            counts_y=counts_y,
            counts_x=counts_x,
            x_zero=tensor.zero_point,
            requants=requants,
        )

    return Pending(
        node=node.name,
        op_type=node.op_type,
        shape=window.shape(x.shape, x.shape[1]),
        build=build,
        inputs=(x.tensor,),
        sources=(node.name,),
    )


@register(
    "AveragePool",
    attributes=("auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides"),
    constraints=(one_or_two_dimensions, known_auto_pad, pads_not_negative),
)
def convert_average_pool(builder: Builder, node: NodeView) -> Value:
    """A window mean."""
    return _convert(builder, node, tuple(node.attrs["kernel_shape"]))


@register("GlobalAveragePool", constraints=(one_or_two_dimensions,))
def convert_global_average_pool(builder: Builder, node: NodeView) -> Value:
    """The mean of each channel; of a large image as a product with ones."""
    shape = node.values[0].shape
    if max(shape[2:]) > MOST_ROWS:
        axes = tuple(range(2, len(shape)))
        result = (*shape[:2], *(1 for _ in axes))
        return summed(builder, node, operand(node, 0), axes, 1.0 / prod(shape[2:]), result)
    return _convert(builder, node, node.values[0].shape[2:])
