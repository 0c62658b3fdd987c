"""Constants behind DequantizeLinear: whatever exporters put between and around them becomes one
DequantizeLinear of int8 with zero point 0, or a float constant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from systolith.compiler.base.model import Model, Node
from systolith.compiler.passes.constants import MOVES, movement
from systolith.compiler.passes.drafts import FLOAT, MICROSOFT, Draft, rewrite, until_same
from systolith.compiler.passes.qoperators import linear_domain

__all__ = [
    "DEQUANTISE",
    "Weights",
    "dequantise_weights",
    "move_weights",
    "narrow_weights",
    "weights_of",
    "weights_only",
    "write_weights",
]

DEQUANTISE = (("", "DequantizeLinear"), (MICROSOFT, "DequantizeLinear"))


@dataclass(frozen=True, eq=False)
class Weights:
    """Integers with scale and zero point: single numbers, or one per index of `axis`."""

    ints: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    axis: int

    @property
    def steps(self) -> np.ndarray:
        """Integers without their zero point, int32."""
        return self.ints.astype(np.int32) - self.along(self.zero).astype(np.int32)

    def along(self, array: np.ndarray) -> np.ndarray:
        """One number per channel, so that it broadcasts over the integers."""
        if array.size == 1:
            return array.reshape([1] * self.ints.ndim)
        shape = [1] * self.ints.ndim
        shape[self.axis] = -1
        return array.reshape(shape)


def weights_of(draft: Draft, node: Node) -> Weights | None:
    """The constant that a DequantizeLinear reads; None where an operand is computed, or they do not fit."""
    if len(node.inputs) < 2 or node.attrs.get("block_size", 0):
        return None
    ints, scale = (draft.array(name) for name in node.inputs[:2])
    if ints is None or scale is None or scale.dtype != np.float32:
        return None
    if not ints.dtype.name.startswith(("int", "uint")):
        return None
    named = len(node.inputs) > 2 and node.inputs[2]
    zero = draft.array(node.inputs[2]) if named else np.zeros(scale.shape, ints.dtype)
    axis = node.attrs.get("axis", 1)
    if zero is None or zero.size != scale.size:
        return None
    if scale.size > 1 and (
        scale.ndim != 1 or not -ints.ndim <= axis < ints.ndim or ints.shape[axis] != scale.size
    ):
        return None
    return Weights(ints, scale, zero, axis % ints.ndim if ints.ndim else 0)


def write_weights(draft: Draft, weights: Weights, node: Node, label: str, output: str = "") -> str:
    """A DequantizeLinear of a constant, named after a node."""
    many = weights.scale.size > 1
    names = [
        draft.constant(weights.ints, label),
        draft.constant(weights.scale if many else weights.scale.reshape(()), f"{label}/scale"),
    ]
    if weights.zero.any() or weights.ints.dtype != np.int32:
        names.append(draft.constant(weights.zero if many else weights.zero.reshape(()), f"{label}/zero"))
    return draft.emit(
        "DequantizeLinear",
        names,
        f"{label}/float",
        shape=weights.ints.shape,
        output=output,
        name=node.name,
        domain=linear_domain(draft.model, many),
        axis=weights.axis if many else None,
    )


def move_weights(model: Model) -> Model:
    """The model with movements of dequantised constants done on their integers.

    Requires constants as `fold_constants` leaves them. Ensures that a Reshape, Squeeze, Unsqueeze, Transpose,
    Flatten or Identity of a DequantizeLinear's constant is a DequantizeLinear of a constant, its axis
    following; a movement that would need scales along several axes stays.
    """
    rules = {("", kind): _moved_weights for kind in MOVES}
    return until_same(model, lambda model: rewrite(model, rules))


def _moved_weights(draft: Draft, node: Node) -> bool:
    maker = draft.model.producer.get(node.inputs[0])
    if maker is None or (maker.domain, maker.op_type) not in DEQUANTISE or len(node.outputs) != 1:
        return False
    weights = weights_of(draft, maker)
    move = None if weights is None else movement(draft.model, node, weights.ints.shape)
    if weights is None or move is None:
        return False
    try:
        ints = move(weights.ints)
        if weights.scale.size > 1:
            channel = weights.along(np.arange(weights.scale.size))
            moved = move(np.broadcast_to(channel, weights.ints.shape))
        else:
            moved = np.zeros(ints.shape, np.int64)
    except ValueError:
        # ONNX Runtime says what is wrong with it.
        return False
    axis = _axis_of(moved)
    if axis is None:
        return False
    scale, zero = weights.scale, weights.zero
    if scale.size > 1:
        index = moved[tuple(slice(None) if at == axis else 0 for at in range(moved.ndim))]
        scale, zero = scale[index], zero[index]
    label = f"{maker.inputs[0]}/{node.op_type.lower()}"
    result = Weights(np.ascontiguousarray(ints), scale, zero, axis)
    write_weights(draft, result, node, label, node.outputs[0])
    return True


def _axis_of(channel: np.ndarray) -> int | None:
    """The one axis along which numbers differ, the first of 0 extents where they do not; None of several."""
    axes = [
        axis
        for axis in range(channel.ndim)
        if channel.shape[axis] > 1 and np.any(channel != channel.take([0], axis))
    ]
    return axes[0] if len(axes) == 1 else 0 if not axes else None


# Widths.


def narrow_weights(model: Model) -> Model:
    """The model without constants of less than 8 bits and without blocks of scales.

    Ensures that int4, uint4 and narrower constants behind DequantizeLinear are int8 with the same scale and
    zero point 0, and that those with a scale per block are float constants.
    """
    return rewrite(model, dict.fromkeys(DEQUANTISE, _narrowed))


def _narrowed(draft: Draft, node: Node) -> bool:
    ints = draft.array(node.inputs[0])
    if ints is None:
        return False
    narrow = ints.dtype.name in ("int2", "uint2", "int4", "uint4")
    if node.attrs.get("block_size", 0):
        return _blocks(draft, node, ints)
    if not narrow:
        return False
    plain = weights_of(draft, node)
    if plain is None:
        return False
    steps = plain.steps.astype(np.int8)
    result = Weights(steps, plain.scale, np.zeros(plain.zero.shape, np.int8), plain.axis)
    write_weights(draft, result, node, f"{node.inputs[0]}/int8", node.outputs[0])
    return True


def _blocks(draft: Draft, node: Node, ints: np.ndarray) -> bool:
    size, axis = node.attrs["block_size"], node.attrs.get("axis", 1)
    scale = draft.array(node.inputs[1])
    named = len(node.inputs) > 2 and node.inputs[2]
    zero = draft.array(node.inputs[2]) if named else np.zeros((), np.int8)
    if scale is None or zero is None or scale.ndim != ints.ndim or size < 1:
        return False

    def spread(array: np.ndarray) -> np.ndarray:
        return array if not array.ndim else np.repeat(array, size, axis).take(range(ints.shape[axis]), axis)

    steps = ints.astype(np.int32) - spread(zero.astype(np.int32))
    _constant_instead(draft, node, steps.astype(np.float32) * spread(scale.astype(np.float32)))
    return True


def _constant_instead(draft: Draft, node: Node, array: np.ndarray) -> None:
    """A constant under the name of a node's result; an Identity where the model's output is that name."""
    output = node.outputs[0]
    if output in draft.model.outputs:
        name = draft.constant(array, f"{output}/constant")
        draft.emit("Identity", [name], output, shape=array.shape, output=output, name=node.name)
    else:
        draft.constants[output] = array
        draft.types[output] = draft.model.type_of(output)


#: Operators, besides those that move elements, that hand on the integers of a constant.
_OF_CONSTANTS = ("QuantizeLinear", "DequantizeLinear", "Clip", "Cast", "Gather")


def weights_only(model: Model) -> bool:
    """Whether no computed tensor is quantised statically: where integers stand, they are constants, or
    DynamicQuantizeLinear makes them."""
    made: set[str] = set()
    for node in model.nodes:
        first = node.inputs[0] if node.inputs else ""
        if node.op_type.startswith("QLinear") or node.op_type in ("QGemm", "QAttention"):
            return False
        constant = first in model.constants or first in made
        if constant and node.op_type in (*_OF_CONSTANTS, *MOVES):
            made.update(node.outputs)
        elif node.op_type == "Constant":
            made.update(node.outputs)
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return False
        elif node.op_type in ("MatMulInteger", "ConvInteger", "MatMulIntegerToFloat"):
            maker = model.producer.get(first)
            if maker is None or maker.op_type != "DynamicQuantizeLinear":
                return False
    return True


def dequantise_weights(model: Model) -> Model:
    """The model with float constants instead of DequantizeLinear of constants.

    Requires a model of which `weights_only` holds; its weights are quantised again with the activations.
    Ensures that rows which a Gather takes of a constant of integers are taken of a float constant.
    """
    return rewrite(model, dict.fromkeys(DEQUANTISE, _dequantised))


def _dequantised(draft: Draft, node: Node) -> bool:
    if node.attrs.get("output_dtype", 0) not in (0, FLOAT):
        return False
    weights = weights_of(draft, node)
    if weights is not None:
        _constant_instead(draft, node, _real(weights))
        return True
    maker = draft.model.producer.get(node.inputs[0])
    if maker is None or maker.op_type != "Gather" or maker.domain or draft.array(maker.inputs[0]) is None:
        return False
    # One scale for all rows.
    table = weights_of(draft, Node("", "", (maker.inputs[0], *node.inputs[1:]), (), "", {}))
    if table is None or table.scale.size != 1:
        return False
    name = draft.constant(_real(table), f"{maker.inputs[0]}/float")
    output, shape = node.outputs[0], draft.type_of(node.outputs[0]).shape
    inputs = [name, maker.inputs[1]]
    draft.emit("Gather", inputs, output, shape=shape, output=output, name=node.name, **maker.attrs)
    return True


def _real(weights: Weights) -> np.ndarray:
    """The numbers that integers stand for, float32."""
    with np.errstate(over="ignore"):
        array = weights.steps.astype(np.float32) * weights.along(weights.scale)
    return np.asarray(array.reshape(weights.ints.shape))
