"""Old files in today's dress: constants that are inputs too, operators of opsets before 7, no opset at
all."""

from __future__ import annotations

import onnx
from onnx import helper

from systolith.compiler.base.boundary import told
from systolith.compiler.base.errors import InputError
from systolith.compiler.base.proto import opset_of

__all__ = ["upgrade"]

#: From this opset on operators mean what the rules read them as.
_FIRST = 7
_TARGET = 13
#: First IR version in which a constant need not be an input too.
_IR = 4
#: Operators whose operands were broadcast by attributes.
_BROADCAST = (
    "Add",
    "And",
    "Div",
    "Equal",
    "Greater",
    "Less",
    "Mul",
    "Or",
    "Pow",
    "PRelu",
    "Sub",
    "Xor",
    "Gemm",
)


def upgrade(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in IR version 4 or later, with opset 7 or later.

    Raises
    ------
    InputError   If onnx cannot convert an operator of a very old opset.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in constants]
    if len(kept) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, _IR)
    opset = opset_of(model)
    if opset == 0 and not any(_own(node) for node in model.graph.node):
        model.opset_import.append(helper.make_opsetid("", _TARGET))
        return model
    if not 0 < opset < _FIRST:
        return model
    _rename(model)
    with told(
        InputError,
        "import",
        "",
        f"opset {opset} cannot be converted to opset {_TARGET}",
        "export the model with opset 7 or later",
    ):
        converted = onnx.version_converter.convert_version(model, _TARGET)
    for before, after in zip(model.metadata_props, converted.metadata_props, strict=False):
        after.CopyFrom(before)
    return converted


def _own(node: onnx.NodeProto) -> bool:
    return node.domain in ("", "ai.onnx")


def _rename(model: onnx.ModelProto) -> None:
    """What onnx's converter does not know: attributes that say nothing any more."""
    for node in model.graph.node:
        dropped = {"consumed_inputs", "is_test"} if node.op_type not in _BROADCAST else {"consumed_inputs"}
        if node.op_type == "BatchNormalization":
            dropped.discard("is_test")
        kept = [attribute for attribute in node.attribute if attribute.name not in dropped]
        del node.attribute[:]
        node.attribute.extend(kept)
