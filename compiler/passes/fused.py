"""Microsoft's fused operators as the operators of ONNX that they join."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx

from systolith.compiler.base.model import Model, Node, TensorType
from systolith.compiler.passes.drafts import FLOAT, MICROSOFT, Draft, Rule, rewrite, transposed

__all__ = ["own_domain", "split_fused"]

#: Activations of FusedConv and FusedGemm: the attributes that their parameters are, with ONNX's defaults.
_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "HardSwish": (),
}
#: Opset that brought Microsoft's operators of the same meaning into ONNX.
_ADOPTED = {"QuantizeLinear": 13, "DequantizeLinear": 13}
#: Element types that ONNX's QuantizeLinear and DequantizeLinear have known from the start.
_EIGHT_BITS = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)


def own_domain(model: Model) -> Model:
    """The model with ONNX's QuantizeLinear and DequantizeLinear instead of Microsoft's.

    Ensures it where the model's opset has them with an axis (13), and for 8 bits; a DequantizeLinear of int32
    is ONNX's too.
    """
    return rewrite(model, {(MICROSOFT, kind): _adopt for kind in _ADOPTED})


def _adopt(draft: Draft, node: Node) -> bool:
    quantises = node.op_type == "QuantizeLinear"
    zero = node.inputs[2] if len(node.inputs) > 2 else ""
    name = (node.outputs[0] if not zero else zero) if quantises else node.inputs[0]
    element = draft.type_of(name).element
    eight = element in _EIGHT_BITS or (element == onnx.TensorProto.INT32 and not quantises)
    if draft.model.opset < _ADOPTED[node.op_type] and not (draft.model.opset >= 10 and not node.attributes):
        return False
    if not eight and draft.model.opset < 21:
        return False
    draft.nodes.append(Node(node.name, node.op_type, node.inputs, node.outputs, "", node.attributes))
    return True


def split_fused(model: Model) -> Model:
    """The model with several operators of ONNX instead of each of Microsoft's fused ones.

    Requires known ranks for FusedMatMul and NhwcMaxPool. Ensures that the first of the operators that
    compute keeps the node's name. A node stays whose activation ONNX does not have, or whose statistics
    something reads.
    """
    rules: dict[str, Rule] = {
        "FusedConv": _conv,
        "FusedGemm": _gemm,
        "FusedMatMul": _matmul,
        "TransposeMatMul": _matmul,
        "Gelu": _gelu,
        "BiasGelu": _gelu,
        "FastGelu": _gelu,
        "NhwcMaxPool": _max_pool,
        "SkipLayerNormalization": _skip_norm,
        "MatMulNBits": _packed_matmul,
    }
    return rewrite(model, {(MICROSOFT, kind): rule for kind, rule in rules.items()})


class _Chain:
    """Nodes one behind the other, the last of which gives the fused node's result."""

    def __init__(self, draft: Draft, node: Node) -> None:
        self.draft, self.node = draft, node
        self.type = draft.type_of(node.outputs[0])
        self.element = self.type.element or draft.type_of(node.inputs[0]).element or FLOAT

    def add(
        self,
        op_type: str,
        *inputs: str,
        last: bool = False,
        first: bool = False,
        shape: tuple[int | None, ...] | None = None,
        **attributes: Any,
    ) -> str:
        """A node; `first` takes the fused node's name. Of shape `shape`, by default that of the result."""
        node, label = self.node, f"{self.node.name}/{op_type.lower()}"
        return self.draft.emit(
            op_type,
            inputs,
            label,
            element=self.element,
            shape=self.type.shape if shape is None else shape,
            output=node.outputs[0] if last else "",
            name=node.name if first else label,
            **attributes,
        )

    def number(self, value: float) -> str:
        """A scalar constant of the result's type."""
        kind = TensorType(self.element).dtype
        return self.draft.constant(np.array(value, kind), f"{self.node.name}/number")


