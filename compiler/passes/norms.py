"""BatchNormalization in float becomes part of the weighted sum in front of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from systolith.compiler.base.errors import QuantiseError
from systolith.compiler.base.model import Model, Node
from systolith.compiler.passes.drafts import Draft, rewrite, sole_reader, until_same

__all__ = ["fold_norms"]


def fold_norms(model: Model) -> Model:
    """The model without BatchNormalization behind a Conv, ConvTranspose, Gemm or MatMul of float weights.

    Requires constant weights, biases and statistics, and that nothing else reads what is between. Ensures
    that the weighted operator keeps its name and gives the normalised result; a MatMul is followed by an Add.

    Raises
    ------
    QuantiseError   Where the statistics give numbers that float32 cannot hold.
    """
    return until_same(model, lambda model: rewrite(model, {("", "BatchNormalization"): _fold}))


@dataclass(frozen=True)
class _Affine:
    """``(x - mean) * factor + offset`` per channel, float64."""

    mean: np.ndarray
    factor: np.ndarray
    offset: np.ndarray


def _affine(draft: Draft, node: Node) -> _Affine | None:
    """What a BatchNormalization does; None where it is not constant, or gives its statistics too."""
    arrays = [draft.array(name) for name in node.inputs[1:5]]
    known = [array.astype(np.float64) for array in arrays if array is not None]
    if (
        len(known) != 4
        or len([name for name in node.outputs if name]) != 1
        or node.attrs.get("training_mode", 0)
        or node.attrs.get("spatial", 1) != 1
        or known[0].ndim != 1
        or any(array.shape != known[0].shape for array in known)
    ):
        return None
    scale, offset, mean, variance = known
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
        return _Affine(mean, factor, offset)


def _float32(node: Node, array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        result = array.astype(np.float32)
    if not np.all(np.isfinite(result)):
        raise QuantiseError(
            "quantise",
            node.name,
            f"scale, mean and variance of {node.op_type} give NaN or infinity",
            "train or export the model again",
        )
    return result


def _fold(draft: Draft, node: Node) -> bool:
    model = draft.model
    affine, maker = _affine(draft, node), model.producer.get(node.inputs[0])
    if affine is None or maker is None or maker.domain or sole_reader(model, node.inputs[0]) is not node:
        return False
    gone, bias = [maker.name], None
    if maker.op_type == "Add":
        # A dense layer is a MatMul and the Add of its bias; some exporters write a Conv so too.
        index = next((at for at in (0, 1) if draft.array(maker.inputs[at]) is not None), None)
        if index is None:
            return False
        bias = draft.array(maker.inputs[index])
        product = maker.inputs[1 - index]
        if sole_reader(model, product) is not maker:
            return False
        rank = len(draft.type_of(product).shape or ())
        maker = model.producer.get(product)
        if maker is None or maker.domain or len(maker.inputs) > 2 or maker.op_type == "Gemm":
            return False
        bias = None if bias is None else _per_channel(bias, rank)
        if bias is None:
            return False
        gone.append(maker.name)
    if maker.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return False
    weights = draft.array(maker.inputs[1])
    if weights is None or weights.dtype != np.float32:
        return False
    new = _folded(draft, maker, weights, bias, affine)
    if new is None or any(name in draft.dropped for name in gone):
        return False
    labels = [
        draft.constant(_float32(node, array), f"{maker.name}/{node.name}/{kind}")
        for kind, array in zip(("weights", "bias"), new, strict=True)
    ]
    draft.dropped.update(gone)
    attributes = dict(maker.attributes)
    attributes.pop("beta", None)
    output, shape = node.outputs[0], draft.type_of(node.outputs[0]).shape
    if maker.op_type == "MatMul":
        made = draft.emit(
            "MatMul", [maker.inputs[0], labels[0]], f"{maker.name}/product", shape=shape, name=maker.name
        )
        draft.emit("Add", [made, labels[1]], output, shape=shape, output=output, name=node.name)
        return True
    draft.types[output] = model.type_of(output)
    operands = (maker.inputs[0], *labels)
    draft.nodes.append(Node(maker.name, maker.op_type, operands, (output,), "", attributes))
    return True


def _per_channel(bias: np.ndarray, rank: int) -> np.ndarray | None:
    """What is added to a tensor of `rank` axes as one number per index of axis 1, or one for all; None where
    it differs along another."""
    if bias.ndim > rank or rank < 2:
        return None
    full = bias.reshape((1,) * (rank - bias.ndim) + bias.shape)
    if full.size not in (1, full.shape[1]):
        return None
    vector: np.ndarray = full.reshape(-1) if full.size > 1 else full.reshape(())
    return vector


def _folded(
    draft: Draft, maker: Node, weights: np.ndarray, bias: np.ndarray | None, affine: _Affine
) -> tuple[np.ndarray, np.ndarray] | None:
    """Weights and bias with the affine map inside, float64; None where their shapes do not fit it."""
    channels = len(affine.factor)
    stated = maker.inputs[2] if len(maker.inputs) > 2 else ""
    if stated:
        bias = draft.array(stated)
        if bias is None:
            return None
    old = np.zeros(()) if bias is None else bias.astype(np.float64)
    if maker.op_type == "Gemm":
        old = old * maker.attrs.get("beta", 1.0)
    if old.ndim > 1 or maker.op_type in ("Gemm", "MatMul"):
        if maker.op_type not in ("Gemm", "MatMul") or len(draft.type_of(maker.outputs[0]).shape or ()) != 2:
            return None
        if old.size not in (1, channels) or (old.ndim and old.size != old.shape[-1]):
            return None
        old = old.reshape(-1)
    elif old.shape not in ((), (channels,)):
        # ONNX Runtime refuses it, and says why.
        return None
    real = weights.astype(np.float64)
    if maker.op_type == "ConvTranspose":
        group = maker.attrs.get("group", 1)
        if real.ndim < 3 or real.shape[1] * group != channels or real.shape[0] % group:
            return None
        grouped = real.reshape(group, -1, *real.shape[1:])
        factor = affine.factor.reshape(group, 1, -1, *[1] * (real.ndim - 2))
        with np.errstate(all="ignore"):
            scaled = (grouped * factor).reshape(real.shape)
    else:
        axis = 0 if maker.op_type == "Conv" or maker.attrs.get("transB", 0) else 1
        if real.ndim < 2 or real.shape[axis] != channels:
            return None
        along = [1] * real.ndim
        along[axis] = -1
        with np.errstate(all="ignore"):
            scaled = real * affine.factor.reshape(along)
    with np.errstate(all="ignore"):
        return scaled, np.broadcast_to((old - affine.mean) * affine.factor + affine.offset, (channels,))
