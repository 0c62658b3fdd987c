"""BatchNormalization in float: fold it into the convolution before it, or make it a depthwise 1 x 1
convolution."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from systolith.compiler.base.boundary import told
from systolith.compiler.base.errors import ModelError, QuantiseError

__all__ = ["batch_norm_to_conv", "fold_batch_norm"]


def _float32(node: onnx.NodeProto, array: np.ndarray) -> np.ndarray:
    """The numbers in float32; `QuantiseError` where that cannot hold them."""
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


def fold_batch_norm(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model; a Conv with float weights whose only reader is a BatchNormalization takes it over."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output if name}
    readers: dict[str, int] = {value.name: 1 for value in graph.output}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    for node in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        conv = makers.get(node.input[0])
        if (
            conv is None
            or conv.op_type != "Conv"
            or readers[node.input[0]] != 1
            or len([name for name in node.output if name]) != 1
        ):
            continue
        wanted = [conv.input[1], *node.input[1:5], *(name for name in conv.input[2:3] if name)]
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if (
            any(name not in arrays for name in wanted)
            or attributes.get("training_mode", 0)
            or attributes.get("spatial", 1) != 1
        ):
            continue
        weights, scale, offset, mean, variance = (
            numpy_helper.to_array(arrays[name]).astype(np.float64) for name in wanted[:5]
        )
        channels = weights.shape[:1]
        bias = (
            numpy_helper.to_array(arrays[wanted[5]]).astype(np.float64)
            if len(wanted) > 5
            else np.zeros(channels)
        )
        if any(array.shape != channels for array in (bias, scale, offset, mean, variance)):
            # ONNX Runtime refuses it, and says why.
            continue
        with np.errstate(all="ignore"):
            factor = scale / np.sqrt(variance + attributes.get("epsilon", 1e-5))
            new = {
                "weights": weights * factor.reshape(-1, *[1] * (weights.ndim - 1)),
                "bias": (bias - mean) * factor + offset,
            }
        labels = [f"{conv.name}/{node.name}/{kind}" for kind in new]
        graph.initializer.extend(
            numpy_helper.from_array(_float32(node, array), label)
            for array, label in zip(new.values(), labels, strict=True)
        )
        conv.input[:] = [conv.input[0], *labels]
        conv.output[0] = node.output[0]
        makers[node.output[0]] = conv
        graph.node.remove(node)
    return result


def batch_norm_to_conv(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model; what `fold_batch_norm` leaves becomes a depthwise convolution, which has one weight
    scale per channel."""
    with told(ModelError, "import", "", "onnx cannot infer the shapes of the model"):
        inferred = onnx.shape_inference.infer_shapes(model).graph
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*inferred.value_info, *inferred.input)
        if value.type.tensor_type.HasField("shape")
    }
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        rank = ranks.get(node.input[0], 0) if node.op_type == "BatchNormalization" else 0
        if (
            rank not in (3, 4)
            or any(name not in arrays for name in node.input[1:])
            or attributes.get("training_mode", 0)
        ):
            continue
        scale, offset, mean, variance = (
            numpy_helper.to_array(arrays[name]).astype(np.float64) for name in node.input[1:]
        )
        if scale.ndim != 1 or any(array.shape != scale.shape for array in (offset, mean, variance)):
            continue
        with np.errstate(all="ignore"):
            factor = scale / np.sqrt(variance + attributes.get("epsilon", 1e-5))
            new = {"weights": factor.reshape(-1, *[1] * (rank - 1)), "bias": offset - mean * factor}
        labels = [f"{node.name}/{kind}" for kind in new]
        graph.initializer.extend(
            numpy_helper.from_array(_float32(node, array), label)
            for array, label in zip(new.values(), labels, strict=True)
        )
        node.op_type = "Conv"
        node.input[:] = [node.input[0], *labels]
        del node.attribute[:]
        node.attribute.append(onnx.helper.make_attribute("group", len(factor)))
    return result
