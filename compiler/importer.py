"""Read an ONNX model, check it, and fix its shapes."""

from __future__ import annotations

from pathlib import Path

import onnx

from systolith.compiler.base.errors import InputError
from systolith.compiler.checks.model import read_model
from systolith.compiler.checks.shapes import check_shapes
from systolith.compiler.passes.time_first import put_time_first

__all__ = ["fix_shapes", "is_quantised", "is_quantising", "load_model", "name_nodes"]

_QUANTISED = ("QuantizeLinear", "DequantizeLinear", "QGemm")


def load_model(source: str | Path | onnx.ModelProto) -> onnx.ModelProto:
    """The model, checked; its shapes are static, its nodes have names, and recurrent ones the time first.

    Raises
    ------
    CompileError   If the file cannot be read or is no valid model; one sentence that names the culprit.
    """
    model = read_model(source)
    name_nodes(model)
    put_time_first(model)
    name_nodes(model)
    fix_shapes(model)
    check_shapes(model)
    return model


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a unique name: the model's where it has one."""
    seen: set[str] = set()
    for node in model.graph.node:
        base = node.name or f"{node.op_type}:{next((name for name in node.output if name), '')}"
        name, number = base, 1
        while name in seen:
            name, number = f"{base}_{number}", number + 1
        seen.add(name)
        node.name = name


def fix_shapes(model: onnx.ModelProto) -> None:
    """A symbolic first axis (the batch) becomes 1; any other symbolic axis is refused."""
    constants = {tensor.name for tensor in model.graph.initializer}
    changed = False
    for value in model.graph.input:
        if value.name in constants:
            continue
        if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
            raise InputError(
                "import", value.name, "the input has no shape", "export the model with static shapes"
            )
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value > 0:
                continue
            if axis:
                raise InputError(
                    "import",
                    value.name,
                    f"axis {axis} of the input is dynamic ({dim.dim_param or 'unknown'})",
                    "export the model with static shapes",
                )
            dim.dim_value = 1
            changed = True
    if changed:
        del model.graph.value_info[:]
        for value in model.graph.output:
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")


def is_quantised(model: onnx.ModelProto) -> bool:
    """Whether the model already holds integers."""
    return any(is_quantising(node) for node in model.graph.node)


def is_quantising(node: onnx.NodeProto) -> bool:
    """Whether a node's operator belongs to quantised models alone."""
    return node.op_type in _QUANTISED or node.op_type.startswith("QLinear")
