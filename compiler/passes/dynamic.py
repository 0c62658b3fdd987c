"""Dynamic quantisation and products of integers as float operators, or between DequantizeLinear."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from systolith.compiler.base.model import Model, Node
from systolith.compiler.passes.drafts import FLOAT, MICROSOFT, Draft, rewrite, sole_reader
from systolith.compiler.passes.qoperators import linear_domain

__all__ = ["expand_dynamic", "expand_integer_products"]


def expand_dynamic(model: Model) -> Model:
    """The model with float operators instead of those that quantise their activations on the fly.

    Requires constant weights, scales and zero points; a node without them stays. Ensures that weights are
    float constants: they are quantised again with the activations, statically.
    """
    return rewrite(
        model,
        {
            ("", "MatMulInteger"): _product,
            ("", "ConvInteger"): _product,
            (MICROSOFT, "MatMulIntegerToFloat"): _product_to_float,
            (MICROSOFT, "DynamicQuantizeMatMul"): _dynamic_product,
            (MICROSOFT, "DynamicQuantizeLSTM"): _lstm,
        },
    )


def expand_integer_products(model: Model) -> Model:
    """The model with MatMulInteger and ConvInteger as float operators behind DequantizeLinear.

    Requires constant zero points; a node without them stays. Ensures that constants which multiply the sums
    become the scale of the second operand; where the sums are read as integers, the scale is 1, and a Cast to
    int32 follows. Float32 holds the sums exactly up to 2^24, and rounds larger ones.
    """
    return rewrite(model, {("", "MatMulInteger"): _static, ("", "ConvInteger"): _static})


def _weights(draft: Draft, name: str, scale: np.ndarray, zero: str, axis: int) -> np.ndarray | None:
    """Constant weights in float; scale and zero point are single numbers, or one per index of `axis`."""
    ints, zeros = draft.array(name), draft.array(zero) if zero else np.zeros((), np.int8)
    if ints is None or zeros is None or not ints.ndim:
        return None
    along = [1] * ints.ndim
    along[axis] = -1
    spread = []
    for array in (scale.astype(np.float32), zeros.astype(np.int32)):
        if array.size == 1:
            spread.append(array.reshape([1] * ints.ndim))
        elif array.size == ints.shape[axis]:
            spread.append(array.reshape(along))
        elif array.ndim == ints.ndim and _broadcasts(array.shape, ints.shape):
            # One per column of every matrix.
            spread.append(array)
        else:
            return None
    factor, offset = spread
    return (ints.astype(np.int32) - offset).astype(np.float32) * factor


def _broadcasts(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    return all(extent in (1, full) for extent, full in zip(shape, whole, strict=True))


@dataclass(frozen=True)
class _Source:
    """A float tensor that DynamicQuantizeLinear quantised, and the name of its scale."""

    x: str
    scale: str


def _source(model: Model, quantised: str, zero: str) -> _Source | None:
    maker = model.producer.get(quantised)
    if maker is None or maker.op_type != "DynamicQuantizeLinear" or len(maker.outputs) != 3:
        return None
    if quantised != maker.outputs[0] or zero != maker.outputs[2]:
        return None
    return _Source(maker.inputs[0], maker.outputs[1])


def _factors(model: Model, name: str) -> Iterator[str]:
    """The tensors whose product a tensor is."""
    maker = model.producer.get(name)
    if maker is not None and maker.op_type == "Mul" and not maker.domain:
        for operand in maker.inputs:
            yield from _factors(model, operand)
    else:
        yield name


@dataclass
class _Unit:
    """What gives the sums of a product of integers their unit: the Cast behind it, and Muls behind that.

    Parameters
    ----------
    end     : float tensor that the last of them gives
    steps   : their names
    factor  : product of the constants among the factors, float64: one number, or one per output channel
    missing : computed factors that were not found
    """

    end: str
    steps: list[str]
    factor: np.ndarray
    missing: list[str]


def _unit(draft: Draft, node: Node, missing: list[str], constants: bool = True) -> _Unit | None:
    """Follow a product's result; None where no Cast to float is its only reader. Constant factors are taken
    where `constants` is true."""
    model = draft.model
    rank, conv = len(model.type_of(node.inputs[1]).shape or ()), node.op_type == "ConvInteger"
    reader = sole_reader(model, node.outputs[0])
    if reader is None or reader.op_type != "Cast" or reader.attrs.get("to") != FLOAT:
        return None
    found = _Unit(reader.outputs[0], [reader.name], np.ones(1), missing)
    while (reader := sole_reader(model, found.end)) is not None and reader.op_type == "Mul":
        others = [name for name in reader.inputs if name != found.end]
        if len(others) != 1:
            break
        wanted, factor = list(found.missing), found.factor
        for name in _factors(model, others[0]):
            array = draft.array(name)
            if name in wanted:
                wanted.remove(name)
            elif array is not None and constants and _per_output(array, conv, rank):
                factor = factor * array.astype(np.float64).reshape(-1)
            else:
                return found
        found = _Unit(reader.outputs[0], [*found.steps, reader.name], factor, wanted)
    return found


def _product(draft: Draft, node: Node) -> bool:
    """MatMulInteger or ConvInteger of what DynamicQuantizeLinear gives, with its unit."""
    model = draft.model
    a, b, a_zero, b_zero = (*node.inputs, "", "")[:4]
    left, right = _source(model, a, a_zero), _source(model, b, b_zero)
    if left is None:
        return False
    unit = _unit(draft, node, [source.scale for source in (left, right) if source is not None], right is None)
    if unit is None or unit.missing:
        return False
    if right is not None:
        second = right.x
    else:
        weights = _weights(draft, b, unit.factor, b_zero, 0 if node.op_type == "ConvInteger" else -1)
        if weights is None:
            return False
        second = draft.constant(weights, f"{b}/float")
    _finish(draft, node, [left.x, second], unit)
    return True


def _finish(draft: Draft, node: Node, operands: list[str], unit: _Unit) -> None:
    """The float operator, which gives what the last node of its unit gave."""
    draft.dropped.update(unit.steps)
    draft.emit(
        node.op_type.removesuffix("Integer"),
        operands,
        unit.end,
        shape=draft.model.type_of(node.outputs[0]).shape,
        output=unit.end,
        name=node.name,
        **node.attrs,
    )


def _per_output(array: np.ndarray, conv: bool, rank: int) -> bool:
    """Whether a factor of a product's result is a single number, or one per output channel of the weights."""
    if array.size == 1:
        return True
    shape = array.shape
    if conv:
        return len(shape) in (rank - 1, rank) and array.size == shape[1 - rank]
    return bool(array.size == shape[-1])


