"""MaxPool and GlobalMaxPool: commute with every non-decreasing function, so also with quantisation."""

from __future__ import annotations

import numpy as np

from systolith.compiler.base.errors import UnsupportedError
from systolith.compiler.ops.registry import NodeView, operand, register
from systolith.compiler.ops.values import Builder, Const, FloatInput, Func, Value
from systolith.compiler.ops.window import known_auto_pad, one_or_two_dimensions, pads_not_negative, window_of
from systolith.reference.max_pool import MaxPool

__all__ = ["convert_global_max_pool", "convert_max_pool"]


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
