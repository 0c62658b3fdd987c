"""The graph of a model: versions, wiring, operators and attributes, as onnx and ONNX Runtime take them."""

from __future__ import annotations

import re
from collections.abc import Mapping

import onnx
from onnx import AttributeProto

from systolith.compiler.base.boundary import one_line
from systolith.compiler.base.errors import InputError, ModelError, TensorError
from systolith.compiler.base.limits import MAX_ELEMENTS
from systolith.compiler.base.proto import graphs_of, opset_of
from systolith.compiler.checks.constants import ELEMENT_BITS, type_name
from systolith.compiler.passes.upgrade import OLDEST

__all__ = ["blame", "check_attributes", "check_structure"]

#: Where the checker's messages name a node, and where a tensor.
_NODE = re.compile(
    r"Bad node spec for node\. Name: (.*?) OpType:|Node ?\((.*?)\) with schema|of node: name: (.*?) OpType:"
    r"|node name: (.*?)\)"
)
_TENSOR = re.compile(
    r"tensor name: (.*?)\)|Graph output '(.*?)'|however '(.*?)' has been used|^(.*?) initializer name"
)
_EXPORT = "correct the model there, or export it again"

#: Attributes of whole numbers: least and greatest value of each.
_RANGES: Mapping[str, tuple[int, int]] = {
    "group": (1, MAX_ELEMENTS),
    "strides": (1, MAX_ELEMENTS),
    "dilations": (1, MAX_ELEMENTS),
    "kernel_shape": (1, MAX_ELEMENTS),
    "pads": (-MAX_ELEMENTS, MAX_ELEMENTS),
    "output_padding": (0, MAX_ELEMENTS),
    "hidden_size": (1, MAX_ELEMENTS),
    "num_scan_inputs": (1, 1 << 16),
    "block_size": (0, MAX_ELEMENTS),
}
_KINDS: Mapping[int, str] = {
    AttributeProto.INT: "whole number",
    AttributeProto.INTS: "list of whole numbers",
    AttributeProto.FLOAT: "number",
    AttributeProto.STRING: "text",
}
#: Types of the attributes of Microsoft's operators, which onnx's checker does not know.
_TYPES: Mapping[str, int] = {
    "alpha": AttributeProto.FLOAT,
    "auto_pad": AttributeProto.STRING,
    "axis": AttributeProto.INT,
    "ceil_mode": AttributeProto.INT,
    "channels_last": AttributeProto.INT,
    "count_include_pad": AttributeProto.INT,
    "dilations": AttributeProto.INTS,
    "group": AttributeProto.INT,
    "kernel_shape": AttributeProto.INTS,
    "pads": AttributeProto.INTS,
    "strides": AttributeProto.INTS,
    "transA": AttributeProto.INT,
    "transB": AttributeProto.INT,
}


def blame(text: str, remedy: str = _EXPORT) -> ModelError:
    """A message of onnx's checker or inference as an error that names the node or tensor it speaks of."""
    # The first of several errors: the others follow from it.
    text = " ".join(text.partition("\n(op_type:")[0].split())
    for pattern, kind in ((_NODE, ModelError), (_TENSOR, TensorError)):
        found = pattern.search(text)
        name = next(filter(None, found.groups()), "") if found else ""
        if name:
            return kind("import", name, _reason(text), remedy)
    return ModelError("import", "", _reason(text), remedy)


def _reason(text: str) -> str:
    text = text.partition(" ==> Context")[0]
    text = re.sub(r"\[(Shape|Type)InferenceError\] ?|Inference error\(s\): ", "", text)
    text = re.sub(r"\(op_type:([^,()]*)(, node name: .*?)?\): ", r"\1: ", text)
    return one_line(text).strip().rstrip(".")


def check_structure(model: onnx.ModelProto) -> None:
    """Refuse versions, wiring, operators and attributes that are no ONNX.

    Raises
    ------
    InputError, ModelError, TensorError, UnsupportedError   One sentence that names the culprit.
    """
    if not model.graph.node and not model.graph.output:
        raise InputError("import", "", "the model has no graph", "export it again")
    _check_versions(model)
    for graph in graphs_of(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            _check_type(value)
        check_attributes(graph)
    _check_by_onnx(model)


def _check_versions(model: onnx.ModelProto) -> None:
    opset, newest = opset_of(model), onnx.defs.onnx_opset_version()
    if opset < OLDEST:
        said = f"opset {opset} is too old" if opset > 0 else "the model states no opset"
        raise InputError("import", "", said, "export with opset 13 or later")
    if opset > newest:
        raise InputError(
            "import",
            "",
            f"opset {opset} is newer than {newest}, the newest that the installed onnx knows",
            "export with an older opset, or update onnx and onnxruntime",
        )
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        domain = entry.domain or "ai.onnx"
        if versions.setdefault(domain, entry.version) != entry.version:
            raise InputError(
                "import",
                "",
                f"the model states opset {versions[domain]} and opset {entry.version} of {domain}",
                "state one version of each domain",
            )


def _check_type(value: onnx.ValueInfoProto) -> None:
    """The type of a tensor is one that ONNX Runtime has; left out, it is inferred."""
    if not value.type.HasField("tensor_type"):
        return
    element = value.type.tensor_type.elem_type
    if element and element not in ELEMENT_BITS:
        raise TensorError(
            "import",
            value.name,
            f"it has type {type_name(element)}, which ONNX Runtime does not run",
            "use one of ONNX Runtime's types, such as float32 or int8",
        )
    for dim in value.type.tensor_type.shape.dim:
        if dim.HasField("dim_value") and dim.dim_value > MAX_ELEMENTS:
            raise TensorError(
                "import",
                value.name,
                f"it has an extent of {dim.dim_value}, and a tensor may have {MAX_ELEMENTS} elements",
                "export the model for smaller inputs",
            )


def check_attributes(graph: onnx.GraphProto) -> None:
    """Refuse attributes out of range, and of Microsoft's operators those of the wrong type.

    Raises
    ------
    ModelError   Naming node and attribute.
    """
    for node in graph.node:
        for attribute in node.attribute:
            label = node.name or next(iter(node.output), "")
            if attribute.ref_attr_name:
                raise ModelError(
                    "import",
                    label,
                    f"attribute {attribute.name!r} refers to one of a function, and the node is in none",
                    _EXPORT,
                )
            wanted = _TYPES.get(attribute.name) if node.domain == "com.microsoft" else None
            if wanted is not None and attribute.type != wanted:
                raise ModelError(
                    "import", label, f"attribute {attribute.name!r} must be a {_KINDS[wanted]}", _EXPORT
                )
            low, high = _RANGES.get(attribute.name, (0, 0))
            given = attribute.ints if attribute.type == AttributeProto.INTS else (attribute.i,)
            wrong = [value for value in given if not low <= value <= high]
            if attribute.name in _RANGES and wrong:
                raise ModelError(
                    "import",
                    label,
                    f"attribute {attribute.name!r} holds {wrong[0]}, and must be from {low} to {high}",
                    _EXPORT,
                )


def _check_by_onnx(model: onnx.ModelProto) -> None:
    """What onnx's own checker refuses; outputs without a shape, as exporters leave them, pass."""
    shapeless = [
        value
        for value in model.graph.output
        if value.type.WhichOneof("value") in (None, "tensor_type")
        and not value.type.tensor_type.HasField("shape")
    ]
    for value in shapeless:
        value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        raise blame(str(error)) from error
    finally:
        for value in shapeless:
            value.type.tensor_type.ClearField("shape")
