"""Multiply-accumulates of a node, from real shapes."""

from __future__ import annotations

import math

from systolith.compiler.base.model import Model, Node

__all__ = ["COUNTED", "node_macs"]

_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
_PRODUCTS = ("Gemm", "MatMul", "MatMulInteger", "QGemm", "QLinearMatMul")
_RECURRENT = ("GRU", "LSTM", "RNN")
#: Operators with multiply-accumulates.
COUNTED = frozenset((*_CONVOLUTIONS, *_PRODUCTS, *_RECURRENT, "ConvTranspose", "Einsum"))


def node_macs(model: Model, node: Node) -> int | None:
    """Multiply-accumulates of one inference; 0 for an operator that has none, None where a shape that they
    follow from is not known."""
    if node.op_type not in COUNTED or node.domain not in ("", "com.microsoft"):
        return 0
    shapes = [model.shape_of(name) for name in node.inputs]
    result = model.shape_of(node.outputs[0]) if node.outputs[0] else ()
    if shapes[0] is None or result is None:
        return None
    if node.op_type in _RECURRENT:
        # All weights, once per step and sample: the input's first two axes.
        if shapes[1] is None or shapes[2] is None:
            return None
        return (math.prod(shapes[1]) + math.prod(shapes[2])) * math.prod(shapes[0][:2])
    if node.op_type == "ConvTranspose":
        return None if shapes[1] is None else math.prod(shapes[0]) * math.prod(shapes[1][1:])
    if node.op_type in _CONVOLUTIONS:
        weights = shapes[_CONVOLUTIONS[node.op_type]]
        return None if weights is None else math.prod(result) * math.prod(weights[1:])
    if node.op_type == "Einsum":
        return _einsum_macs(node, [shape for shape in shapes if shape is not None], len(shapes))
    # A product of matrices: every result is a sum over the last axis of the first operand.
    return math.prod(result) * (shapes[0][-2 if node.attrs.get("transA", 0) else -1] if shapes[0] else 1)


def _einsum_macs(node: Node, shapes: list[tuple[int, ...]], count: int) -> int | None:
    """Every combination of indices is a multiplication, where there is more than one operand."""
    terms = node.attrs["equation"].decode().replace(" ", "").split("->")[0].split(",")
    if len(shapes) != count or "..." in "".join(terms):
        return None
    if count < 2:
        return 0
    extents = {
        letter: extent
        for term, shape in zip(terms, shapes, strict=True)
        for letter, extent in zip(term, shape, strict=True)
    }
    return math.prod(extents.values())
