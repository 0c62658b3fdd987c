"""QLinear operators as what they mean: DequantizeLinear, the float operator, QuantizeLinear."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from systolith.compiler.base.errors import ModelError, QuantiseError
from systolith.compiler.base.model import Model, Node
from systolith.compiler.passes.drafts import MICROSOFT, Draft, rewrite, transposed

__all__ = ["expand_qoperators", "linear_domain"]

INT8 = onnx.TensorProto.INT8

#: Operators with one quantised operand: (x, x_scale, x_zero, y_scale, y_zero).
_UNARY = {
    "QLinearAveragePool": "AveragePool",
    "QLinearGlobalAveragePool": "GlobalAveragePool",
    "QLinearSigmoid": "Sigmoid",
    "QLinearLeakyRelu": "LeakyRelu",
    "QLinearSoftmax": "Softmax",
    "QLinearReduceMean": "ReduceMean",
}
#: With two: (a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero).
_BINARY = {"QLinearAdd": "Add", "QLinearMul": "Mul", "QLinearMatMul": "MatMul"}

#: Operands of the operators of ONNX and of Microsoft: least and greatest number.
_COUNTS = {
    ("", "QLinearConv"): (8, 9),
    ("", "QLinearMatMul"): (8, 8),
    **{(MICROSOFT, kind): (4, 5) for kind in _UNARY},
    (MICROSOFT, "QLinearConv"): (8, 9),
    (MICROSOFT, "QLinearAdd"): (7, 8),
    (MICROSOFT, "QLinearMul"): (7, 8),
    (MICROSOFT, "QGemm"): (6, 9),
    (MICROSOFT, "QLinearWhere"): (9, 9),
    (MICROSOFT, "QLinearConcat"): (5, 1 << 16),
}
#: Positions that may be left out.
_OPTIONAL = {
    **dict.fromkeys(_UNARY, (2,)),
    "QLinearAdd": (2, 5),
    "QLinearMul": (2, 5),
    "QGemm": (2, 5, 6),
}
#: Attributes of Microsoft's operators that the float operator does not have.
_OWN = ("channels_last", "opset", "axes")


def expand_qoperators(model: Model) -> Model:
    """The model without QLinear operators.

    Requires constant scales where a bias is added, and the rank of what has its channels last; a node without
    them stays, and so does a QLinearSoftmax where the model's opset has no Softmax of its meaning. Ensures
    that the float operator keeps the node's name, and the QuantizeLinear behind it the result's.

    Raises
    ------
    ModelError, QuantiseError   Where operands or attributes do not fit the operator.
    """
    return rewrite(model, dict.fromkeys(_COUNTS, _expand))


def linear_domain(model: Model, axis: bool = False) -> str:
    """Domain whose QuantizeLinear and DequantizeLinear the model's opset has: ONNX's own since opset 10, with
    an axis since 13."""
    return "" if model.opset >= (13 if axis else 10) else MICROSOFT


def _check_operands(node: Node) -> None:
    """Refuse operands that are too few, too many, or left out, which onnx's checker does not see."""
    low, high = _COUNTS[node.domain, node.op_type]
    joined = node.op_type == "QLinearConcat"
    optional = _OPTIONAL.get(node.op_type, ())
    needed = range(len(node.inputs) if joined else low)
    if (
        not low <= len(node.inputs) <= high
        or len(node.outputs) != 1
        or (joined and len(node.inputs) % 3 != 2)
        or any(not node.inputs[index] for index in needed if index not in optional)
    ):
        raise ModelError(
            "import",
            node.name,
            f"{node.op_type} does not make {len(node.outputs)} results of {len(node.inputs)} operands "
            f"{list(node.inputs)}",
            "correct the operands of that node",
        )


def _check_attributes(node: Node, operator: str) -> None:
    """Refuse attributes of another type than the float operator's: onnx does not check Microsoft's."""
    known = onnx.defs.get_schema(operator).attributes
    for name, attribute in node.attributes.items():
        wanted = int(getattr(known[name].type, "value", 0)) if name in known else attribute.type
        if attribute.type != wanted:
            kind = onnx.AttributeProto.AttributeType.Name(wanted)
            raise ModelError(
                "import",
                node.name,
                f"attribute {name!r} of {node.op_type} must be of type {kind}",
                "correct that attribute",
            )