def _with_bias(draft: Draft, node: Node, operands: list[str], bias: str) -> bool:
    """A MatMul, and the Add of a bias where there is one; the last gives the node's result."""
    shape, output = draft.type_of(node.outputs[0]).shape, node.outputs[0]
    if not bias:
        draft.emit("MatMul", operands, output, output=output, shape=shape, name=node.name)
        return True
    product = draft.emit("MatMul", operands, f"{node.name}/product", shape=shape, name=node.name)
    draft.emit("Add", [product, bias], output, output=output, shape=shape, name=f"{node.name}/bias")
    return True


def _dynamic_product(draft: Draft, node: Node) -> bool:
    a, b, scale, zero, bias = (*node.inputs, "", "")[:5]
    scales = draft.array(scale)
    weights = None if scales is None else _weights(draft, b, scales, zero, -1)
    if weights is None:
        return False
    return _with_bias(draft, node, [a, draft.constant(weights, f"{b}/float")], bias)


def _product_to_float(draft: Draft, node: Node) -> bool:
    a, b, a_scale, b_scale, a_zero, b_zero, bias = (*node.inputs, "", "", "")[:7]
    scales, source = draft.array(b_scale), _source(draft.model, a, a_zero)
    if source is not None and source.scale == a_scale:
        weights = None if scales is None else _weights(draft, b, scales, b_zero, -1)
        if weights is None:
            return False
        return _with_bias(draft, node, [source.x, draft.constant(weights, f"{b}/float")], bias)
    if scales is None or any(name and draft.array(name) is None for name in (a_scale, a_zero, b_zero)):
        return False
    operands = []
    for name, scale, zero, size in ((a, a_scale, a_zero, 1), (b, b_scale, b_zero, scales.size)):
        operands.append(_dequantised(draft, node, name, scale, zero, -1 if size > 1 else None))
    return _with_bias(draft, node, operands, bias)


def _dequantised(draft: Draft, node: Node, x: str, scale: str, zero: str, axis: int | None) -> str:
    return draft.emit(
        "DequantizeLinear",
        [x, scale, zero] if zero else [x, scale],
        f"{node.name}/{x}/float",
        shape=draft.type_of(x).shape,
        name=f"{node.name}/{x}/dequantise",
        domain=linear_domain(draft.model, axis is not None),
        axis=axis,
    )


