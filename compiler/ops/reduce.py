"""Reductions over any axes, in any opset's form: mean, sum, extremes and norms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from systolith.compiler.ops.max_pool import MOST_ROWS, whole_maximum
from systolith.compiler.ops.powers import DIGITS, absolute, function_of_sum, square_digits
from systolith.compiler.ops.registry import NodeView, constant, operand, register
from systolith.compiler.ops.select import bounds_are_constant, reshaped
from systolith.compiler.ops.values import Builder, Func, Pending, Value
from systolith.compiler.ops.weighted import Linear, scalar_requant
from systolith.reference.average_pool import AveragePool
from systolith.reference.graph import Op, Requant
from systolith.reference.lookup import Lookup
from systolith.reference.matmul import MatMul
from systolith.reference.reshape import Reshape
from systolith.reference.transpose import Transpose

__all__ = ["REVERSED", "convert_extreme", "convert_sum", "reduced_axes", "reduced_shape", "summed"]

#: Terms of a sum of int8 products by one that 32 bits hold.
_MOST_TERMS = 1 << 22
#: As many squares of up to 255 * 255.
_MOST_SQUARES = 1 << 15
#: Ranges of a sum whose root is taken, and by how much each is longer than the one before.
_RANGES, _COARSER = 4, 6.0
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
    if len(shape) in (3, 4) and axes == tuple(range(2, len(shape))) and max(shape[2:]) <= MOST_ROWS:
        return _pooled(builder, node, x.tensor, shape, result, factor)
    return summed(builder, node, x, axes, factor, result)


def summed(
    builder: Builder, node: NodeView, x: Func, axes: tuple[int, ...], factor: float, result: tuple[int, ...]
) -> Pending:
    """The sum over some axes, times a factor, as a product with ones."""
    terms = math.prod(x.shape[axis] for axis in axes)
    pending = _product(builder, node, _flat(builder, node, x, axes), np.ones(terms, np.int8), factor)
    return _shaped(pending, result)


def _flat(builder: Builder, node: NodeView, x: Func, axes: tuple[int, ...]) -> Func:
    """The operand with the axes that go as its last one."""
    shape, name = x.shape, node.outputs[0]
    kept = tuple(axis for axis in range(len(shape)) if axis not in axes)
    perm = (*kept, *axes)
    if perm != tuple(range(len(shape))):
        turned = tuple(shape[axis] for axis in perm)
        x = builder.move(x, node.name, "Transpose", Transpose(perm=perm), turned, f"{name}_last")
    terms = math.prod(shape[axis] for axis in axes)
    return reshaped(builder, node, x, (*(shape[axis] for axis in kept), terms), f"{name}_flat")


def _product(builder: Builder, node: NodeView, x: Func, weights: np.ndarray, factor: float) -> Pending:
    """The weighted sum over the last axis, times a factor."""
    tensor = builder.tensors[x.tensor]

    def make(weights: np.ndarray, bias: np.ndarray, requant: Requant) -> MatMul:
        return MatMul(weights=weights, bias=bias, x_zero=tensor.zero_point, requant=requant)

    linear = Linear(
        node=node,
        make=make,
        weights=weights.reshape(-1, 1),
        axis=1,
        x_scale=tensor.scale,
        x_zero=tensor.zero_point,
        w_scale=np.array([factor]),
        bias=np.zeros(1),
        out_axis=-1,
    )
    return Pending(
        node=node.name,
        op_type=node.op_type,
        shape=(*tensor.shape[:-1], 1),
        build=linear.build,
        inputs=(x.tensor,),
        sources=(node.name,),
    )


def _shaped(pending: Pending, shape: tuple[int, ...]) -> Pending:
    """The same with another shape."""
    if pending.shape == shape:
        return pending
    then = (*pending.then, (Reshape(shape=shape), shape, "Reshape"))
    return replace(pending, shape=shape, made=pending.made or pending.shape, then=then)


def squares_fit(node: NodeView) -> bool:
    """at most thirty thousand squares may be added up."""
    return math.prod(node.values[0].shape[axis] for axis in reduced_axes(node)) <= _MOST_SQUARES


@register(
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    attributes=("axes", "keepdims", "noop_with_empty_axes"),
    constraints=(bounds_are_constant, squares_fit),
)
def convert_norm(builder: Builder, node: NodeView) -> Value:
    """Magnitudes, or exact squares, by tables, and their sum; its root over ranges that get coarser."""
    axes = reduced_axes(node)
    x, result, name = operand(node, 0), reduced_shape(node, axes), node.outputs[0]
    flat = _flat(builder, node, x, axes)
    if node.op_type == "ReduceL1":
        held = absolute(builder, node, flat.tensor, f"{name}_magnitude")
        weights = np.ones(flat.shape[-1], np.int8)
    else:
        held = square_digits(builder, node, flat.tensor, len(flat.shape) - 1, f"{name}_squares")
        weights = np.repeat(np.array(DIGITS, np.int8), flat.shape[-1])
    sums = _product(builder, node, replace(flat, tensor=held), weights, 1.0)
    if node.op_type != "ReduceL2":
        return _shaped(sums, result)
    most = float(weights.astype(np.int64).sum()) * 255 * builder.tensors[held].scale

    def compose(builder: Builder, name: str, scale: float, zero: int, low: int, high: int) -> str:
        end = min(most, ((high - zero + 1) * scale) ** 2) or most
        ends = [end / _COARSER**at for at in reversed(range(_RANGES))]
        return function_of_sum(
            builder, node, name, sums.build, sums.inputs, sums.shape, np.sqrt, ends, scale, zero, low, high
        )

    return _shaped(
        replace(sums, build=None, compose=compose, inputs=()),
        result,
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

    pending = Pending(
        node=node.name,
        op_type=node.op_type,
        shape=(*shape[:2], *(1,) * (len(shape) - 2)),
        build=build,
        inputs=(name,),
        sources=(node.name,),
    )
    return _shaped(pending, result)


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
    steps: list[tuple[Op, tuple[int, ...], str]] = []

    def add(op: Op, new: tuple[int, ...], kind: str) -> None:
        steps.append((op, new, kind))

    if node.op_type == "ReduceMin":
        add(Lookup(table=REVERSED), shape, "Lookup")
    if len(shape) in (3, 4) and axes == tuple(range(2, len(shape))):
        image = shape
    else:
        kept = tuple(axis for axis in range(len(shape)) if axis not in axes)
        count = math.prod(shape[axis] for axis in kept)
        rows = math.prod(shape[axis] for axis in axes)
        perm = (*axes, *kept)
        if perm != tuple(range(len(shape))):
            add(Transpose(perm=perm), tuple(shape[axis] for axis in perm), "Transpose")
        # Rows of what is kept, one behind the other, are an image of one column whose channels lie last.
        add(Reshape(shape=(1, rows, 1, count)), (1, rows, 1, count), "Reshape")
        image = (1, count, rows, 1)
        add(Transpose(perm=(0, 3, 1, 2)), image, "Transpose")
    made = image
    for op, made in whole_maximum(image):
        add(op, made, node.op_type)
    if node.op_type == "ReduceMin":
        add(Lookup(table=REVERSED), made, "Lookup")
    if made != result:
        add(Reshape(shape=result), result, "Reshape")
    for at, (op, new, kind) in enumerate(steps):
        name = node.outputs[0] if at == len(steps) - 1 else f"{node.outputs[0]}_{at}"
        value = builder.move(value, node.name, kind, op, new, name)
    return value
