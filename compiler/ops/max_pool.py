"""MaxPool and GlobalMaxPool: commute with every non-decreasing function, so also with quantisation."""

from __future__ import annotations

import numpy as np

from systolith.compiler.base.errors import UnsupportedError
from systolith.compiler.ops.registry import NodeView, operand, register
from systolith.compiler.ops.values import Builder, Const, FloatInput, Func, Value
from systolith.compiler.ops.window import known_auto_pad, one_or_two_dimensions, pads_not_negative, window_of
from systolith.reference.max_pool import MaxPool

__all__ = ["MOST_ROWS", "convert_global_max_pool", "convert_max_pool", "whole_maximum"]

#: Rows, or columns, of a window that one instruction takes without doubt.
MOST_ROWS = 128


def one_output(node: NodeView) -> bool:
    """the output Indices must be left out."""
    return len([name for name in node.outputs if name]) == 1


def row_major(node: NodeView) -> bool:
    """storage_order must be 0."""
    return not node.attrs.get("storage_order", 0)


def pads_below_kernel(node: NodeView) -> bool:
    """each pad must be smaller than the kernel."""
    kernel, pads = tuple(node.attrs["kernel_shape"]), node.attrs.get("pads", ())
    dilations = node.attrs.get("dilations", (1,) * len(kernel))
    return all(pad <= (k - 1) * d for pad, k, d in zip(pads, kernel * 2, tuple(dilations) * 2, strict=False))


def _non_decreasing(value: Value) -> bool:
    if isinstance(value, (Const, FloatInput)):
        return False
    # Table order is 0..127, -128..-1; rolled, it is ascending.
    return not isinstance(value, Func) or bool(np.all(np.diff(np.roll(value.values, 128)) >= 0))


def whole_maximum(shape: tuple[int, ...]) -> list[tuple[MaxPool, tuple[int, ...]]]:
    """The maximum of each channel of an image [N, C, H, W] or [N, C, L]: windows as far as an instruction
    reaches, one after another, with the shapes that they give."""
    found, extents = [], [1, *shape[2:]][-2:]
    while max(extents) > 1:
        kernel = [min(extent, MOST_ROWS) for extent in extents]
        left = [-(-extent // k) for extent, k in zip(extents, kernel, strict=True)]
        ends = [n * k - extent for n, k, extent in zip(left, kernel, extents, strict=True)]
        window = (kernel[0], kernel[1])
        op = MaxPool(kernel=window, strides=window, dilations=(1, 1), pads=(0, 0, ends[0], ends[1]))
        found.append((op, (*shape[:2], *left[4 - len(shape) :])))
        extents = left
    return found


def _convert(builder: Builder, node: NodeView, kernel: tuple[int, ...]) -> Value:
    value = node.values[0]
    if not _non_decreasing(value) and node.in_float:
        value = operand(node, 0)
    if not _non_decreasing(value):
        raise UnsupportedError(
            "import",
            node.name,
            f"{node.op_type} of a value that is not quantised",
            "put QuantizeLinear and DequantizeLinear before it",
        )
    window = window_of(node, kernel)
    plain = window.dilations == (1, 1) and window.reach == (0, 0, 0, 0)
    if max(window.kernel) > MOST_ROWS and window.out == (1, 1) and plain:
        steps = whole_maximum(value.shape)
        for at, (op, shape) in enumerate(steps, 1):
            name = node.outputs[0] if at == len(steps) else f"{node.outputs[0]}_{at}"
            value = builder.move(value, node.name, node.op_type, op, shape, name)
        return value
    op = MaxPool(kernel=window.kernel, strides=window.strides, dilations=window.dilations, pads=window.reach)
    return builder.move(
        value, node.name, node.op_type, op, window.shape(value.shape, value.shape[1]), node.outputs[0]
    )


@register(
    "MaxPool",
    attributes=("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"),
    constraints=(
        one_or_two_dimensions,
        one_output,
        row_major,
        known_auto_pad,
        pads_not_negative,
        pads_below_kernel,
    ),
    moves=True,
)
def convert_max_pool(builder: Builder, node: NodeView) -> Value:
    """A window maximum."""
    return _convert(builder, node, tuple(node.attrs["kernel_shape"]))


@register("GlobalMaxPool", constraints=(one_or_two_dimensions,))
def convert_global_max_pool(builder: Builder, node: NodeView) -> Value:
    """The maximum of each channel."""
    return _convert(builder, node, node.values[0].shape[2:])
