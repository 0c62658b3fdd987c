"""Old files in today's dress: constants that are inputs too, operators of opsets before 7, no opset at
all."""

from __future__ import annotations

import onnx
from onnx import helper
from onnx.version_converter import convert_version

from systolith.compiler.base.boundary import told
from systolith.compiler.base.errors import InputError
from systolith.compiler.base.proto import opset_of

__all__ = ["OLDEST", "upgrade"]

#: From this opset on operators mean what the rules read them as; the one before is rewritten here, and what
#: is older is converted to that by onnx.
OLDEST = 7
_TARGET = 13
#: First IR version in which a constant need not be an input too.
_IR = 4
#: Operators whose second operand is broadcast where attributes say so, along axes from `axis` on.
_BROADCAST = ("Add", "And", "Div", "Equal", "Gemm", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor")
#: Attributes that say nothing any more, or what holds anyway in inference.
_DROPPED = ("consumed_inputs", "is_test", "output_sequence")


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
    if not 0 < opset < OLDEST:
        return model
    if opset < OLDEST - 1:
        with told(
            InputError,
            "import",
            "",
            f"opset {opset} cannot be converted to opset {OLDEST - 1}",
            "export the model with opset 7 or later",
        ):
            converted = convert_version(model, OLDEST - 1)
        converted.metadata_props.extend(model.metadata_props)
        model = converted
    _broadcast(model)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = OLDEST
    return model


def _own(node: onnx.NodeProto) -> bool:
    return node.domain in ("", "ai.onnx")


def _broadcast(model: onnx.ModelProto) -> None:
    """Say what attributes of opset 6 say as opset 7 does: second operands get the axes that they lack behind
    theirs."""
    with told(InputError, "import", "", "its shapes cannot be inferred", "correct the operands of its nodes"):
        inferred = onnx.shape_inference.infer_shapes(model).graph
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
        if value.type.tensor_type.HasField("shape")
    } | {tensor.name: len(tensor.dims) for tensor in inferred.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        said = {attribute.name: attribute.i for attribute in node.attribute}
        dropped = set(_DROPPED)
        if _own(node) and node.op_type in _BROADCAST:
            dropped |= {"axis", "broadcast"}
            if said.get("broadcast") and "axis" in said and node.op_type != "Gemm":
                nodes += _unsqueezed(node, said["axis"], ranks)
        kept = [attribute for attribute in node.attribute if not _own(node) or attribute.name not in dropped]
        del node.attribute[:]
        node.attribute.extend(kept)
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _unsqueezed(node: onnx.NodeProto, axis: int, ranks: dict[str, int]) -> list[onnx.NodeProto]:
    """What gives the second operand its axes, where it needs any."""
    first, second = node.input
    if first not in ranks or second not in ranks:
        raise InputError(
            "import",
            node.name or node.output[0],
            f"{node.op_type} broadcasts {second!r} from axis {axis} on, and the ranks are not known",
            "export the model with opset 7 or later",
        )
    axis += ranks[first] if axis < 0 else 0
    behind = ranks[first] - axis - ranks[second]
    if behind <= 0:
        return []
    axes = list(range(ranks[second], ranks[second] + behind))
    name = f"{node.output[0]}/{second}/unsqueezed"
    node.input[1] = name
    return [helper.make_node("Unsqueeze", [second], [name], f"{name}/node", axes=axes)]
