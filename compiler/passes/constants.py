"""Integers that are made of constants, as constants."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from systolith.compiler.base.model import Model, Node
from systolith.compiler.passes.drafts import MICROSOFT, until_same

__all__ = ["MOVES", "fold_constants", "movement"]

#: Operators that move elements, one operand's all.
MOVES = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_QUANTISE = (("", "QuantizeLinear"), (MICROSOFT, "QuantizeLinear"))


def fold_constants(model: Model) -> Model:
    """The model with constants instead of Constant nodes, and of integers that are made of constants.

    Ensures that a QuantizeLinear of a constant, and a Clip or movement of constant integers, are constants,
    where scale and zero point are too.
    """
    rules = dict.fromkeys(_QUANTISE, _quantised)
    rules |= {("", kind): _moved_integers for kind in MOVES} | {("", "Clip"): _clipped_integers}
    return until_same(model, lambda model: _fold(model, {("", "Constant"): _constant, **rules}))


def _fold(model: Model, rules: dict[tuple[str, str], Callable[[Model, Node], np.ndarray | None]]) -> Model:
    """Replace nodes by the constant that a rule gives; what the model's outputs name stays a node."""
    constants: dict[str, np.ndarray] = {}
    kept = []
    for node in model.nodes:
        rule = rules.get((node.domain, node.op_type))
        array = None
        if rule is not None and len(node.outputs) == 1 and node.outputs[0] not in model.outputs:
            array = rule(model, node)
        if array is None:
            kept.append(node)
        else:
            constants[node.outputs[0]] = array
    return model.with_nodes(kept, constants) if constants else model


def _constant(_: Model, node: Node) -> np.ndarray | None:
    for name, kind in (("value_float", np.float32), ("value_int", np.int64)):
        if name in node.attrs:
            return np.array(node.attrs[name], kind)
    for name, kind in (("value_floats", np.float32), ("value_ints", np.int64)):
        if name in node.attrs:
            return np.array(list(node.attrs[name]), kind)
    value = node.attrs.get("value")
    if value is None:
        return None
    array: np.ndarray = onnx.numpy_helper.to_array(value)
    return array


def _quantised(model: Model, node: Node) -> np.ndarray | None:
    """Codes of a constant of floats, as QuantizeLinear gives them."""
    if len(node.inputs) < 2 or node.attrs.get("block_size", 0) or node.attrs.get("output_dtype", 0):
        return None
    x, scale = (model.constants.get(name) for name in node.inputs[:2])
    named = len(node.inputs) > 2 and node.inputs[2]
    zero = model.constants.get(node.inputs[2]) if named else np.zeros((), np.uint8)
    if x is None or scale is None or zero is None or x.dtype != np.float32 or scale.dtype != np.float32:
        return None
    if zero.dtype not in (np.int8, np.uint8) or not np.all(np.isfinite(x)) or not np.all(scale > 0):
        return None
    axis, along = node.attrs.get("axis", 1), [1] * x.ndim
    if scale.size > 1:
        if scale.ndim != 1 or not -x.ndim <= axis < x.ndim or x.shape[axis] != scale.size:
            return None
        along[axis] = -1
    if zero.size not in (1, scale.size):
        return None
    with np.errstate(over="ignore"):
        steps = np.rint(x / scale.reshape(along)).astype(np.float64)
    spread = zero.reshape(along) if zero.size > 1 else zero.reshape([1] * x.ndim)
    limits = np.iinfo(zero.dtype)
    codes: np.ndarray = np.clip(steps + spread, limits.min, limits.max).astype(zero.dtype)
    return codes


def _clipped_integers(model: Model, node: Node) -> np.ndarray | None:
    x = model.constants.get(node.inputs[0])
    if x is None or x.dtype.kind not in "iu" or x.dtype.itemsize > 1:
        return None
    limits: list[np.ndarray | None] = []
    for index in (1, 2):
        named = len(node.inputs) > index and node.inputs[index]
        limits.append(model.constants.get(node.inputs[index]) if named else None)
        if named and limits[-1] is None:
            return None
    low, high = limits
    result = x if low is None else np.maximum(x, low)
    return result if high is None else np.minimum(result, high)


def _moved_integers(model: Model, node: Node) -> np.ndarray | None:
    x = model.constants.get(node.inputs[0])
    if x is None or x.dtype not in (np.int8, np.uint8):
        return None
    move = movement(model, node, x.shape)
    return None if move is None else move(x)


Movement = Callable[[np.ndarray], np.ndarray]


def movement(model: Model, node: Node, shape: tuple[int, ...]) -> Movement | None:
    """What a movement of a tensor of this shape does to an array; None where its operands are computed."""
    rank, attrs = len(shape), node.attrs

    def numbers(index: int, name: str) -> list[int] | None:
        if name in attrs:
            return list(attrs[name])
        if len(node.inputs) > index and node.inputs[index]:
            array = model.constants.get(node.inputs[index])
            return None if array is None else [int(number) for number in array.reshape(-1)]
        return []

    if node.op_type == "Identity":
        return lambda array: array
    if node.op_type == "Transpose":
        perm = list(attrs.get("perm", range(rank)[::-1]))
        return (lambda array: array.transpose(perm)) if sorted(perm) == list(range(rank)) else None
    if node.op_type == "Flatten":
        axis = attrs.get("axis", 1)
        axis = axis + rank if axis < 0 else axis
        return lambda array: array.reshape(int(np.prod(shape[:axis], dtype=np.int64)), -1)
    if node.op_type == "Reshape":
        wanted = numbers(1, "shape")
        if wanted is None or not wanted:
            return None
        if not attrs.get("allowzero", 0):
            if any(extent == 0 and at >= rank for at, extent in enumerate(wanted)):
                return None
            wanted = [shape[at] if extent == 0 else extent for at, extent in enumerate(wanted)]
        return lambda array: array.reshape(wanted)
    axes = numbers(1, "axes")
    if axes is None:
        return None
    if node.op_type == "Unsqueeze":
        return lambda array: np.expand_dims(array, tuple(axes))
    return lambda array: np.squeeze(array, tuple(axes) if axes else None)
