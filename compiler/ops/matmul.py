"""MatMul and Gemm with constant weights on either side."""

from __future__ import annotations

from math import prod

import numpy as np

from systolith.compiler.base.errors import UnsupportedError
from systolith.compiler.ops.add import sum_of
from systolith.compiler.ops.affine import convolution
from systolith.compiler.ops.operands import bounds, fitting, tensor_of
from systolith.compiler.ops.registry import NodeView, operand, register
from systolith.compiler.ops.select import broadcast, reshaped
from systolith.compiler.ops.values import Builder, Const, Func, Pending, Value
from systolith.compiler.ops.weighted import Linear, int8_weights, per_channel
from systolith.reference.matmul import MatMul
from systolith.reference.transpose import Transpose

__all__ = ["convert_gemm", "convert_matmul"]


def one_operand_is_constant(node: NodeView) -> bool:
    """one operand must be constant: products of two computed tensors are not supported."""
    return isinstance(node.value(0), Const) != isinstance(node.value(1), Const)


def operands_multiply(node: NodeView) -> bool:
    """the last axis of the first operand must be as long as the second to last of the second."""
    a, b = node.value(0).shape, node.value(1).shape
    if not a or not b or a[-1] != (b[-2] if len(b) > 1 else b[0]):
        return False
    try:
        np.broadcast_shapes(a[:-2], b[:-2])
    except ValueError:
        return False
    return True


def operands_are_matrices(node: NodeView) -> bool:
    """A and B must have two axes and multiply, and C must broadcast to their product."""
    if any(len(node.value(index).shape) != 2 for index in (0, 1)):
        return False
    a, b = (_turned(node, index) for index in (0, 1))
    c = () if node.value(2) is None else node.value(2).shape
    try:
        return a[1] == b[0] and np.broadcast_shapes(c, (a[0], b[1])) == (a[0], b[1])
    except ValueError:
        return False


def _turned(node: NodeView, index: int) -> tuple[int, ...]:
    shape = node.value(index).shape
    return shape[::-1] if node.attrs.get(("transA", "transB")[index], 0) else shape


@register("MatMul", constraints=(one_operand_is_constant, operands_multiply))
def convert_matmul(builder: Builder, node: NodeView) -> Value:
    """A product that waits for the scale of its result, of any ranks."""
    left = isinstance(node.value(0), Const)
    weights, x = (node.value(0), operand(node, 1)) if left else (node.value(1), operand(node, 0))
    result = _result(node.value(0).shape, node.value(1).shape)
    if left and x.shape == x.shape[:1]:
        x = reshaped(builder, node, x, (1, *x.shape), f"{node.outputs[0]}_row")
    elif left:
        x = _swapped(builder, node, x, f"{node.outputs[0]}_turned")
    # From here on, the product is x times weights of [..., K, M].
    axis = -1 if not left and weights.array.ndim > 1 else -2 if weights.array.ndim > 1 else None
    if axis is None:
        ints, scales = _vector(node, 0 if left else 1)
    else:
        ints, scales = int8_weights(node, 0 if left else 1, axis % weights.array.ndim)
        ints = ints.swapaxes(-1, -2) if left else ints
    if prod(ints.shape[:-2]) > 1:
        made = _batched(builder, node, x, ints, scales)
    else:
        made = _product(builder, node, x, ints.reshape(ints.shape[-2:]), scales, np.zeros(len(scales)))
    if left and len(result) > 1 and weights.array.ndim > 1 and len(node.value(1).shape) > 1:
        made = _swapped(builder, node, made, f"{node.outputs[0]}_back")
    return reshaped(builder, node, made, result, node.outputs[0])


