"""Weights with a zero point as weights without one, with the same sums."""

from __future__ import annotations

import numpy as np

from systolith.compiler.base.model import Model, Node
from systolith.compiler.passes.drafts import Draft, rewrite
from systolith.compiler.passes.weights import DEQUANTISE, Weights, weights_of, write_weights

__all__ = ["symmetric_weights"]


def symmetric_weights(model: Model) -> Model:
    """The model with weights of zero point 0, or of 128 where they are uint8, in Conv, ConvTranspose, Gemm
    and MatMul.

    Requires constants as `move_weights` leaves them, of 8 bits, on either side. Ensures the same sums,
    exactly: where the integers without their zero point fit int8, they are the weights; where they do not,
    they are the sum of several int8 weights, and the activation's channels are taken once for each. That
    multiplies the products; half the resolution could miss by two steps. Weights stay whose activation
    is not quantised.
    """
    kinds = ("Conv", "ConvTranspose", "Gemm", "MatMul")
    return rewrite(model, {("", kind): _symmetric for kind in kinds})


def _symmetric(draft: Draft, node: Node) -> bool:
    # Only products of matrices may have their weights on the left.
    for index in (1,) if node.op_type.startswith("Conv") else (1, 0):
        maker = draft.model.producer.get(node.inputs[index])
        if maker is None or (maker.domain, maker.op_type) not in DEQUANTISE:
            continue
        weights = weights_of(draft, maker)
        if weights is not None and weights.ints.dtype in (np.int8, np.uint8) and weights.ints.size:
            return _written(draft, node, index, weights, maker)
    return False


def _written(draft: Draft, node: Node, index: int, weights: Weights, maker: Node) -> bool:
    """The node with its weights, operand `index`, without a zero point; False where they have none."""
    usual = 128 if weights.ints.dtype == np.uint8 else 0
    if np.all(weights.zero == usual):
        return False
    steps, label = weights.steps, f"{node.name}/{maker.inputs[0]}"
    operands = list(node.inputs)
    if steps.min() < -128 or steps.max() > 127:
        axes = _summed_axes(draft, node, index, steps.ndim)
        if axes is None or (weights.scale.size > 1 and weights.axis == axes[0]):
            return False
        group = node.attrs.get("group", 1) if node.op_type.startswith("Conv") else 1
        # A Conv's weights have the channels of one group on this axis, a ConvTranspose's those of all.
        groups = group if node.op_type == "ConvTranspose" else 1
        width = steps.shape[axes[0]] // groups
        count = -(-int(np.abs(steps).max()) // 127)
        channels = np.arange(width * group).reshape(group, 1, width).repeat(count, 1).reshape(-1)
        x = _repeated(draft, node, operands[1 - index], axes[1], channels)
        if x is None:
            return False
        operands[1 - index] = x
        steps = _parts(steps, axes[0], groups, count)
    zero = np.zeros(weights.zero.shape, np.int8)
    plain = Weights(steps.astype(np.int8), weights.scale, zero, weights.axis)
    named = Node(f"{label}/dequantise", maker.op_type, maker.inputs, maker.outputs)
    operands[index] = write_weights(draft, plain, named, label)
    draft.nodes.append(
        Node(node.name, node.op_type, tuple(operands), node.outputs, node.domain, node.attributes)
    )
    return True


def _parts(steps: np.ndarray, axis: int, groups: int, count: int) -> np.ndarray:
    """Weights as sums of `count` numbers from -127 to 127, which stand one behind the other along an axis, in
    each of its groups."""
    rest, parts = steps, []
    for _ in range(count):
        parts.append(np.clip(rest, -127, 127))
        rest = rest - parts[-1]
    split = [np.split(part, groups, axis) for part in parts]
    return np.concatenate([part for group in zip(*split, strict=True) for part in group], axis)


def _summed_axes(draft: Draft, node: Node, index: int, rank: int) -> tuple[int, int] | None:
    """The axes of the weights, operand `index`, and of the activation along which a node sums; None where
    they are unknown."""
    if node.op_type == "Conv":
        return 1, 1
    if node.op_type == "ConvTranspose":
        return 0, 1
    if node.op_type == "Gemm":
        flipped = [bool(node.attrs.get(name, 0)) for name in ("transA", "transB")]
        axes = [0 if flipped[0] else 1, 1 if flipped[1] else 0]
        return axes[index], axes[1 - index]
    shape = draft.type_of(node.inputs[1 - index]).shape
    if rank < 2 or shape is None or len(shape) < 2:
        return None
    return (rank - 2, len(shape) - 1) if index else (rank - 1, len(shape) - 2)


def _repeated(draft: Draft, node: Node, x: str, axis: int, index: np.ndarray) -> str | None:
    """The quantised activation `x` with these indices of an axis, chosen among its integers."""
    maker = draft.model.producer.get(x)
    if maker is None or (maker.domain, maker.op_type) not in DEQUANTISE:
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
