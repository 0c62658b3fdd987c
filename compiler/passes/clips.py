"""Clip on integers, as quantisers state formats of less than 8 bits, in front of QuantizeLinear."""

from __future__ import annotations

import numpy as np

from systolith.compiler.base.model import Model, Node
from systolith.compiler.passes.constants import MOVES
from systolith.compiler.passes.drafts import MICROSOFT, Draft, rewrite, sole_reader

__all__ = ["clip_before_quantising"]


def clip_before_quantising(model: Model) -> Model:
    """The model with Clips of a QuantizeLinear's integers in front of it, on the numbers that they stand for.

    Requires constant limits, scale and zero point. Ensures the same integers: a multiple of the scale is
    quantised to itself. A Clip stays where the limit in float is no such multiple, where something else
    reads the integers, and behind an input or a DequantizeLinear, where no operator's result could be
    limited on the way.
    """
    return rewrite(model, {("", "Clip"): _clip})


def _clip(draft: Draft, node: Node) -> bool:
    model = draft.model
    maker = model.producer.get(node.inputs[0])
    if (
        maker is None
        or maker.op_type != "QuantizeLinear"
        or maker.domain not in ("", MICROSOFT)
        or sole_reader(model, node.inputs[0]) is not node
        or not _computed(model, maker.inputs[0])
    ):
        return False
    scale = draft.array(maker.inputs[1])
    named = len(maker.inputs) > 2 and maker.inputs[2]
    zero = draft.array(maker.inputs[2]) if named else np.zeros((), np.uint8)
    if scale is None or zero is None or scale.size != 1 or zero.size != 1 or scale.dtype != np.float32:
        return False
    if zero.dtype not in (np.int8, np.uint8):
        return False
    operands = [maker.inputs[0]]
    for index in (1, 2):
        name = node.inputs[index] if len(node.inputs) > index else ""
        limit = draft.array(name) if name else None
        if name and (limit is None or limit.size != 1):
            return False
        if limit is None:
            operands.append("")
            continue
        steps = np.float32(int(limit.item()) - int(zero.item()))
        with np.errstate(all="ignore"):
            real = steps * scale.reshape(())
            if not np.isfinite(real) or np.rint(real / scale.reshape(())) != steps:
                return False
        operands.append(draft.constant(np.array(real, np.float32), f"{node.name}/limit"))
    while not operands[-1]:
        operands.pop()
    shape = draft.type_of(node.outputs[0]).shape
    clipped = draft.emit("Clip", operands, f"{node.name}/float", shape=shape, name=node.name)
    draft.dropped.add(maker.name)
    inputs = (clipped, *maker.inputs[1:])
    draft.nodes.append(Node(maker.name, maker.op_type, inputs, node.outputs, maker.domain, maker.attributes))
    return True


def _computed(model: Model, name: str) -> bool:
    """Whether an operator that computes gives a tensor, whatever moves it then."""
    maker = model.producer.get(name)
    while maker is not None and maker.op_type in MOVES and not maker.domain:
        maker = model.producer.get(maker.inputs[0])
    return maker is not None and maker.op_type != "DequantizeLinear"
