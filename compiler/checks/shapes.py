"""Types and shapes: what onnx infers, held against what the model declares and against how large a tensor may
be."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

import onnx

from systolith.compiler.base.errors import CompileError, TensorError
from systolith.compiler.base.limits import MAX_CONSTANT, MAX_ELEMENTS, MAX_TOTAL, shape_text, too_large
from systolith.compiler.base.model import TensorType, type_of
from systolith.compiler.base.proto import opset_of
from systolith.compiler.checks.constants import type_name
from systolith.compiler.checks.operands import check_convolutions
from systolith.compiler.checks.structure import blame
from systolith.compiler.ops.lookup import evaluate

__all__ = ["check_shapes", "inferred_types", "known_shape", "typed_values"]

#: Elements of a constant that may be a shape, pads or axes.
_EXTENTS = 256


def check_shapes(model: onnx.ModelProto) -> None:
    """Refuse operands that an operator does not take, results that are not as declared, too large tensors.

    Shapes declared inside the graph are hints, which ONNX Runtime overrules; the right ones take their place.

    Raises
    ------
    ModelError, TensorError   Naming the node or the tensor.
    """
    constant = _constant_results(model.graph)
    _check_sizes(model.graph.input)
    plain = _expanded(model)
    # First what tells most: a wrong kernel or group shows as a wrong shape somewhere behind it.
    loose = _by_name(_inferred(plain, strict=False))
    check_convolutions(model, {name: known_shape(value) for name, value in loose.items()})
    _check_sizes(loose.values(), constant)
    # Then as it is: once constants are folded, nobody checks the operands of the nodes that gave them.
    _inferred(plain)
    found = typed_values(model)
    for value in (*model.graph.value_info, *model.graph.output):
        declared, inferred = _element(value), _element(found.get(value.name))
        if declared and inferred and declared != inferred:
            raise TensorError(
                "import",
                value.name,
                f"it is declared with type {type_name(declared)}, but the graph gives {type_name(inferred)}",
                "declare the type that the graph gives, or correct the graph",
            )
    for value in model.graph.output:
        wanted, given = _extents(value), _extents(found.get(value.name))
        if wanted is None or given is None:
            continue
        pairs = zip(wanted, given, strict=False)
        if len(wanted) != len(given) or any(w > 0 and g > 0 and w != g for w, g in pairs):
            raise TensorError(
                "import",
                value.name,
                f"the output is declared with shape {shape_text(wanted)}, but the graph gives "
                f"{shape_text(given)}",
                "declare the shape that the graph gives, or correct the graph",
            )
    _check_sizes((value for name, value in found.items() if name not in loose), constant)
    for value in model.graph.value_info:
        if known_shape(found.get(value.name)) is not None:
            value.CopyFrom(found[value.name])


def _element(value: onnx.ValueInfoProto | None) -> int:
    return 0 if value is None else value.type.tensor_type.elem_type


def _constant_results(graph: onnx.GraphProto) -> frozenset[str]:
    """What operators make of constants alone."""
    known = {tensor.name for tensor in graph.initializer}
    made: set[str] = set()
    for node in graph.node:
        if all(name in known for name in node.input if name):
            known.update(node.output)
            made.update(node.output)
    return frozenset(made)


def _check_sizes(values: Iterable[onnx.ValueInfoProto], constant: Collection[str] = ()) -> None:
    total = 0
    for value in values:
        shape = [extent for extent in _extents(value) or () if extent > 0]
        most = MAX_CONSTANT if value.name in constant else MAX_ELEMENTS
        if too_large(shape, most):
            raise TensorError(
                "import",
                value.name,
                f"it has {math.prod(shape):,} elements (extents {shape_text(shape)}), and a tensor may have "
                f"{most:,}",
                "export the model for smaller inputs",
            )
        total += math.prod(shape)
        if total > MAX_TOTAL:
            raise TensorError(
                "import",
                value.name,
                f"with it the tensors of the model have {total:,} elements, and together they may have "
                f"{MAX_TOTAL:,}",
                "export the model for smaller inputs",
            )


def _extents(value: onnx.ValueInfoProto | None) -> list[int] | None:
    """Extents of a tensor, 0 where one is not known; None where not even their number is."""
    if value is None or not value.type.tensor_type.HasField("shape"):
        return None
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def known_shape(value: onnx.ValueInfoProto | None) -> tuple[int, ...] | None:
    """The shape of a tensor, where all of it is known."""
    if value is None or not value.type.tensor_type.HasField("shape"):
        return None
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None


def typed_values(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    """Type and shape of every tensor for which onnx can tell.

    Raises
    ------
    ModelError, TensorError   If an operator does not take its operands.
    """
    known = _expanded(model)
    _fold_extents(known)
    graph = _inferred(known)
    hints = _hints(model, _by_name(graph))
    if hints:
        # What onnx cannot tell is taken from the model; the rest follows from it.
        made = {name for node in known.graph.node for name in node.output}
        outputs = {value.name: value for value in known.graph.output}
        kept = {value.name for value in known.graph.value_info} | outputs.keys()
        for value in hints:
            if value.name in outputs:
                outputs[value.name].CopyFrom(value)
            elif value.name in made and value.name not in kept:
                known.graph.value_info.append(value)
        graph = _inferred(known)
    constants = {
        tensor.name: onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in graph.initializer
    }
    return constants | _by_name(graph)


def inferred_types(model: onnx.ModelProto) -> dict[str, TensorType]:
    """The same as types of tensors."""
    return {name: type_of(value.type) for name, value in typed_values(model).items()}


def _hints(model: onnx.ModelProto, inferred: Mapping[str, onnx.ValueInfoProto]) -> list[onnx.ValueInfoProto]:
    """What the model declares of tensors whose type or shape onnx cannot infer."""
    found = []
    for value in (*model.graph.value_info, *model.graph.output):
        given = inferred.get(value.name)
        untyped = given is None or given.type.WhichOneof("value") is None
        if untyped and value.type.WhichOneof("value") is not None:
            found.append(value)
        elif not untyped and not known_shape(given) and min(known_shape(value) or (0,)) > 0:
            found.append(value)
    return found


def _by_name(graph: onnx.GraphProto) -> dict[str, onnx.ValueInfoProto]:
    """Every tensor of a graph but its constants."""
    return {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}


def _expanded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without what onnx can infer anew."""
    known = onnx.ModelProto()
    known.CopyFrom(model)
    _forget_hints(known)
    # An output that is an input too, without a shape, would make onnx forget the input's.
    inputs = {value.name for value in model.graph.input}
    outputs = [value for value in known.graph.output if value.name not in inputs]
    del known.graph.output[:]
    known.graph.output.extend(outputs)
    for tensor in known.graph.initializer:
        # What may say a shape is kept; weights would only be copied back and forth.
        if math.prod(tensor.dims) > _EXTENTS:
            tensor.CopyFrom(
                onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=b"")
            )
    return known