def _static(draft: Draft, node: Node) -> bool:
    """MatMulInteger or ConvInteger of integers with constant zero points."""
    a, b, a_zero, b_zero = (*node.inputs, "", "")[:4]
    conv = node.op_type == "ConvInteger"
    found = [draft.array(zero) if zero else np.zeros((), np.int8) for zero in (a_zero, b_zero)]
    zeros = [array for array in found if array is not None and array.ndim < 2]
    if len(zeros) < 2:
        return False
    per_row, per_column = (array.size > 1 for array in zeros)
    if per_row and conv:
        return False
    unit = _unit(draft, node, [])
    of_a = _stated_scale(draft, a, zeros[0])
    of_b = np.ones(1) if unit is None else unit.factor / of_a
    if unit is None:
        of_a = np.float32(1)
    if per_column and of_b.size == 1:
        of_b = np.broadcast_to(of_b, np.shape(zeros[1]))
    many = of_b.size > 1
    if many and b_zero and not per_column:
        b_zero = draft.constant(np.broadcast_to(zeros[1], of_b.shape).copy(), f"{b_zero}/channels")
    a_scales = np.full(np.shape(zeros[0]) if per_row else (), of_a, np.float32)
    b_scales = of_b.astype(np.float32).reshape(of_b.shape if many else ())
    with np.errstate(all="ignore"):
        if not np.all(np.isfinite(b_scales)) or np.any(b_scales <= 0):
            return False
    a_scale = draft.constant(a_scales, f"{node.name}/{a}/scale")
    b_scale = draft.constant(b_scales, f"{node.name}/{b}/scale")
    operands = [
        _dequantised(draft, node, a, a_scale, a_zero, -2 if per_row else None),
        _dequantised(draft, node, b, b_scale, b_zero, (0 if conv else -1) if many else None),
    ]
    if unit is not None:
        _finish(draft, node, operands, unit)
        return True
    output = node.outputs[0]
    shape, operator = draft.type_of(output).shape, node.op_type.removesuffix("Integer")
    made = draft.emit(operator, operands, f"{node.name}/float", shape=shape, name=node.name, **node.attrs)
    int32 = onnx.TensorProto.INT32
    label = f"{node.name}/cast"
    draft.emit("Cast", [made], output, element=int32, shape=shape, output=output, name=label, to=int32)
    return True


def _stated_scale(draft: Draft, name: str, zero: np.ndarray) -> np.float32:
    """The constant scale that a tensor was quantised with, where its zero point is this one; else 1."""
    maker = draft.model.producer.get(name)
    if maker is None or maker.op_type != "QuantizeLinear" or zero.size != 1:
        return np.float32(1)
    scale = draft.array(maker.inputs[1])
    stated = draft.array(maker.inputs[2]) if len(maker.inputs) > 2 and maker.inputs[2] else np.zeros(1)
    if scale is None or scale.size != 1 or stated is None or stated.size != 1 or stated.item() != zero.item():
        return np.float32(1)
    return np.float32(scale.item())


def _lstm(draft: Draft, node: Node) -> bool:
    """DynamicQuantizeLSTM: its weights stand transposed, [directions, inputs, 4 * hidden]."""
    names = (*node.inputs, *[""] * 12)[:12]
    operands = list(names[:8])
    for index, at in ((1, 8), (2, 10)):
        ints, scale, zero = (draft.array(name) for name in (names[index], names[at], names[at + 1]))
        if ints is None or scale is None or zero is None or ints.ndim != 3:
            return False
        if any(array.size not in (ints.shape[0], ints.shape[0] * ints.shape[2]) for array in (scale, zero)):
            return False
        factor, offset = (array.reshape(ints.shape[0], 1, -1) for array in (scale, zero.astype(np.int32)))
        weights = (ints.astype(np.int32) - offset).astype(np.float32) * factor
        turned = np.ascontiguousarray(weights.swapaxes(1, 2))
        operands[index] = draft.constant(turned, f"{names[index]}/float")
    while operands and not operands[-1]:
        operands.pop()
    for name in node.outputs:
        if name:
            draft.types[name] = draft.model.type_of(name)
    draft.nodes.append(Node(node.name, "LSTM", tuple(operands), node.outputs, "", node.attributes))
    return True
