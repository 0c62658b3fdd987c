"""Gemm with a computed C, as ONNX Runtime makes it of MatMul and Add: back into a product and a sum, which
the core has."""

from __future__ import annotations

import onnx

__all__ = ["split_computed_bias"]


def split_computed_bias(model: onnx.ModelProto) -> None:
    """Rewrite the model's Gemm nodes whose third operand is no constant; C counts once (beta = 1) or the node
    stays."""
    constants = {tensor.name for tensor in model.graph.initializer}
    nodes = list(model.graph.node)
    for node in nodes:
        beta = next((a.f for a in node.attribute if a.name == "beta"), 1.0)
        if (
            node.op_type != "Gemm"
            or len(node.input) < 3
            or not node.input[2]
            or node.input[2] in constants
            or beta != 1.0
        ):
            continue
        product = f"{node.output[0]}_product"
        total = onnx.helper.make_node(
            "Add", [product, node.input[2]], [node.output[0]], name=f"{node.name}_add"
        )
        node.output[0] = product
        del node.input[2]
        model.graph.node.insert(list(model.graph.node).index(node) + 1, total)
