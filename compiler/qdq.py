"""QuantizeLinear and DequantizeLinear: what they say of formats, and constants that come through them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from systolith.compiler.base.errors import ModelError, QuantiseError, UnsupportedError
from systolith.compiler.base.model import Node
from systolith.compiler.ops.values import Const, Value

__all__ = ["check_operands", "dequantised_constant", "format_of", "parameters", "quantised_type"]

#: Above it, products with the steps between two codes of int8 pass float32.
_LARGEST_SCALE = np.finfo(np.float32).max / 512


def check_operands(node: Node) -> None:
    """Refuse a QuantizeLinear or DequantizeLinear with too few or too many operands."""
    if not 2 <= len(node.inputs) <= 3 or not all(node.inputs[:2]) or len(node.outputs) != 1:
        raise ModelError(
            "import",
            node.name,
            f"{node.op_type} takes a tensor, a scale and a zero point",
            "correct its operands",
        )


def parameters(node: Node, values: Mapping[str, Value], unsigned: bool) -> tuple[np.ndarray, np.ndarray, int]:
    """(scale in float64, zero point held as int8, axis) of a QuantizeLinear or DequantizeLinear.

    Raises
    ------
    CompileError   Naming the node, for an attribute, scale or zero point that the core cannot honour.
    """
    for name, attribute in node.attributes.items():
        if name in ("axis", "saturate") or (
            name in ("block_size", "output_dtype", "precision") and not attribute.i
        ):
            continue
        if name == "output_dtype" and attribute.i in (
            onnx.TensorProto.INT8,
            onnx.TensorProto.UINT8,
            onnx.TensorProto.FLOAT,
        ):
            continue
        raise UnsupportedError(
            "import",
            node.name,
            f"attribute {name!r} of {node.op_type} is not supported",
            "remove it",
        )
    known = [values.get(name) for name in node.inputs[1:] if name]
    if not all(isinstance(value, Const) for value in known):
        raise QuantiseError(
            "quantise",
            node.name,
            f"scale and zero point of {node.op_type} must be constant",
            "make them initializers",
        )
    scale = known[0].array.astype(np.float64)
    if known[0].array.dtype != np.float32:
        raise QuantiseError(
            "quantise", node.name, f"the scale has type {known[0].array.dtype}", "use float32"
        )
    if not np.all(np.isfinite(scale)) or np.any(scale < 0):
        raise ModelError(
            "quantise",
            node.name,
            f"scale {scale.reshape(-1)[0]:g} must be positive and finite",
            "calibrate again",
        )
    if scale.size and scale.max() > _LARGEST_SCALE:
        raise QuantiseError(
            "quantise",
            node.name,
            f"with scale {scale.max():g} the values of int8 pass float32",
            "calibrate again",
        )
    zero = known[1].array.astype(np.int64) if len(known) > 1 else np.zeros(scale.shape, np.int64)
    if scale.size != zero.size or (scale.size != 1 and scale.shape != zero.shape):
        raise ModelError(
            "import",
            node.name,
            f"{node.op_type} has a scale of shape {list(scale.shape)} and a zero point of shape "
            f"{list(zero.shape)}",
            "give both the same shape",
        )
    axis = node.attrs.get("axis", 1)
    if scale.size == 1:
        scale, zero = scale.reshape(()), zero.reshape(())
    return scale, zero - (128 if unsigned else 0), axis


def format_of(node: Node, values: Mapping[str, Value], unsigned: bool) -> tuple[float, int]:
    """Scale and zero point of an activation.

    Raises
    ------
    CompileError   As `parameters`, and where there is not one positive scale.
    """
    scale, zero, _ = parameters(node, values, unsigned)
    if scale.size != 1 or scale.item() <= 0:
        raise QuantiseError(
            "quantise",
            node.name,
            f"{node.op_type} of an activation needs one positive scale, not {scale.tolist()}",
            "quantise activations per tensor",
        )
    return scale.item(), int(zero.item())


def quantised_type(node: Node, values: Mapping[str, Value]) -> np.dtype:
    """The type that a QuantizeLinear gives."""
    zero = values.get(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    if isinstance(zero, Const):
        return zero.array.dtype
    stated = node.attrs.get("output_dtype", 0)
    named = len(node.inputs) > 2 and bool(node.inputs[2])
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(stated)) if stated and not named else np.dtype("u1")


def dequantised_constant(node: Node, values: Mapping[str, Value], value: Const) -> Const:
    """A constant that comes through a DequantizeLinear; it keeps its integers.

    Raises
    ------
    CompileError   As `parameters`, and where its values pass float32.
    """
    ints = value.array
    scale, zero, axis = parameters(node, values, ints.dtype == np.uint8)
    if ints.dtype not in (np.int8, np.uint8, np.int32):
        raise QuantiseError(
            "quantise",
            node.name,
            f"constants of type {ints.dtype} are not supported",
            "quantise to int8, uint8 or int32",
        )
    along = [1] * ints.ndim
    if scale.size > 1:
        if scale.ndim != 1 or not -ints.ndim <= axis < ints.ndim or ints.shape[axis] != scale.size:
            raise QuantiseError(
                "quantise",
                node.name,
                f"{scale.size} scales do not fit axis {axis} of shape {ints.shape}",
                "correct the axis",
            )
        along[axis] = -1
    elif not ints.ndim:
        along = []
    held = (ints.astype(np.int16) - 128).astype(np.int8) if ints.dtype == np.uint8 else ints
    steps = (held.astype(np.int64) - zero.reshape(along)).astype(np.float32)
    with np.errstate(over="ignore"):
        array = steps * scale.astype(np.float32).reshape(along)
    if not np.all(np.isfinite(array)):
        raise QuantiseError(
            "quantise",
            node.name,
            "the constant's values pass float32",
            "quantise it with a smaller scale",
        )
    return Const(array, held, scale.reshape(-1), np.broadcast_to(zero, scale.shape).reshape(-1), axis)