def _vector(node: NodeView, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Constant weights of one axis as a column."""
    value = node.value(index)
    if value.scale is not None and value.scale.size > 1:
        raise UnsupportedError(
            "import",
            node.name,
            f"weights {node.proto.input[index]!r} of one axis have several scales",
            "quantise them per tensor",
        )
    ints, scale = int8_weights(node, index, 0)
    return ints.reshape(-1, 1), scale[:1]


def _result(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a product."""
    rows, columns = a[-2:-1], b[-1:] if len(b) > 1 else ()
    return (*np.broadcast_shapes(a[:-2], b[:-2]), *rows, *columns)


def _swapped(builder: Builder, node: NodeView, x: Value, name: str) -> Value:
    """The last two axes exchanged."""
    rank = len(x.shape)
    perm = (*range(rank - 2), rank - 1, rank - 2)
    shape = tuple(x.shape[axis] for axis in perm)
    return builder.move(x, node.name, "Transpose", Transpose(perm=perm), shape, name)


def _batched(builder: Builder, node: NodeView, x: Func, weights: np.ndarray, scales: np.ndarray) -> Value:
    """Weights [B..., K, M]: one matrix after the other where x is the same for all, else a convolution with a
    group for each."""
    batch, (k, m) = weights.shape[:-2], weights.shape[-2:]
    matrices, name = prod(batch), node.outputs[0]
    flat = weights.reshape(matrices, k, m)
    if prod(x.shape[:-2]) == 1:
        # [K, B * M]; the result's columns are taken apart afterwards.
        rows = x.shape[-2] if len(x.shape) > 1 else 1
        x = reshaped(builder, node, x, (rows, k), f"{name}_rows")
        columns = flat.transpose(1, 0, 2).reshape(k, matrices * m)
        made: Value = _product(builder, node, x, columns, np.tile(scales, matrices), np.zeros(matrices * m))
        made = reshaped(builder, node, made, (rows, matrices, m), f"{name}_apart")
        turn = Transpose(perm=(1, 0, 2))
        made = builder.move(made, node.name, "Transpose", turn, (matrices, rows, m), f"{name}_batch")
        return reshaped(builder, node, made, (*batch, rows, m), f"{name}_shaped")
    rows = x.shape[-2]
    batch = np.broadcast_shapes(batch, x.shape[:-2])
    matrices = prod(batch)
    flat = np.broadcast_to(weights, (*batch, k, m)).reshape(matrices, k, m)
    x = broadcast(builder, node, x, (*batch, rows, k), f"{name}_spread")
    x = reshaped(builder, node, x, (matrices, rows, k), f"{name}_flat")
    x = _swapped(builder, node, x, f"{name}_channels")
    x = reshaped(builder, node, x, (1, matrices * k, rows), f"{name}_joined")
    made = convolution(
        builder,
        node,
        x,
        flat.transpose(0, 2, 1).reshape(matrices * m, k, 1, 1),
        np.tile(scales, matrices),
        np.zeros(matrices * m),
        (1, matrices * m, rows),
        strides=(1, 1),
        dilations=(1, 1),
        pads=(0, 0, 0, 0),
        group=matrices,
    )
    made = reshaped(builder, node, made, (matrices, m, rows), f"{name}_apart")
    made = _swapped(builder, node, made, f"{name}_batch")
    return reshaped(builder, node, made, (*batch, rows, m), f"{name}_shaped")


@register(
    "Gemm",
    attributes=("alpha", "beta", "broadcast", "transA", "transB"),
    constraints=(one_operand_is_constant, operands_are_matrices),
)
def convert_gemm(builder: Builder, node: NodeView) -> Value:
    """alpha goes into the scales; C into the bias where it is one number per output channel of the product,
    else it is added."""
    left, name = isinstance(node.value(0), Const), node.outputs[0]
    index, other = (0, 1) if left else (1, 0)
    turned = bool(node.attrs.get(("transA", "transB")[index], 0))
    axis = (1 if turned else 0) if left else (0 if turned else 1)
    weights, w_scale = int8_weights(node, index, axis)
    weights = weights if axis == 1 else weights.T
    x: Value = operand(node, other)
    if bool(node.attrs.get(("transA", "transB")[other], 0)) != left:
        x = _swapped(builder, node, x, f"{name}_turned")
    w_scale = w_scale * np.float64(node.attrs.get("alpha", 1.0))
    c, beta, bias = node.value(2), node.attrs.get("beta", 1.0), None
    shape = (_turned(node, 0)[0], _turned(node, 1)[1])
    if c is None:
        bias = np.zeros(len(w_scale))
    elif isinstance(c, Const):
        bias = per_channel(c.real, 2, 0 if left else 1, len(w_scale))
    product = _product(
        builder, node, x, weights, w_scale, np.zeros(len(w_scale)) if bias is None else bias * beta
    )
    whole = _swapped(builder, node, product, f"{name}_back") if left else product
    if bias is not None:
        return whole
    added = tensor_of(builder, node, 2)

    def compose(builder: Builder, name: str, scale: float, zero: int, low: int, high: int) -> str:
        # The product has whatever the result has, without what C adds.
        ends = [beta * end for end in bounds(builder, added)]
        least, most = ((code - zero) * scale for code in (-128, 127))
        part = builder.quantise(
            whole, node.name, f"{name}_product", *fitting(least - max(ends), most - min(ends))
        )
        total = sum_of(builder, node, (part, added), 1.0, float(beta))
        op = total.build(scale, zero, low, high)
        return builder.append(
            node.name, op, total.inputs, name, shape, scale, zero, node.op_type, (node.name,)
        )

    return Pending(
        node=node.name,
        op_type=node.op_type,
        shape=shape,
        build=None,
        inputs=(),
        sources=(node.name,),
        compose=compose,
    )


def _product(
    builder: Builder, node: NodeView, x: Func, weights: np.ndarray, w_scale: np.ndarray, bias: np.ndarray
) -> Pending:
    tensor = builder.tensors[x.tensor]

    def make(weights: np.ndarray, bias: np.ndarray, requant: object) -> MatMul:
        return MatMul(weights=weights, bias=bias, x_zero=tensor.zero_point, requant=requant)

    linear = Linear(
        node=node,
        make=make,
        weights=weights,
        axis=1,
        x_scale=tensor.scale,
        x_zero=tensor.zero_point,
        w_scale=w_scale,
        bias=bias,
        out_axis=-1,
    )
    return Pending(
        node=node.name,
        op_type=node.op_type,
        shape=(*x.shape[:-1], weights.shape[1]),
        build=linear.build,
        inputs=(x.tensor,),
        sources=(node.name,),
        linear=linear,
    )
