"""MatMul and Gemm with constant weights."""

from __future__ import annotations

import numpy as np

from systolith.compiler.base.errors import UnsupportedError
from systolith.compiler.ops.registry import NodeView, constant, operand, register
from systolith.compiler.ops.values import Builder, Const, Func, Pending, Value
from systolith.compiler.ops.weighted import Linear, int8_weights, per_channel
from systolith.reference.matmul import MatMul

__all__ = ["convert_gemm", "convert_matmul"]


def second_operand_is_constant(node: NodeView) -> bool:
    """the second operand must be constant: products of two computed tensors, or with the constant first, are
    not supported."""
    return isinstance(node.value(1), Const) and not isinstance(node.value(0), Const)


def weights_are_a_matrix(node: NodeView) -> bool:
    """the weights must have two axes."""
    return len(node.value(1).shape) == 2


def not_transposed(node: NodeView) -> bool:
    """transA must be 0."""
    return not node.attrs.get("transA", 0)


def input_is_a_matrix(node: NodeView) -> bool:
    """the input must have two axes."""
    return len(node.value(0).shape) == 2


@register("MatMul", constraints=(second_operand_is_constant, weights_are_a_matrix))
def convert_matmul(builder: Builder, node: NodeView) -> Value:
    """A product that waits for the scale of its result."""
    weights, w_scale = int8_weights(node, 1, 1)
    return _pending(builder, node, operand(node, 0), weights, w_scale, np.zeros(len(w_scale)))


@register(
    "Gemm",
    attributes=("alpha", "beta", "transA", "transB"),
    constraints=(not_transposed, second_operand_is_constant, weights_are_a_matrix, input_is_a_matrix),
)
def convert_gemm(builder: Builder, node: NodeView) -> Value:
    """alpha goes into the scales, beta into the bias."""
    flipped = bool(node.attrs.get("transB", 0))
    weights, w_scale = int8_weights(node, 1, 0 if flipped else 1)
    bias = np.zeros(len(w_scale))
    if constant(node, 2) is not None:
        bias = per_channel(node.value(2).real, 2, 1, len(w_scale))
        if bias is None:
            raise UnsupportedError(
                "import",
                node.name,
                f"C has shape {node.value(2).shape}, which is not one number per column",
                "use Add for it",
            )
    return _pending(
        builder,
        node,
        operand(node, 0),
        weights.T if flipped else weights,
        w_scale * np.float64(node.attrs.get("alpha", 1.0)),
        bias * node.attrs.get("beta", 1.0),
    )


def _pending(
    builder: Builder, node: NodeView, x: Func, weights: np.ndarray, w_scale: np.ndarray, bias: np.ndarray
) -> Pending:
    if not x.shape or x.shape[-1] != weights.shape[0]:
        raise UnsupportedError(
            "import",
            node.name,
            f"shapes {x.shape} and {weights.shape} do not multiply",
            "correct the weights",
        )
    tensor = builder.tensors[x.tensor]

    def make(weights, bias, requant) -> MatMul:
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
