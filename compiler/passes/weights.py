"""Constants behind DequantizeLinear: whatever exporters put between and around them becomes one
DequantizeLinear of int8 with zero point 0, or a float constant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from systolith.compiler.model import Model, Node
from systolith.compiler.passes.drafts import FLOAT, MICROSOFT, Draft, rewrite
from systolith.compiler.passes.qoperators import linear_domain

__all__ = [
    "dequantise_weights",
    "fold_constants",
    "move_weights",
    "narrow_weights",
    "symmetric_weights",
    "weights_only",
]

_DEQUANTISE = (("", "DequantizeLinear"), (MICROSOFT, "DequantizeLinear"))
_QUANTISE = (("", "QuantizeLinear"), (MICROSOFT, "QuantizeLinear"))


@dataclass(frozen=True, eq=False)
class _Weights:
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


def _weights(draft: Draft, node: Node) -> _Weights | None:
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
    return _Weights(ints, scale, zero, axis % ints.ndim if ints.ndim else 0)


def _write(draft: Draft, weights: _Weights, node: Node, label: str, output: str = "") -> str:
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


# Constants.


def fold_constants(model: Model) -> Model:
    """The model with constants instead of Constant nodes, and of integers that are made of constants.

    Ensures that a QuantizeLinear of a constant, and a Clip or movement of constant integers, are constants,
    where scale and zero point are too.
    """
    rules = dict.fromkeys(_QUANTISE, _quantised)
    rules |= {("", kind): _moved_integers for kind in _MOVES} | {("", "Clip"): _clipped_integers}
    return _until_same(model, lambda model: _fold(model, {("", "Constant"): _constant, **rules}))


def _until_same(model: Model, step: Callable[[Model], Model]) -> Model:
    while (result := step(model)) is not model:
        model = result
    return model


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
    return None if value is None else onnx.numpy_helper.to_array(value)


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
    return np.clip(steps + spread, limits.min, limits.max).astype(zero.dtype)


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
    move = _move(model, node, x.shape)
    return None if move is None else move(x)


# Movement.

_Move = Callable[[np.ndarray], np.ndarray]


def _move(model: Model, node: Node, shape: tuple[int, ...]) -> _Move | None:
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


_MOVES = ("Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def move_weights(model: Model) -> Model:
    """The model with movements of dequantised constants done on their integers.

    Requires constants as `fold_constants` leaves them. Ensures that a Reshape, Squeeze, Unsqueeze, Transpose,
    Flatten or Identity of a DequantizeLinear's constant is a DequantizeLinear of a constant, its axis
    following; a movement that would need scales along several axes stays.
    """
    rules = {("", kind): _moved_weights for kind in _MOVES}
    return _until_same(model, lambda model: rewrite(model, rules))


def _moved_weights(draft: Draft, node: Node) -> bool:
    maker = draft.model.producer.get(node.inputs[0])
    if maker is None or (maker.domain, maker.op_type) not in _DEQUANTISE or len(node.outputs) != 1:
        return False
    weights = _weights(draft, maker)
    move = None if weights is None else _move(draft.model, node, weights.ints.shape)
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
    result = _Weights(np.ascontiguousarray(ints), scale, zero, axis)
    _write(draft, result, node, label, node.outputs[0])
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
    return rewrite(model, dict.fromkeys(_DEQUANTISE, _narrowed))


def _narrowed(draft: Draft, node: Node) -> bool:
    ints = draft.array(node.inputs[0])
    if ints is None:
        return False
    narrow = ints.dtype.name in ("int2", "uint2", "int4", "uint4")
    if node.attrs.get("block_size", 0):
        return _blocks(draft, node, ints)
    if not narrow:
        return False
    plain = _weights(draft, node)
    if plain is None:
        return False
    steps = plain.steps.astype(np.int8)
    result = _Weights(steps, plain.scale, np.zeros(plain.zero.shape, np.int8), plain.axis)
    _write(draft, result, node, f"{node.inputs[0]}/int8", node.outputs[0])
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


def weights_only(model: Model) -> bool:
    """Whether no computed tensor is quantised statically: where integers stand, they are constants, or
    DynamicQuantizeLinear makes them."""
    made: set[str] = set()
    for node in model.nodes:
        first = node.inputs[0] if node.inputs else ""
        if node.op_type.startswith("QLinear") or node.op_type in ("QGemm", "QAttention"):
            return False
        constant = first in model.constants or first in made
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", *_MOVES, "Clip", "Cast") and constant:
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
    """
    return rewrite(model, dict.fromkeys(_DEQUANTISE, _dequantised))


def _dequantised(draft: Draft, node: Node) -> bool:
    weights = _weights(draft, node)
    if weights is None:
        return False
    kind = node.attrs.get("output_dtype", 0)
    if kind not in (0, FLOAT):
        return False
    with np.errstate(over="ignore"):
        array = weights.steps.astype(np.float32) * weights.along(weights.scale)
    _constant_instead(draft, node, array.reshape(weights.ints.shape))
    return True


# Zero points.


