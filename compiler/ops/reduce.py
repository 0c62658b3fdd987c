"""ReduceMean, ReduceSum, ReduceMax, ReduceMin over any axes, in any opset's form."""

from __future__ import annotations

import math

import numpy as np

from systolith.compiler.ops.registry import NodeView, constant, operand, register
from systolith.compiler.ops.select import bounds_are_constant, reshaped
from systolith.compiler.ops.values import Builder, Pending, Value
from systolith.compiler.ops.weighted import Linear, scalar_requant
from systolith.reference.average_pool import AveragePool
from systolith.reference.lookup import Lookup
from systolith.reference.matmul import MatMul
from systolith.reference.max_pool import MaxPool
from systolith.reference.reshape import Reshape
from systolith.reference.transpose import Transpose

__all__ = ["REVERSED", "convert_extreme", "convert_sum", "reduced_axes", "reduced_shape"]

#: Terms of a sum of int8 products by one that 32 bits hold.
_MOST_TERMS = 1 << 22
#: Positions of a window that one instruction takes.
_MOST_ROWS = 128
#: The codes in the opposite order.
REVERSED = (-1 - np.arange(256).astype(np.uint8).view(np.int8).astype(np.int16)).astype(np.int8)


def reduced_axes(node: NodeView) -> tuple[int, ...]:
    """The axes that a reduction of any opset takes away, in order."""
    rank = len(node.values[0].shape)
    stated = node.attrs.get("axes")
    if stated is None and node.value(1) is not None:
        stated = constant(node, 1).reshape(-1).tolist()
    if stated is None or len(stated) == 0:
        return () if node.attrs.get("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted({int(axis) % rank for axis in stated}))


def reduced_shape(node: NodeView, axes: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the result."""
    shape = node.values[0].shape
    if node.attrs.get("keepdims", 1):
        return tuple(1 if axis in axes else extent for axis, extent in enumerate(shape))
    return tuple(extent for axis, extent in enumerate(shape) if axis not in axes)


def sum_fits(node: NodeView) -> bool:
    """at most four million elements may be added up."""
    return math.prod(node.values[0].shape[axis] for axis in reduced_axes(node)) <= _MOST_TERMS


@register(
    "ReduceMean",
    "ReduceSum",
    attributes=("axes", "keepdims", "noop_with_empty_axes"),
    constraints=(bounds_are_constant, sum_fits),
)
def convert_sum(builder: Builder, node: NodeView) -> Value:
    """A pooling over all of the spatial axes, or else a product with ones over the last axis."""
    axes = reduced_axes(node)
    if not axes:
        return node.values[0]
    x = operand(node, 0)
    shape, result = x.shape, reduced_shape(node, axes)
    terms = math.prod(shape[axis] for axis in axes)
    factor = 1.0 / terms if node.op_type == "ReduceMean" else 1.0
    if len(shape) in (3, 4) and axes == tuple(range(2, len(shape))):
        return _pooled(builder, node, x.tensor, shape, result, factor)
    kept = tuple(axis for axis in range(len(shape)) if axis not in axes)
    tensor = builder.tensors[x.tensor]
    moved = x
    if (*kept, *axes) != tuple(range(len(shape))):
        moved = builder.move(
            x,
            node.name,
            "Transpose",
            Transpose(perm=(*kept, *axes)),
            tuple(shape[axis] for axis in (*kept, *axes)),
            f"{node.outputs[0]}_last",
        )
    flat = (*(shape[axis] for axis in kept), terms)
    moved = reshaped(builder, node, moved, flat, f"{node.outputs[0]}_flat")

    def make(weights: np.ndarray, bias: np.ndarray, requant: object) -> MatMul:
        return MatMul(weights=weights, bias=bias, x_zero=tensor.zero_point, requant=requant)

    linear = Linear(
        node=node,
        make=make,
        weights=np.ones((terms, 1), np.int8),
        axis=1,
        x_scale=tensor.scale,
        x_zero=tensor.zero_point,
        w_scale=np.array([factor]),
        bias=np.zeros(1),
        out_axis=-1,
    )
    made = (*flat[:-1], 1)
    return Pending(
        node=node.name,
        op_type=node.op_type,
        shape=result,
        build=linear.build,
        inputs=(moved.tensor,),
        sources=(node.name,),
        made=made,
        then=((Reshape(shape=result), result, "Reshape"),) if made != result else (),
    )


def _pooled(
    builder: Builder,
    node: NodeView,
    name: str,
    shape: tuple[int, ...],
    result: tuple[int, ...],
    factor: float,
) -> Pending:
    tensor = builder.tensors[name]
    height, width = shape[2:] if len(shape) == 4 else (1, shape[2])

    def build(scale: float, zero: int, low: int, high: int) -> AveragePool:
        requant = scalar_requant(node, tensor.scale * factor / float(scale), zero, low, high)
        return AveragePool(
            kernel=(height, width),
            strides=(1, 1),
            dilations=(1, 1),
            pads=(0, 0, 0, 0),
            counts_y=np.array([height]),
            counts_x=np.array([width]),
            x_zero=tensor.zero_point,
            requants={height * width: requant},
        )

    made = (*shape[:2], *(1,) * (len(shape) - 2))
    return Pending(
        node=node.name,
        op_type=node.op_type,
        shape=result,
        build=build,
        inputs=(name,),
        sources=(node.name,),
        made=made,
        then=((Reshape(shape=result), result, "Reshape"),) if made != result else (),
    )


@register(
    "ReduceMax",
    "ReduceMin",
    attributes=("axes", "keepdims", "noop_with_empty_axes"),
    constraints=(bounds_are_constant,),
)
def convert_extreme(builder: Builder, node: NodeView) -> Value:
    """Maxima over windows, as far as they reach, one after another; the minimum is that of the codes in the
    opposite order."""
    axes = reduced_axes(node)
    if not axes:
        return node.values[0]
    value, shape, result = node.values[0], node.values[0].shape, reduced_shape(node, axes)
    if not isinstance(value, Pending):
        value = operand(node, 0)
    steps: list[tuple[object, tuple[int, ...], str]] = []

    def add(op: object, new: tuple[int, ...], kind: str) -> None:
        steps.append((op, new, kind))

    if node.op_type == "ReduceMin":
        add(Lookup(table=REVERSED), shape, "Lookup")
    if len(shape) == 4 and axes == (2, 3) and max(shape[2:]) <= _MOST_ROWS:
        made = (*shape[:2], 1, 1)
        add(_max(shape[2:], (1, 1)), made, node.op_type)
    else:
        kept = tuple(axis for axis in range(len(shape)) if axis not in axes)
        count = math.prod(shape[axis] for axis in kept)
        rows = math.prod(shape[axis] for axis in axes)
        if (*axes, *kept) != tuple(range(len(shape))):
            perm = (*axes, *kept)
            add(Transpose(perm=perm), tuple(shape[axis] for axis in perm), "Transpose")
        # Rows of what is kept, one behind the other, are an image of one column whose channels lie last.
        add(Reshape(shape=(1, rows, 1, count)), (1, rows, 1, count), "Reshape")
        add(Transpose(perm=(0, 3, 1, 2)), (1, count, rows, 1), "Transpose")
        while rows > 1:
            kernel = min(rows, _MOST_ROWS)
            left = -(-rows // kernel)
            pads = (0, 0, left * kernel - rows, 0)
            add(
                MaxPool(kernel=(kernel, 1), strides=(kernel, 1), dilations=(1, 1), pads=pads),
                (1, count, left, 1),
                node.op_type,
            )
            rows = left
        made = (1, count, 1, 1)
    if node.op_type == "ReduceMin":
        add(Lookup(table=REVERSED), made, "Lookup")
    if made != result:
        add(Reshape(shape=result), result, "Reshape")
    for at, (op, new, kind) in enumerate(steps):
        name = node.outputs[0] if at == len(steps) - 1 else f"{node.outputs[0]}_{at}"
        value = builder.move(value, node.name, kind, op, new, name)
    return value


def _max(kernel: tuple[int, int], strides: tuple[int, int]) -> MaxPool:
    return MaxPool(kernel=kernel, strides=strides, dilations=(1, 1), pads=(0, 0, 0, 0))
