"""Convolutions whose operands and attributes fit each other, which onnx's inference does not check."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from systolith.compiler.base.errors import ModelError
from systolith.compiler.base.limits import shape_text

__all__ = ["check_convolutions"]

#: Which operand holds the weights.
_WEIGHTS = {"Conv": 1, "QLinearConv": 3}


def check_convolutions(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...] | None]) -> None:
    """Refuse a Conv or QLinearConv whose weights do not fit its input, group or kernel.

    Parameters
    ----------
    shapes : of every tensor that is no constant; None where not all of it is known

    Raises
    ------
    ModelError   Naming the node.
    """
    known = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    known |= {name: shape for name, shape in shapes.items() if shape is not None}
    for node in model.graph.node:
        at = _WEIGHTS.get(node.op_type)
        if at is None or node.domain not in ("", "ai.onnx") or len(node.input) <= at:
            continue
        x, w = known.get(node.input[0]), known.get(node.input[at])
        if x is None or w is None:
            continue
        wrong = _wrong(node, x, w)
        if wrong:
            raise ModelError("import", node.name, f"Conv: {wrong}", "correct its operands or attributes")


def _wrong(node: onnx.NodeProto, x: tuple[int, ...], w: tuple[int, ...]) -> str:
    """What does not fit, or ''; x is [N, C, ...], w [M, C / group, ...]."""
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    if len(x) < 3 or len(w) != len(x):
        return f"an input of shape {shape_text(x)} and weights of shape {shape_text(w)} do not fit each other"
    group, kernel = attributes.get("group", 1), list(attributes.get("kernel_shape", w[2:]))
    if w[0] % group or x[1] != w[1] * group:
        return f"{x[1]} channels, weights of shape {shape_text(w)} and group {group} do not fit each other"
    if kernel != list(w[2:]):
        return f"kernel_shape {kernel} is not that of the weights, {list(w[2:])}"
    return ""
