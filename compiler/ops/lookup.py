"""Element-wise functions of one tensor: a table of 256 entries, each as ONNX would compute and round it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from systolith.compiler.base.boundary import told
from systolith.compiler.base.errors import UnsupportedError
from systolith.compiler.base.limits import MAX_ELEMENTS
from systolith.compiler.base.proto import graphs_of, subgraphs
from systolith.compiler.ops.registry import NodeView, constant, operand, register
from systolith.compiler.ops.values import Builder, Const, Func, Pending, Quant, Value
from systolith.reference.lookup import Lookup

__all__ = ["as_table", "evaluate"]

#: Operators that may run for ever, whatever the size of their operands.
_LOOPS = ("Loop", "Scan")
#: Elements of an operand that may be a shape.
_EXTENTS = 256
_FOLD = "fold the constants before"


def evaluate(
    proto: onnx.NodeProto, opset: int, arrays: list[np.ndarray | None], most: int = MAX_ELEMENTS
) -> list[np.ndarray]:
    """Outputs of one node, by ONNX's reference implementation.

    Raises
    ------
    UnsupportedError   If it cannot compute them, one has more than `most` elements, or the node may loop.
    """
    if proto.op_type == "QuickGelu":
        x = arrays[0]
        alpha = next((a.f for a in proto.attribute if a.name == "alpha"), 1.702)
        with np.errstate(all="ignore"):
            return [x / (1.0 + np.exp(-alpha * x))]
    inside = (inner.op_type for graph in subgraphs(proto) for one in graphs_of(graph) for inner in one.node)
    if proto.op_type in _LOOPS or any(kind in _LOOPS for kind in inside):
        raise UnsupportedError(
            "import", proto.name, f"{proto.op_type} of constants is not computed, because it may loop", _FOLD
        )
    given = {name: array for name, array in zip(proto.input, arrays, strict=True) if array is not None}
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), None)
        for name, array in given.items()
    ]
    outputs = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None)
        for name in proto.output
        if name
    ]
    graph = onnx.helper.make_graph([proto], "one", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    with told(
        UnsupportedError, "import", proto.name, f"{proto.op_type} of constants cannot be computed", _FOLD
    ):
        _check_size(model, given, most)
        with np.errstate(all="ignore"):
            return [np.asarray(result) for result in ReferenceEvaluator(model).run(None, given)]


def _check_size(model: onnx.ModelProto, given: dict[str, np.ndarray], most: int) -> None:
    """Refuse a result that is too large, before it is computed: onnx infers its shape from the operands."""
    shaped = onnx.ModelProto()
    shaped.CopyFrom(model)
    for value in shaped.graph.input:
        array = given[value.name]
        value.type.tensor_type.shape.SetInParent()
        for extent in array.shape:
            value.type.tensor_type.shape.dim.add(dim_value=extent)
        if array.size <= _EXTENTS and array.dtype.kind in "iuf":
            shaped.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
    (node,) = shaped.graph.node
    for value in onnx.shape_inference.infer_shapes(shaped, data_prop=True).graph.output:
        shape = [max(dim.dim_value, 1) for dim in value.type.tensor_type.shape.dim]
        if math.prod(shape) > most:
            raise UnsupportedError(
                "import",
                node.name,
                f"{node.op_type} of constants gives {math.prod(shape):,} elements, more than {most:,}",
                _FOLD,
            )


def as_table(node: NodeView) -> Func | None:
    """The node as a table, where all its computed operands are functions of one tensor and the others are
    single numbers."""
    funcs = [value for value in node.values if isinstance(value, Func)]
    others = [value for value in node.values if value is not None and not isinstance(value, Func)]
    if (
        not funcs
        or len({(func.tensor, func.shape) for func in funcs}) != 1
        or not all(isinstance(c, Const) and c.array.size == 1 for c in others)
    ):
        return None
    if any(len(c.shape) > len(funcs[0].shape) for c in others):
        return None
    # In float64, so that one rounding to float32 is all that separates the entry from the exact value.
    arrays = [
        None
        if value is None
        else value.values.astype(np.float64)
        if isinstance(value, Func)
        else value.real.reshape(())
        if value.array.dtype.kind == "f"
        else value.array.reshape(())
        for value in node.values
    ]
    result = evaluate(node.proto, node.opset, arrays)[0]
    with np.errstate(all="ignore"):
        values = np.broadcast_to(result, (256,)).astype(np.float32)
    sources = tuple(dict.fromkeys((*(name for func in funcs for name in func.sources), node.name)))
    return replace(funcs[0], values=values, pure=False, sources=sources, op_type=node.op_type)


def _limits(node: NodeView) -> tuple[float, float] | None:
    """What Relu or Clip limits its input to; None for other operators."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip":
        return None
    low, high = (constant(node, index) for index in (1, 2))
    if any(limit is not None and limit.size != 1 for limit in (low, high)):
        raise UnsupportedError(
            "import", node.name, "the limits of Clip must be single numbers", "use scalars"
        )
    low = node.attrs.get("min", -np.inf) if low is None else low.item()
    high = node.attrs.get("max", np.inf) if high is None else high.item()
    return float(low), float(high)