def _activation(node: Node, parameters: list[float]) -> tuple[str, dict[str, Any]] | None:
    """Operator and attributes of a fused activation; '' for none, None for one that ONNX does not have."""
    kind = node.attrs.get("activation", b"").decode()
    if kind in ("", "Clip"):
        return (kind, {}) if not kind or len(parameters) == 2 else None
    if kind not in _ACTIVATIONS:
        return None
    names = _ACTIVATIONS[kind]
    return kind, dict(zip(names, parameters, strict=False))


def _activate(chain: _Chain, made: tuple[str, dict[str, Any]], x: str, parameters: list[float]) -> None:
    kind, attributes = made
    if kind != "Clip":
        chain.add(kind, x, last=True, **attributes)
    elif chain.draft.model.opset < 11:
        low, high = parameters
        chain.add("Clip", x, last=True, min=low, max=high)
    else:
        chain.add("Clip", x, *(chain.number(limit) for limit in parameters), last=True)


def _conv(draft: Draft, node: Node) -> bool:
    """Conv, a tensor that is added, and an activation."""
    parameters = list(node.attrs.get("activation_params", ()))
    activation = _activation(node, parameters)
    if activation is None:
        return False
    names = (*node.inputs, "", "")
    attributes = {
        name: value for name, value in node.attrs.items() if name not in ("activation", "activation_params")
    }
    chain, added = _Chain(draft, node), names[3]
    operands = [name for name in names[:3] if name]
    x = chain.add("Conv", *operands, first=True, last=not activation[0] and not added, **attributes)
    if added:
        x = chain.add("Add", x, added, last=not activation[0])
    if activation[0]:
        _activate(chain, activation, x, parameters)
    return True


def _gemm(draft: Draft, node: Node) -> bool:
    parameters = [
        node.attrs[name]
        for name in ("activation_alpha", "activation_beta", "activation_gamma")
        if name in node.attrs
    ]
    activation = _activation(node, parameters)
    if activation is None:
        return False
    attributes = {name: value for name, value in node.attrs.items() if not name.startswith("activation")}
    chain = _Chain(draft, node)
    operands = [name for name in node.inputs if name]
    x = chain.add("Gemm", *operands, first=True, last=not activation[0], **attributes)
    if activation[0]:
        _activate(chain, activation, x, parameters)
    return True


def _matmul(draft: Draft, node: Node) -> bool:
    """Transposes of the operands, a MatMul, and a factor."""
    chain, operands = _Chain(draft, node), []
    for index, side in enumerate("AB"):
        name = node.inputs[index]
        shape = draft.type_of(name).shape
        flipped, batch = (bool(node.attrs.get(f"{kind}{side}", 0)) for kind in ("trans", "transBatch"))
        if not flipped and not batch:
            operands.append(name)
            continue
        if shape is None:
            return False
        rank = len(shape)
        perm = list(range(rank))
        if batch and rank > 2:
            # The first axis goes behind the others of the batch.
            perm = [*range(1, rank - 1), 0, rank - 1]
        if flipped and rank > 1:
            perm[-1], perm[-2] = perm[-2], perm[-1]
        if perm == list(range(rank)):
            operands.append(name)
            continue
        operands.append(chain.add("Transpose", name, shape=transposed(shape, perm), perm=perm))
    alpha = float(node.attrs.get("alpha", 1.0))
    x = chain.add("MatMul", *operands, first=True, last=alpha == 1.0)
    if alpha != 1.0:
        chain.add("Mul", x, chain.number(alpha), last=True)
    return True


def _gelu(draft: Draft, node: Node) -> bool:
    """Gelu in either form, behind the sum with a bias where there is one."""
    chain = _Chain(draft, node)
    x, bias = (*node.inputs, "")[:2]
    if bias:
        x = chain.add("Add", x, bias)
    tanh = node.op_type == "FastGelu"
    if draft.model.opset >= 20:
        chain.add("Gelu", x, first=True, last=True, approximate="tanh" if tanh else "none")
        return True
    if tanh:
        square = chain.add("Mul", x, x)
        slope = chain.add("Mul", square, chain.number(0.044715))
        factor = chain.add("Add", slope, chain.number(1.0))
        root = chain.add("Mul", x, chain.number(math.sqrt(2 / math.pi)))
        bent = chain.add("Tanh", chain.add("Mul", root, factor), first=True)
    else:
        bent = chain.add("Erf", chain.add("Mul", x, chain.number(math.sqrt(0.5))), first=True)
    half = chain.add("Mul", x, chain.number(0.5))
    chain.add("Mul", half, chain.add("Add", bent, chain.number(1.0)), last=True)
    return True