def _inferred(known: onnx.ModelProto, strict: bool = True) -> onnx.GraphProto:
    """The graph with types and shapes."""
    try:
        result = onnx.shape_inference.infer_shapes(
            known, check_type=strict, strict_mode=strict, data_prop=True
        )
    except Exception as error:
        raise blame(str(error), "correct the operands of that node") from error
    return result.graph


def _forget_hints(model: onnx.ModelProto) -> None:
    """Drop declared types and shapes of what operators give that onnx knows: it infers them anew."""
    known = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if onnx.defs.has(node.op_type, node.domain.removeprefix("ai.onnx")):
            known.update(node.output)
    for value in model.graph.output:
        if value.name in known:
            value.ClearField("type")
    kept = [value for value in model.graph.value_info if value.name not in known]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)


def _fold_extents(model: onnx.ModelProto) -> None:
    """Compute what depends on small constants alone: exporters compute shapes, pads and axes so, which decide
    shapes in turn."""
    graph, opset = model.graph, opset_of(model)
    arrays = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if math.prod(tensor.dims) <= _EXTENTS
    }
    kept = []
    for node in graph.node:
        results = None
        if all(name in arrays for name in node.input if name):
            try:
                results = evaluate(node, opset, [arrays.get(name) for name in node.input], _EXTENTS)
            except CompileError:
                # What cannot be computed stays a node: its own error is for the import to report.
                results = None
        if results is None:
            kept.append(node)
            continue
        for name, result in zip(filter(None, node.output), results, strict=True):
            arrays[name] = result
            graph.initializer.append(onnx.numpy_helper.from_array(result, name))
    del graph.node[:]
    graph.node.extend(kept)
