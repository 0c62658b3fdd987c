"""Convolutions in one dimension that exporters write in two."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx

from systolith.compiler.base.model import Model, Node, TensorType
from systolith.compiler.passes.drafts import Draft, rewrite, sole_reader, until_same

__all__ = ["unwrap_convolutions"]

#: Operators that treat every element alike, where their other operands are single numbers.
_ALIKE = ("Clip", "DequantizeLinear", "LeakyRelu", "QuantizeLinear", "Relu", "Sigmoid", "Tanh")


def unwrap_convolutions(model: Model) -> Model:
    """The model with a Conv in one dimension instead of three steps: an axis of extent 1 is added to
    [N, C, L], a Conv in two dimensions passes it on, and it is removed.

    Requires the ranks of the tensors between, and the shape of the weights. Operators that treat every
    element alike, those of quantisation among them, may stand between the steps; nothing else may read what
    is between. Ensures that the nodes that stay keep their names.
    """
    return until_same(model, lambda model: rewrite(model, {("", "Conv"): _unwrap}))


def _unwrap(draft: Draft, node: Node) -> bool:
    model = draft.model
    before = _walk(draft, node.inputs[0], lambda name: model.producer.get(name), lambda one: one.inputs[0])
    behind = _walk(draft, node.outputs[0], lambda name: sole_reader(model, name), lambda one: one.outputs[0])
    if not before or not behind:
        return False
    *first, wrap = before
    *then, unwrap = behind
    axis = _added(draft, wrap, ("Unsqueeze", "Reshape"), wrap.inputs[0], wrap.outputs[0])
    kernel = draft.type_of(node.inputs[1]).extents
    if (
        axis is None
        or axis != _added(draft, unwrap, ("Squeeze", "Reshape"), unwrap.outputs[0], unwrap.inputs[0])
        or kernel is None
        or len(kernel) != 4
        or kernel[axis] != 1
        or any(sole_reader(model, name) is None for name in (wrap.outputs[0], node.inputs[0]))
    ):
        return False
    attributes = _flat(node, axis - 2)
    if attributes is None:
        return False
    draft.dropped.update(one.name for one in (*before, *behind))
    shape = (*kernel[:axis], *kernel[axis + 1 :])
    weights = draft.array(node.inputs[1])
    if weights is not None:
        flat = draft.constant(weights.reshape(shape), f"{node.name}/{node.inputs[1]}")
    else:
        wanted = draft.constant(np.array(shape, np.int64), f"{node.name}/kernel")
        flat = draft.emit("Reshape", [node.inputs[1], wanted], f"{node.name}/weights", shape=shape)
    # From here on every tensor has its old name, and one axis less.
    renamed = {wrap.outputs[0]: wrap.inputs[0], unwrap.inputs[0]: unwrap.outputs[0]}
    conv = Node(node.name, "Conv", (node.inputs[0], flat, *node.inputs[2:]), node.outputs, "", attributes)
    for one in (*first[::-1], conv, *then):
        inputs, outputs = (
            tuple(renamed.get(name, name) for name in names) for names in (one.inputs, one.outputs)
        )
        draft.nodes.append(Node(one.name, one.op_type, inputs, outputs, one.domain, one.attributes))
        known = draft.type_of(one.outputs[0])
        short = None if known.shape is None else (*known.shape[:axis], *known.shape[axis + 1 :])
        if outputs[0] != unwrap.outputs[0]:
            draft.types[outputs[0]] = TensorType(known.element, short)
    return True


def _walk(
    draft: Draft, name: str, step: Callable[[str], Node | None], across: Callable[[Node], str]
) -> list[Node]:
    """The nodes from a tensor on, up to one that is not alike for all elements, which is the last."""
    found: list[Node] = []
    while (node := step(name)) is not None:
        found.append(node)
        others = [draft.array(other) for other in node.inputs[1:] if other]
        alike = node.op_type in _ALIKE and len(node.outputs) == 1
        if not alike or any(array is None or array.size != 1 for array in others):
            return found
        if sole_reader(draft.model, node.inputs[0]) is None and across(node) == node.inputs[0]:
            return []
        name = across(node)
    return []


def _added(draft: Draft, node: Node, kinds: Iterable[str], short: str, long: str) -> int | None:
    """The axis, 2 or 3, that a node adds to a tensor of three axes, or removes from one of four."""
    three, four = draft.type_of(short).shape, draft.type_of(long).shape
    if node.op_type not in kinds or node.domain or three is None or four is None:
        return None
    if len(three) != 3 or len(four) != 4:
        return None
    stated: list[int] = list(node.attrs.get("axes", ()))
    if not stated and node.op_type != "Reshape" and len(node.inputs) > 1:
        array = draft.array(node.inputs[1])
        stated = [] if array is None else [int(axis) for axis in array.reshape(-1)]
    if len(stated) == 1:
        axis = stated[0] % 4
        return axis if axis in (2, 3) else None
    if None in three or None in four:
        return None
    return next((axis for axis in (2, 3) if four == (*three[:axis], 1, *three[axis:])), None)


def _flat(node: Node, at: int) -> dict[str, onnx.AttributeProto] | None:
    """The attributes without spatial axis `at`; None where the Conv would do something along it."""
    if node.attrs.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID", b"SAME_UPPER", b"SAME_LOWER"):
        return None
    result = dict(node.attributes)
    for name in ("kernel_shape", "strides", "dilations", "pads"):
        if name not in node.attrs:
            continue
        values = list(node.attrs[name])
        along = [values[at], values[at + 2]] if name == "pads" else [values[at]]
        if (name == "pads" and any(along)) or (name == "kernel_shape" and along != [1]):
            return None
        kept = [value for index, value in enumerate(values) if index % 2 != at]
        result[name] = onnx.helper.make_attribute(name, kept)
    return result
