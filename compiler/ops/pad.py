"""Pad: constant, edge, reflect and wrap, on any axes."""

from __future__ import annotations

import numpy as np

from systolith.compiler.ops.registry import NodeView, constant, register
from systolith.compiler.ops.select import bounds_are_constant, select
from systolith.compiler.ops.values import Builder, Func, Pending, Quant, Value, quantised
from systolith.reference.lookup import Lookup
from systolith.reference.select import Select

__all__ = ["convert_pad"]

_MODES = (b"constant", b"edge", b"reflect", b"wrap")


def mode_known(node: NodeView) -> bool:
    """mode must be constant, edge, reflect or wrap."""
    return node.attrs.get("mode", b"constant") in _MODES


def pads_fit(node: NodeView) -> bool:
    """pads must have two numbers per axis and leave something of each axis."""
    pads = _pads(node)
    return pads is not None and all(
        before + extent + after > 0
        for (before, after), extent in zip(pads, node.values[0].shape, strict=True)
    )


def _pads(node: NodeView) -> list[tuple[int, int]] | None:
    """(before, after) of each axis, in any opset's form."""
    rank = len(node.values[0].shape)
    stated = node.attrs.get("pads", node.attrs.get("paddings"))
    if stated is None:
        stated = constant(node, 1).reshape(-1).tolist()
    axes = constant(node, 3) if "pads" not in node.attrs else None
    named = list(range(rank)) if axes is None else [int(axis) % rank for axis in axes.reshape(-1)]
    if len(stated) != 2 * len(named):
        return None
    pads = [(0, 0)] * rank
    for at, axis in enumerate(named):
        pads[axis] = int(stated[at]), int(stated[at + len(named)])
    return pads


def _indices(mode: str, extent: int, before: int, after: int) -> np.ndarray:
    """What stands at each place of an axis; -1 where the constant does."""
    inside = np.arange(extent)[max(-before, 0) : extent - max(-after, 0)]
    around = (max(before, 0), max(after, 0))
    if mode == "constant":
        return np.pad(inside, around, constant_values=-1)
    # NumPy's types want each mode as a literal.
    return np.pad(inside, around, mode=mode)  # type: ignore[call-overload]


@register(
    "Pad",
    attributes=("mode", "paddings", "pads", "value"),
    constraints=(bounds_are_constant, mode_known, pads_fit),
)
def convert_pad(builder: Builder, node: NodeView) -> Value:
    """Copies of the operand's elements, or one number, around it; negative pads crop."""
    value, pads = node.values[0], _pads(node)
    mode = node.attrs.get("mode", b"constant").decode()
    chosen = [
        _indices(mode, extent, before, after)
        for extent, (before, after) in zip(value.shape, pads, strict=True)
    ]
    if not any((index < 0).any() for index in chosen):
        return select(builder, node, value, chosen, node.outputs[0])
    number = constant(node, 2) if "pads" not in node.attrs else None
    real = float(node.attrs.get("value", 0.0) if number is None or number.size == 0 else number.item())
    if isinstance(value, Quant):
        code = int(real) - (128 if value.unsigned else 0)
        return select(builder, node, value, chosen, node.outputs[0], fill=code)
    if isinstance(value, Func):
        steps = np.abs(value.values.astype(np.float64) - real)
        if steps.min() <= np.spacing(np.float32(abs(real))):
            # Some code of the operand means this number already.
            code = int(np.arange(256).astype(np.uint8).view(np.int8)[int(steps.argmin())])
            return select(builder, node, value, chosen, node.outputs[0], fill=code)
    shape = tuple(map(len, chosen))

    def compose(builder: Builder, name: str, scale: float, zero: int, low: int, high: int) -> str:
        part = builder.quantise(value, node.name, f"{name}_inside", scale, zero)
        fill = int(np.clip(quantised(np.array([real]), scale, zero)[0], low, high))
        if (low, high) != (-128, 127):
            # Limits that follow hold for what lies inside, too.
            codes = np.clip(np.arange(256).astype(np.uint8).view(np.int8), low, high)
            lookup = Lookup(table=codes.astype(np.int8))
            limited = f"{name}_limited"
            part = builder.append(
                node.name, lookup, (part,), limited, value.shape, scale, zero, "Lookup", (node.name,)
            )
        op = Select(indices=tuple(tuple(map(int, index)) for index in chosen), fill=fill)
        return builder.append(node.name, op, (part,), name, shape, scale, zero, node.op_type, (node.name,))

    return Pending(
        node=node.name,
        op_type=node.op_type,
        shape=shape,
        build=None,
        inputs=(),
        sources=(node.name,),
        compose=compose,
    )