def _limited(value: Value, limits: tuple[float, float]) -> Value:
    """A part of a joined tensor, limited on its own."""
    low, high = limits
    if isinstance(value, Pending):
        return replace(value, clamps=(*value.clamps, limits), linear=None)
    if isinstance(value, Func):
        return replace(value, values=np.minimum(np.maximum(value.values, low), high), pure=False)
    if isinstance(value, Const):
        return Const(np.minimum(np.maximum(value.array, low), high))
    return value


def _clipped(builder: Builder, node: NodeView, value: Quant) -> Value:
    """Integers limited to less than 8 bits, as quantisers state narrow formats."""
    limits = [None if node.value(index) is None else constant(node, index) for index in (1, 2)]
    codes = np.arange(256).astype(np.uint8).view(np.int8).astype(np.int64)
    shift = 128 if value.unsigned else 0
    low, high = (
        default if limit is None else int(limit.item()) - shift
        for limit, default in zip(limits, (-128, 127), strict=True)
    )
    table = np.minimum(np.maximum(codes, low), high).astype(np.int8)
    tensor = builder.tensors[value.tensor]
    name = builder.append(
        node.name,
        Lookup(table=table),
        (value.tensor,),
        node.outputs[0],
        value.shape,
        tensor.scale,
        tensor.zero_point,
        node.op_type,
        (node.name,),
    )
    return replace(value, tensor=name)


def _settled(node: NodeView, index: int) -> Value | None:
    """Operand `index`, a computed one in integers."""
    value = node.value(index)
    return value if value is None or isinstance(value, Const | Func) else operand(node, index)


def _convert(builder: Builder, node: NodeView) -> Value:
    value = node.values[0]
    if isinstance(value, Quant) and node.op_type == "Clip":
        return _clipped(builder, node, value)
    if isinstance(value, Pending):
        limits = _limits(node)
        if limits is not None and value.parts:
            parts = tuple(_limited(part, limits) for part in value.parts)
            return replace(value, parts=parts, sources=(*value.sources, node.name))
        if limits is not None:
            return replace(
                value, clamps=(*value.clamps, limits), sources=(*value.sources, node.name), linear=None
            )
    node = node.settled()
    table = as_table(node)
    if table is not None:
        return table
    for index, other in enumerate(node.values):
        if isinstance(other, Const) and other.array.size != 1:
            raise UnsupportedError(
                "import",
                node.name,
                f"operand {node.proto.input[index]!r} of {node.op_type} must be one number",
                "use a scalar",
            )
    if sum(not isinstance(other, Const) for other in node.values if other is not None) == 1:
        # A sum of products becomes integers here, where its range is known.
        table = as_table(
            replace(node, values=tuple(_settled(node, index) for index in range(len(node.values))))
        )
        if table is not None:
            return table
    for index, other in enumerate(node.values):
        if other is not None and not isinstance(other, Const):
            operand(node, index)
    raise UnsupportedError(
        "import", node.name, f"{node.op_type} of two computed tensors is not supported", "use Add, Sub or Mul"
    )


def approximation_known(node: NodeView) -> bool:
    """approximate must be 'none' or 'tanh'."""
    return node.attrs.get("approximate", b"none") in (b"none", b"tanh")


#: Functions and the attributes that ONNX's reference honours.
_FUNCTIONS = {
    "Abs": (),
    "Ceil": (),
    "Celu": ("alpha",),
    "Clip": ("min", "max"),
    "Cos": (),
    "Elu": ("alpha",),
    "Erf": (),
    "Exp": (),
    "Floor": (),
    "HardSigmoid": ("alpha", "beta"),
    "HardSwish": (),
    "LeakyRelu": ("alpha",),
    "Log": (),
    "Mish": (),
    "Neg": (),
    "Pow": (),
    "Reciprocal": (),
    "Relu": (),
    "Round": (),
    "Selu": ("alpha", "gamma"),
    "Sigmoid": (),
    "Sign": (),
    "Sin": (),
    "Softplus": (),
    "Softsign": (),
    "Sqrt": (),
    "Swish": ("alpha",),
    "Tanh": (),
    "ThresholdedRelu": ("alpha",),
}
for _name, _attributes in _FUNCTIONS.items():
    register(_name, attributes=_attributes)(_convert)
register("Gelu", attributes=("approximate",), constraints=(approximation_known,))(_convert)
register("QuickGelu", attributes=("alpha",), domain="com.microsoft")(_convert)