def _max_pool(draft: Draft, node: Node) -> bool:
    """MaxPool between two Transposes; of 8 bits ONNX has it since opset 12."""
    shape = draft.type_of(node.inputs[0]).shape
    element = draft.type_of(node.inputs[0]).element
    if shape is None or len(shape) < 3 or (draft.model.opset < 12 and element != FLOAT):
        return False
    chain, rank = _Chain(draft, node), len(shape)
    first, last = (0, rank - 1, *range(1, rank - 1)), (0, *range(2, rank), 1)
    x = chain.add("Transpose", node.inputs[0], shape=transposed(shape, first), perm=first)
    x = chain.add("MaxPool", x, shape=transposed(chain.type.shape, first), first=True, **node.attrs)
    chain.add("Transpose", x, last=True, perm=last)
    return True


def _skip_norm(draft: Draft, node: Node) -> bool:
    """LayerNormalization of a sum; the sum is a result too."""
    x, skip, gamma, beta, bias = (*node.inputs, "", "")[:5]
    outputs = (*node.outputs, *[""] * 3)
    read = [name for name in outputs[1:3] if name and draft.model.reader_count(name)]
    if read:
        return False
    chain = _Chain(draft, node)
    shape = draft.type_of(x).shape or chain.type.shape
    label = f"{node.name}/sum"

    def add(a: str, b: str, output: str) -> str:
        return draft.emit("Add", [a, b], label, element=chain.element, shape=shape, output=output, name=label)

    total = add(x, skip, "" if bias else outputs[3])
    if bias:
        total = add(total, bias, outputs[3])
    operands = [name for name in (total, gamma, beta) if name]
    epsilon = node.attrs.get("epsilon", 1e-12)
    chain.add("LayerNormalization", *operands, first=True, last=True, axis=-1, epsilon=epsilon)
    return True


def _packed_matmul(draft: Draft, node: Node) -> bool:
    """MatMulNBits: weights of 2, 4 or 8 bits, [columns, blocks, bytes], with a scale per block; in float."""
    x, packed, scale, zero, order, bias = (*node.inputs, "", "", "")[:6]
    columns, rows, size = (node.attrs.get(name, 0) for name in ("N", "K", "block_size"))
    bits = node.attrs.get("bits", 4)
    data, scales = draft.array(packed), draft.array(scale)
    zeros = draft.array(zero) if zero else np.full((), 1 << (bits - 1))
    if data is None or scales is None or zeros is None or order or bits not in (2, 4, 8) or size < 1:
        return False
    blocks = -(-rows // size)
    if data.size * 8 != columns * blocks * size * bits or scales.size != columns * blocks:
        return False
    codes = _unpacked(data.reshape(columns, -1), bits).reshape(columns, blocks, size)
    offset = zeros
    if zero and zeros.dtype == np.uint8:
        # Packed too, each column's blocks in whole bytes.
        offset = _unpacked(zeros.reshape(columns, -1), bits)[:, :blocks]
    if zero:
        offset = offset.reshape(columns, blocks, 1)
    real = (codes.astype(np.float32) - offset.astype(np.float32)) * scales.reshape(columns, blocks, 1)
    weights = np.ascontiguousarray(real.reshape(columns, -1)[:, :rows].T).astype(scales.dtype)
    chain = _Chain(draft, node)
    name = draft.constant(weights, f"{packed}/float")
    product = chain.add("MatMul", x, name, first=True, last=not bias)
    if bias:
        chain.add("Add", product, bias, last=True)
    return True


def _unpacked(data: np.ndarray, bits: int) -> np.ndarray:
    """The numbers in the bytes of the last axis, the lowest bits first."""
    steps = np.arange(0, 8, bits, dtype=np.uint8)
    return ((data[..., None] >> steps) & ((1 << bits) - 1)).reshape(*data.shape[:-1], -1)
