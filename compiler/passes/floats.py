"""Floats of other widths (float16, float64, bfloat16) as float32 inside, and as they are at the model's
ends."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from systolith.compiler.base.proto import graphs_of, opset_of

__all__ = ["single_precision"]

_OTHERS = (TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
#: Attributes that name the type of a result.
_TYPED = ("dtype", "to")


def single_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """Compute in float32 what the model computes in another float; inputs and outputs keep their types, with
    a Cast behind or in front of each."""
    if not _has_others(model):
        return model
    # A float16 or float64 model may name these types only where they stand, or rely on them through
    # operators of float32: so what is float becomes float32 everywhere.
    for graph in graphs_of(model.graph):
        for tensor in graph.initializer:
            _convert(tensor)
        for value in graph.value_info:
            _retype(value)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.TENSOR:
                    _convert(attribute.t)
                for inner in attribute.tensors:
                    _convert(inner)
                if attribute.name in _TYPED and attribute.i in _OTHERS:
                    attribute.i = TensorProto.FLOAT
        if graph is not model.graph:
            for value in (*graph.input, *graph.output):
                _retype(value)
    _cast_ends(model)
    return model


def _has_others(model: onnx.ModelProto) -> bool:
    for graph in graphs_of(model.graph):
        if any(tensor.data_type in _OTHERS for tensor in graph.initializer):
            return True
        values = (*graph.input, *graph.output, *graph.value_info)
        if any(value.type.tensor_type.elem_type in _OTHERS for value in values):
            return True
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.t.data_type in _OTHERS or (attribute.name in _TYPED and attribute.i in _OTHERS):
                    return True
    return False


def _convert(tensor: onnx.TensorProto) -> None:
    if tensor.data_type not in _OTHERS:
        return
    with np.errstate(over="ignore"):
        array = numpy_helper.to_array(tensor).astype(np.float32)
    name = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def _retype(value: onnx.ValueInfoProto) -> None:
    if value.type.tensor_type.elem_type in _OTHERS:
        value.type.tensor_type.elem_type = TensorProto.FLOAT


def _cast_ends(model: onnx.ModelProto) -> None:
    graph = model.graph
    inside: dict[str, str] = {}
    before, after = [], []
    for value in graph.input:
        if value.type.tensor_type.elem_type in _OTHERS:
            inside[value.name] = f"{value.name}/float32"
            before.append(
                helper.make_node(
                    "Cast", [value.name], [inside[value.name]], f"{value.name}/cast", to=TensorProto.FLOAT
                )
            )
    made = {name for node in graph.node for name in node.output}
    for value in graph.output:
        kind = value.type.tensor_type.elem_type
        if kind in _OTHERS and value.name in made:
            inside[value.name] = f"{value.name}/float32"
            after.append(
                helper.make_node("Cast", [inside[value.name]], [value.name], f"{value.name}/cast", to=kind)
            )
    for inner in graphs_of(graph):
        for node in inner.node:
            for names in (node.input, node.output):
                for at, name in enumerate(names):
                    if name in inside:
                        names[at] = inside[name]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    known = {value.name for value in graph.value_info}
    for value in (*graph.input, *graph.output):
        name = inside.get(value.name)
        if name is not None and name not in known and value.type.tensor_type.HasField("shape"):
            renamed = graph.value_info.add()
            renamed.CopyFrom(value)
            renamed.name = name
            renamed.type.tensor_type.elem_type = TensorProto.FLOAT
    assert opset_of(model)