class _Expansion:
    """The operands of one node as floats, and its float result as integers."""

    def __init__(self, draft: Draft, node: Node) -> None:
        self.draft, self.node = draft, node
        self.floats: dict[tuple[str, str, str], str] = {}
        last = bool(node.attrs.get("channels_last", 0))
        self.rank = len(draft.type_of(node.inputs[0]).shape or ())
        self.channels_last = last and self.rank > 2

    def dequantised(self, operands: Sequence[str], axis: int = 0) -> str:
        """The float tensor that three operands are: integers, scale and zero point, which may be left out;
        `axis` is that of several scales."""
        draft, node = self.draft, self.node
        x, scale, zero = operands
        if (x, scale, zero) in self.floats:
            return self.floats[x, scale, zero]
        scales, known = draft.array(scale), draft.type_of(scale).shape
        along = known not in ((), (1,)) if scales is None else scales.size > 1
        output = draft.emit(
            "DequantizeLinear",
            [x, scale, zero] if zero else [x, scale],
            f"{node.name}/{x}/float",
            shape=draft.type_of(x).shape,
            name=f"{node.name}/{x}/dequantise",
            domain=linear_domain(draft.model, along),
            axis=axis if along else None,
        )
        self.floats[x, scale, zero] = output
        return output

    def bias(self, name: str, x_scale: str, w_scale: str, factor: float = 1.0) -> str:
        """The int32 bias as a float tensor; its unit is ``x_scale * w_scale * factor``."""
        node = self.node
        of_x, of_w = (np.asarray(self.draft.array(scale), np.float64) for scale in (x_scale, w_scale))
        if of_x.size != 1 or of_w.size < 1:
            raise QuantiseError(
                "quantise",
                node.name,
                f"{node.op_type} has scales of shapes {list(of_x.shape)} and {list(of_w.shape)}",
                "give its activations one scale, and its weights one or one per channel",
            )
        with np.errstate(over="ignore", under="ignore"):
            unit = (of_x.reshape(-1) * of_w.reshape(-1) * factor).astype(np.float32)
        unit = unit if unit.size > 1 else unit.reshape(())
        return self.dequantised((name, self.draft.constant(unit, f"{node.name}/{name}/scale"), ""))

    def turned(self, x: str, back: bool = False) -> str:
        """The tensor with its channels first, or `back`; itself where they are first already."""
        if not self.channels_last:
            return x
        first = (0, self.rank - 1, *range(1, self.rank - 1))
        last = (0, *range(2, self.rank), 1)
        label = f"{self.node.name}/channels_{'last' if back else 'first'}"
        shape = transposed(self.draft.type_of(x).shape, last if back else first)
        return self.draft.emit("Transpose", [x], label, shape=shape, perm=last if back else first)

    def finish(self, operator: str, operands: Sequence[str], scale: str, zero: str) -> bool:
        """Write the float operator and the QuantizeLinear behind it."""
        draft, node = self.draft, self.node
        _check_attributes(node, operator)
        attributes = {name: value for name, value in node.attrs.items() if name not in _OWN}
        operands = list(operands)
        if operator == "ReduceMean" and "axes" in node.attrs:
            if draft.model.opset >= 18:
                axes = np.array(node.attrs["axes"], np.int64)
                operands.append(draft.constant(axes, f"{node.name}/axes"))
            else:
                attributes["axes"] = node.attrs["axes"]
        operands[0] = self.turned(operands[0])
        shape = draft.type_of(node.outputs[0]).shape
        first = (0, self.rank - 1, *range(1, self.rank - 1))
        inner = transposed(shape, first) if self.channels_last else shape
        direct = not scale and not self.channels_last
        result = draft.emit(
            operator,
            operands,
            f"{node.name}/float",
            output=node.outputs[0] if direct else "",
            shape=inner,
            name=node.name,
            **attributes,
        )
        if direct:
            return True
        result = self.turned(result, back=True)
        element = draft.type_of(node.outputs[0]).element or draft.type_of(node.inputs[0]).element
        if not zero and element == INT8:
            # Without a zero point QuantizeLinear gives uint8.
            zero = draft.constant(np.zeros((), np.int8), f"{node.name}/zero")
        draft.emit(
            "QuantizeLinear",
            [result, scale, zero] if zero else [result, scale],
            node.outputs[0],
            element=element,
            shape=shape,
            output=node.outputs[0],
            name=f"{node.name}/quantise",
            domain=linear_domain(draft.model),
        )
        return True


def _expand(draft: Draft, node: Node) -> bool:
    _check_operands(node)
    kind, names = node.op_type, [*node.inputs, *[""] * 9]
    if kind == "QLinearSoftmax" and not _softmax_is_ours(draft, node):
        return False
    bias = {"QLinearConv": names[8], "QGemm": names[6]}.get(kind)
    if bias and any(draft.array(name) is None for name in (names[1], names[4])):
        return False
    if node.attrs.get("channels_last", 0) and not draft.type_of(names[0]).shape:
        return False
    made = _Expansion(draft, node)
    if kind in _UNARY:
        return made.finish(_UNARY[kind], [made.dequantised(names[:3])], names[3], names[4])
    if kind in _BINARY:
        rank = len(draft.type_of(names[3]).shape or (0, 0))
        axis = max(rank - 1, 0) if kind == "QLinearMatMul" else 0
        rows = max(len(draft.type_of(names[0]).shape or (0, 0)) - 2, 0)
        operands = [made.dequantised(names[:3], axis=rows), made.dequantised(names[3:6], axis=axis)]
        return made.finish(_BINARY[kind], operands, names[6], names[7])
    if kind == "QLinearConv":
        operands = [made.dequantised(names[:3]), made.dequantised(names[3:6])]
        if names[8]:
            operands.append(made.bias(names[8], names[1], names[4]))
        return made.finish("Conv", operands, names[6], names[7])
    if kind == "QGemm":
        axis = 0 if node.attrs.get("transB", 0) else 1
        operands = [made.dequantised(names[:3]), made.dequantised(names[3:6], axis=axis)]
        if names[6]:
            alpha = node.attrs.get("alpha", 1.0)
            # An alpha of another type is refused below.
            factor = float(alpha) if isinstance(alpha, float | int) else 1.0
            operands.append(made.bias(names[6], names[1], names[4], factor))
        return made.finish("Gemm", operands, names[7], names[8])
    if kind == "QLinearWhere":
        operands = [names[0], made.dequantised(names[1:4]), made.dequantised(names[4:7])]
        return made.finish("Where", operands, names[7], names[8])
    given = node.inputs
    operands = [made.dequantised(given[at : at + 3]) for at in range(2, len(given), 3)]
    return made.finish("Concat", operands, names[0], names[1])


def _softmax_is_ours(draft: Draft, node: Node) -> bool:
    """Whether the model's Softmax means what the node says: before opset 13 it joins all axes from its own
    on."""
    rank = len(draft.type_of(node.inputs[0]).shape or ())
    axis = node.attrs.get("axis", -1)
    return (node.attrs.get("opset", 1) >= 13) == (draft.model.opset >= 13) or (
        rank > 0 and axis in (-1, rank - 1)
    )