def symmetric_weights(model: Model) -> Model:
    """The model with weights of zero point 0, or of 128 where they are uint8, in Conv, ConvTranspose, Gemm
    and MatMul.

    Requires constants as `move_weights` leaves them, of which no weight is less than int8. Ensures the same
    sums, exactly: where the integers without their zero point fit int8, they are the weights; where they do
    not, they are the sum of several int8 weights, and the activation's channels are taken once for each.
    """
    kinds = ("Conv", "ConvTranspose", "Gemm", "MatMul")
    return rewrite(model, {("", kind): _symmetric for kind in kinds})


def _symmetric(draft: Draft, node: Node) -> bool:
    index = 1
    maker = draft.model.producer.get(node.inputs[index])
    if maker is None or (maker.domain, maker.op_type) not in _DEQUANTISE:
        return False
    weights = _weights(draft, maker)
    if weights is None or weights.ints.dtype not in (np.int8, np.uint8):
        return False
    usual = 128 if weights.ints.dtype == np.uint8 else 0
    if np.all(weights.zero == usual):
        return False
    steps, label = weights.steps, f"{node.name}/{maker.inputs[0]}"
    zero = np.zeros(weights.zero.shape, np.int8)
    operands = list(node.inputs)
    if not (steps.min() < -128 or steps.max() > 127):
        plain = _Weights(steps.astype(np.int8), weights.scale, zero, weights.axis)
        operands[1] = _write(draft, plain, _named(maker, f"{label}/dequantise"), label)
    elif not _split(draft, node, operands, steps, weights, zero, label):
        return False
    draft.nodes.append(
        Node(node.name, node.op_type, tuple(operands), node.outputs, node.domain, node.attributes)
    )
    return True


def _named(node: Node, name: str) -> Node:
    return Node(name, node.op_type, node.inputs, node.outputs, node.domain, node.attributes)


def _split(
    draft: Draft,
    node: Node,
    operands: list[str],
    steps: np.ndarray,
    weights: _Weights,
    zero: np.ndarray,
    label: str,
) -> bool:
    """Weights as a sum of int8, one behind the other along the inputs' axis, and the activation's channels
    to match; False where the activation is not quantised, so that the node stays."""
    axes = _input_axes(draft, node, steps.ndim)
    if axes is None:
        return False
    of_weights, of_x = axes
    if weights.scale.size > 1 and weights.axis == of_weights % steps.ndim:
        return False
    group = node.attrs.get("group", 1) if node.op_type.startswith("Conv") else 1
    parts, rest = [], steps
    while np.any(rest):
        part = np.clip(rest, -127, 127)
        parts.append(part.astype(np.int8))
        rest = rest - part
    # Channels of a group stand side by side in x; ConvTranspose has those of all groups on one axis.
    extent = steps.shape[of_weights]
    per_group = extent // group if node.op_type == "ConvTranspose" else extent
    channels = per_group * group
    blocks = np.arange(channels).reshape(group, 1, per_group).repeat(len(parts), 1).reshape(-1)
    if node.op_type == "ConvTranspose":
        joined = np.concatenate(
            [
                part.take(range(at * per_group, (at + 1) * per_group), of_weights)
                for at in range(group)
                for part in parts
            ],
            of_weights,
        )
    else:
        joined = np.concatenate(parts, of_weights)
    x = _repeated(draft, node, operands[0], of_x, blocks)
    if x is None:
        return False
    operands[0] = x
    result = _Weights(joined, weights.scale, zero, weights.axis)
    maker = _named(node, f"{label}/dequantise")
    operands[1] = _write(draft, result, maker, label)
    return True


def _input_axes(draft: Draft, node: Node, rank: int) -> tuple[int, int] | None:
    """The axes of the weights and of the activation along which a node sums; None where they are unknown."""
    if node.op_type == "Conv":
        return 1, 1
    if node.op_type == "ConvTranspose":
        return 0, 1
    if node.op_type == "Gemm":
        return (1 if node.attrs.get("transB", 0) else 0), (0 if node.attrs.get("transA", 0) else 1)
    shape = draft.type_of(node.inputs[0]).shape
    return None if rank < 2 or not shape else (rank - 2, len(shape) - 1)


def _repeated(draft: Draft, node: Node, x: str, axis: int, index: np.ndarray) -> str | None:
    """The quantised activation `x` with these indices of an axis, chosen among its integers."""
    maker = draft.model.producer.get(x)
    if maker is None or (maker.domain, maker.op_type) not in _DEQUANTISE:
        return None
    known = draft.type_of(maker.inputs[0])
    shape = known.shape
    if shape is not None:
        shape = tuple(len(index) if at == axis else extent for at, extent in enumerate(shape))
    indices = draft.constant(index.astype(np.int64), f"{node.name}/channels")
    taken = draft.emit(
        "Gather",
        [maker.inputs[0], indices],
        f"{node.name}/repeated",
        element=known.element,
        shape=shape,
        axis=axis,
    )
    return draft.emit(
        "DequantizeLinear",
        [taken, *maker.inputs[1:]],
        f"{node.name}/repeated/float",
        shape=shape,
        name=f"{node.name}/repeated/dequantise",
        domain=maker.domain,
        **maker.attrs,
    )
