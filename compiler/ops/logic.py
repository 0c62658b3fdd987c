"""Comparisons, logic, and what chooses by it. A bool is an int8 tensor of 0 and 1 (scale 1, zero point 0)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from systolith.compiler.base.errors import UnsupportedError
from systolith.compiler.ops.lookup import as_table
from systolith.compiler.ops.operands import broadcast_shape, shapes_broadcast, tensor_of
from systolith.compiler.ops.registry import NodeView, operand, register
from systolith.compiler.ops.values import Builder, Const, FloatInput, Func, Pending, Quant, Value, dequantised
from systolith.reference.add import Add
from systolith.reference.mul import Mul

__all__ = ["convert_cast", "convert_comparison", "convert_where", "truth"]

#: The largest multiplier of an Add.
_LARGEST = (1 << 16) - 1
#: What the sign of the first operand minus the second must be.
_SIGNS = {
    "Equal": lambda d: d == 0,
    "Greater": lambda d: d > 0,
    "GreaterOrEqual": lambda d: d >= 0,
    "Less": lambda d: d < 0,
    "LessOrEqual": lambda d: d <= 0,
}
#: What the sum of two bools must be.
_SUMS = {"And": lambda s: s == 2, "Or": lambda s: s >= 1, "Xor": lambda s: s == 1}
_CODES = np.arange(256).astype(np.uint8).view(np.int8).astype(np.int64)
#: ONNX's numbers of float32, float16 and float64; of bool.
_FLOATS, _BOOL = (1, 10, 11), 9


def _bool_of(builder: Builder, node: NodeView, op: Add, names: tuple[str, str]) -> Func:
    """A node that gives a bool."""
    shape = tuple(np.broadcast_shapes(*(builder.tensors[name].shape for name in names)))
    made = builder.append(node.name, op, names, node.outputs[0], shape, 1.0, 0, node.op_type, (node.name,))
    return Func(made, shape, dequantised(1.0, 0), pure=True)


def truth(builder: Builder, node: NodeView, index: int) -> str:
    """The tensor that holds a bool operand."""
    value, name = node.value(index), node.proto.input[index]
    if isinstance(value, Const):
        return builder.constant(name, value.array.astype(bool).astype(np.int8), 1.0, 0)
    value = value if isinstance(value, Func) else operand(node, index)
    tensor = builder.tensors[value.tensor]
    if value.pure and (tensor.scale, tensor.zero_point) == (1.0, 0):
        return value.tensor
    value = replace(value, values=(value.values != 0).astype(np.float32), pure=False)
    return builder.quantise(value, node.name, f"{name}_bool", 1.0, 0)


def _at_thresholds(builder: Builder, node: NodeView) -> tuple[str, str] | None:
    """The names of a computed operand and a constant one, the constant as codes of the other's format, so
    that the comparison of the codes is that of the numbers; None where neither is constant."""
    for index in (0, 1):
        value = node.value(index)
        if not isinstance(value, Const):
            continue
        x = builder.tensors[operand(node, 1 - index).tensor]
        exact = value.real / x.scale + x.zero_point
        # What is compared with it is an integer: x > 2.5 is x > 2, and x < 2.5 is x < 3.
        up = (node.op_type in ("Less", "GreaterOrEqual")) == (index == 1)
        codes = np.rint(exact) if node.op_type == "Equal" else np.ceil(exact) if up else np.floor(exact)
        codes = np.clip(codes, -128, 127).astype(np.int8)
        made = builder.constant(node.proto.input[index], codes, x.scale, x.zero_point)
        return (made, x.name) if index == 0 else (x.name, made)
    return None


@register("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", constraints=(shapes_broadcast,))
def convert_comparison(builder: Builder, node: NodeView) -> Value:
    """A table; for two tensors a difference that saturates, of which a table keeps the sign."""
    if node.in_float and any(isinstance(value, FloatInput) for value in node.values):
        if not any(isinstance(value, Const) for value in node.values):
            raise UnsupportedError(
                "import",
                node.name,
                f"{node.op_type} compares a tensor of the host with another, and rounding either to int8 "
                "could change the answer",
                "compare with a constant",
            )
    node = node.settled()
    table = as_table(node)
    if table is not None:
        return table
    names = _at_thresholds(builder, node) or (tensor_of(builder, node, 0), tensor_of(builder, node, 1))
    a, b = (builder.tensors[name] for name in names)
    unit = _LARGEST / max(a.scale, b.scale)
    op = Add(
        a_zero=a.zero_point,
        b_zero=b.zero_point,
        a_mult=round(a.scale * unit),
        b_mult=-round(b.scale * unit),
        shift=0,
        zero=0,
        table=_SIGNS[node.op_type](_CODES).astype(np.int8),
    )
    return _bool_of(builder, node, op, names)


@register("And", "Or", "Xor", constraints=(shapes_broadcast,))
def convert_logic(builder: Builder, node: NodeView) -> Value:
    """The sum of two bools, of which a table keeps what counts."""
    names = (truth(builder, node, 0), truth(builder, node, 1))
    keep = _SUMS[node.op_type]
    op = Add(a_zero=0, b_zero=0, a_mult=1, b_mult=1, shift=0, zero=0, table=keep(_CODES).astype(np.int8))
    return _bool_of(builder, node, op, names)


@register("Not")
def convert_not(builder: Builder, node: NodeView) -> Value:
    """A table."""
    value = node.values[0] if isinstance(node.values[0], Func) else operand(node, 0)
    sources = (*value.sources, node.name)
    values = (value.values == 0).astype(np.float32)
    return replace(value, values=values, pure=False, sources=sources, op_type="Not")


def float_or_bool(node: NodeView) -> bool:
    """a computed tensor may only be cast between float and bool."""
    return node.attrs["to"] in (*_FLOATS, _BOOL) and not isinstance(node.values[0], Quant)


@register("Cast", attributes=("saturate", "to"), constraints=(float_or_bool,))
def convert_cast(builder: Builder, node: NodeView) -> Value:
    """The value itself; as a bool, whether it is not zero."""
    value = node.values[0]
    if node.attrs["to"] in _FLOATS:
        return replace(value)
    value = value if isinstance(value, Func) else operand(node, 0)
    sources = (*value.sources, node.name)
    values = (value.values != 0).astype(np.float32)
    return replace(value, values=values, pure=False, sources=sources, op_type="Cast")


def _chosen_table(node: NodeView) -> Func | None:
    """Where as a table, if its computed operands are functions of one tensor and the others numbers."""
    funcs = [value for value in node.values if isinstance(value, Func)]
    if len({(func.tensor, func.shape) for func in funcs}) != 1 or not all(
        isinstance(value, Func) or (isinstance(value, Const) and value.array.size == 1)
        for value in node.values
    ):
        return None
    condition, a, b = (
        value.values if isinstance(value, Func) else value.array.reshape(()) for value in node.values
    )
    values = np.broadcast_to(np.where(condition != 0, a, b), (256,)).astype(np.float32)
    sources = tuple(dict.fromkeys((*(name for func in funcs for name in func.sources), node.name)))
    return replace(funcs[0], values=values, pure=False, sources=sources, op_type="Where")


@register("Where", constraints=(shapes_broadcast,))
def convert_where(builder: Builder, node: NodeView) -> Value:
    """A table; one product where one choice is a single number, else the sum of two."""
    node = node.settled()
    table = _chosen_table(node)
    if table is not None:
        return table
    condition, shape = truth(builder, node, 0), broadcast_shape(node)
    choices = [node.values[1], node.values[2]]

    def compose(builder: Builder, name: str, scale: float, zero: int, low: int, high: int) -> str:
        def append(op: Add | Mul, names: tuple[str, str], label: str) -> str:
            tensors = [builder.tensors[each] for each in names]
            if all(tensor.data is not None for tensor in tensors):
                data = op.run(*(tensor.data for tensor in tensors))
                return builder.constant(label, data, scale, zero)
            new = tuple(np.broadcast_shapes(*(tensor.shape for tensor in tensors)))
            return builder.append(node.name, op, names, label, new, scale, zero, node.op_type, (node.name,))

        def times(part: str, first: bool, still: int, label: str, low: int, high: int) -> str:
            # `still` where the other is chosen; the condition, or what it lacks to 1, is the factor.
            op = Mul(
                a_zero=0 if first else 1,
                b_zero=still,
                a_mult=1 if first else -1,
                shift=0,
                zero=still,
                low=low,
                high=high,
            )
            return append(op, (condition, part), label)

        parts = [
            builder.quantise(value, node.name, f"{name}_choice{at}", scale, zero)
            for at, value in enumerate(choices)
        ]
        for at, other in ((0, 1), (1, 0)):
            data = builder.tensors[parts[other]].data
            whole = np.broadcast_shapes(builder.tensors[condition].shape, builder.tensors[parts[at]].shape)
            if data is not None and data.size == 1 and whole == shape:
                return times(parts[at], at == 0, int(data.item()), name, low, high)
        terms = [times(part, at == 0, zero, f"{name}_term{at}", -128, 127) for at, part in enumerate(parts)]
        op = Add(a_zero=zero, b_zero=zero, a_mult=1, b_mult=1, shift=0, zero=zero, low=low, high=high)
        return append(op, (terms[0], terms[1]), name)

    return Pending(
        node=node.name,
        op_type=node.op_type,
        shape=shape,
        build=None,
        inputs=(),
        sources=(node.name,),
        compose=compose,
    )
