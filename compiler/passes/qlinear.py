"""Rewrite QLinear operators as what they mean: DequantizeLinear, the float operator, QuantizeLinear."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from systolith.compiler.base.errors import ModelError, QuantiseError, UnsupportedError

__all__ = ["expand_qlinear"]

#: Operators with one quantised operand: (x, x_scale, x_zero, y_scale, y_zero).
_UNARY = {
    "QLinearAveragePool": "AveragePool",
    "QLinearGlobalAveragePool": "GlobalAveragePool",
    "QLinearSigmoid": "Sigmoid",
    "QLinearLeakyRelu": "LeakyRelu",
}
#: With two: (a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero).
_BINARY = {"QLinearAdd": "Add", "QLinearMul": "Mul", "QLinearMatMul": "MatMul"}


#: Operands of the operators of ONNX and of Microsoft: least and greatest number.
_ONNX = {"QLinearConv": (8, 9), "QLinearMatMul": (8, 8)}
_MICROSOFT = {
    **dict.fromkeys(_UNARY, (4, 5)),
    "QLinearAdd": (7, 8),
    "QLinearMul": (7, 8),
    "QGemm": (6, 9),
    "QLinearConcat": (5, 1 << 16),
}


def _check_operands(node: onnx.NodeProto, low: int, high: int) -> None:
    """Refuse operands that are too few, too many, or left out, which onnx's checker does not see."""
    needed = range(low) if node.op_type != "QLinearConcat" else range(len(node.input))
    optional = (2, 5, 6) if node.op_type in _MICROSOFT else ()
    if (
        not low <= len(node.input) <= high
        or len(node.output) != 1
        or (node.op_type == "QLinearConcat" and len(node.input) % 3 != 2)
        or any(not node.input[index] for index in needed if index not in optional)
    ):
        raise ModelError(
            "import",
            node.name,
            f"{node.op_type} does not make {len(node.output)} results of {len(node.input)} operands "
            f"{list(node.input)}",
            "correct the operands of that node",
        )


def _check_attributes(node: onnx.NodeProto, operator: str) -> None:
    """Refuse attributes of another type than the float operator's: onnx does not check Microsoft's."""
    known = onnx.defs.get_schema(operator).attributes
    for attribute in node.attribute:
        if attribute.name in known and attribute.type != known[attribute.name].type.value:
            kind = onnx.AttributeProto.AttributeType.Name(known[attribute.name].type.value)
            raise ModelError(
                "import",
                node.name,
                f"attribute {attribute.name!r} of {node.op_type} must be of type {kind}",
                "correct that attribute",
            )


class _Expander:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.initializers[node.output[0]] = node.attribute[0].t
        self.added: list[onnx.TensorProto] = []

    def dequantise(
        self, node: onnx.NodeProto, x: str, scale: str, zero: str, axis: int = 0
    ) -> tuple[onnx.NodeProto, str]:
        output = f"{node.name}/{x}/float"
        inputs = [x, scale, zero] if zero else [x, scale]
        return helper.make_node(
            "DequantizeLinear", inputs, [output], f"{node.name}/{x}/dequantise", axis=axis
        ), output

    def array(self, node: onnx.NodeProto, name: str) -> np.ndarray:
        if name not in self.initializers:
            raise UnsupportedError(
                "import",
                node.name,
                f"operand {name!r} of {node.op_type} must be constant",
                "make it an initializer",
            )
        return numpy_helper.to_array(self.initializers[name])

    def bias(self, node: onnx.NodeProto, name: str, x_scale: str, w_scale: str) -> tuple[onnx.NodeProto, str]:
        """The int32 bias, in units of x_scale * w_scale."""
        of_x, of_w = (self.array(node, scale).astype(np.float64) for scale in (x_scale, w_scale))
        if of_x.size != 1 or of_w.size < 1:
            raise QuantiseError(
                "quantise",
                node.name,
                f"{node.op_type} has scales of shapes {list(of_x.shape)} and {list(of_w.shape)}",
                "give its activations one scale, and its weights one or one per channel",
            )
        with np.errstate(over="ignore", under="ignore"):
            scale = (of_x * of_w).astype(np.float32)
        scale = scale.reshape(-1) if scale.size > 1 else scale.reshape(())
        label = f"{node.name}/{name}/scale"
        self.added.append(numpy_helper.from_array(scale, label))
        return self.dequantise(node, name, label, "")

    def expand(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        kind, names, attributes = node.op_type, list(node.input), list(node.attribute)
        counts = {"com.microsoft": _MICROSOFT, "": _ONNX, "ai.onnx": _ONNX}.get(node.domain, {}).get(kind)
        if counts is None:
            return None
        _check_operands(node, *counts)
        before: list[onnx.NodeProto] = []

        def take(*arguments, **keywords) -> str:
            made, output = self.dequantise(node, *arguments, **keywords)
            if all(made.output[0] != other.output[0] for other in before):
                before.append(made)
            return output

        if kind in _UNARY:
            attributes = [
                a for a in attributes if a.name != "channels_last" or self._refuse_channels_last(node, a)
            ]
            operator, operands, (scale, zero) = (
                _UNARY[kind],
                [take(*names[:3])],
                (names[3], names[4] if len(names) > 4 else ""),
            )
        elif kind in _BINARY:
            axis = 1 if kind == "QLinearMatMul" else 0
            operator, operands = _BINARY[kind], [take(*names[:3]), take(*names[3:6], axis=axis)]
            scale, zero = names[6], names[7] if len(names) > 7 else ""
        elif kind == "QLinearConv":
            operator, operands = "Conv", [take(*names[:3]), take(*names[3:6])]
            scale, zero = names[6:8]
            if len(names) > 8 and names[8]:
                made, output = self.bias(node, names[8], names[1], names[4])
                before.append(made)
                operands.append(output)
        elif kind == "QGemm":
            flipped = any(a.name == "transB" and a.i for a in attributes)
            operator, operands = "Gemm", [take(*names[:3]), take(*names[3:6], axis=0 if flipped else 1)]
            if len(names) > 6 and names[6]:
                made, output = self.bias(node, names[6], names[1], names[4])
                before.append(made)
                operands.append(output)
            if len(names) < 8 or not names[7]:
                raise UnsupportedError(
                    "import", node.name, "QGemm without y_scale gives floats", "quantise its result"
                )
            scale, zero = names[7], names[8] if len(names) > 8 else ""
        elif kind == "QLinearConcat":
            operator, scale, zero = "Concat", names[0], names[1]
            operands = [take(*names[at : at + 3]) for at in range(2, len(names), 3)]
        else:
            return None
        _check_attributes(node, operator)
        result = f"{node.name}/float"
        middle = helper.make_node(operator, operands, [result], node.name)
        middle.attribute.extend(attributes)
        last = helper.make_node(
            "QuantizeLinear",
            [result, scale, *([zero] if zero else [])],
            [node.output[0]],
            f"{node.name}/quantise",
        )
        return [*before, middle, last]

    @staticmethod
    def _refuse_channels_last(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> bool:
        if attribute.i:
            raise UnsupportedError(
                "import",
                node.name,
                f"attribute 'channels_last' of {node.op_type} must be 0",
                "put a Transpose before it",
            )
        return False


def expand_qlinear(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model without QLinear operators; node names stay with the float operators."""
    expander = _Expander(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes.extend(expander.expand(node) or [node])
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(expander.added)
    return result
