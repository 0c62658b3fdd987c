"""Weights with a zero point as weights without one, with the same sums."""

from __future__ import annotations

import numpy as np

from systolith.compiler.model import Model, Node
from systolith.compiler.passes.drafts import Draft, rewrite
from systolith.compiler.passes.weights import DEQUANTISE, Weights, weights_of, write_weights

__all__ = ["symmetric_weights"]


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
    if maker is None or (maker.domain, maker.op_type) not in DEQUANTISE:
        return False
    weights = weights_of(draft, maker)
    if weights is None or weights.ints.dtype not in (np.int8, np.uint8):
        return False
    usual = 128 if weights.ints.dtype == np.uint8 else 0
    if np.all(weights.zero == usual):
        return False
    steps, label = weights.steps, f"{node.name}/{maker.inputs[0]}"
    zero = np.zeros(weights.zero.shape, np.int8)
    operands = list(node.inputs)
    if not (steps.min() < -128 or steps.max() > 127):
        plain = Weights(steps.astype(np.int8), weights.scale, zero, weights.axis)
        operands[1] = write_weights(draft, plain, _named(maker, f"{label}/dequantise"), label)
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
    weights: Weights,
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
    result = Weights(joined, weights.scale, zero, weights.axis)
    maker = _named(node, f"{label}/dequantise")
    operands[1] = write_weights(draft, result, maker, label)
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
