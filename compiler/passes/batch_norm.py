"""Fold BatchNormalization into the convolution before it, in float."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

__all__ = ["fold_batch_norm"]


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
        if conv is None or conv.op_type != "Conv" or readers[node.input[0]] != 1 or len([name for name in node.output if name]) != 1:
            continue
        wanted = [conv.input[1], *node.input[1:5], *(name for name in conv.input[2:3] if name)]
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if any(name not in arrays for name in wanted) or attributes.get("training_mode", 0) or attributes.get("spatial", 1) != 1:
            continue
        weights, scale, offset, mean, variance = (numpy_helper.to_array(arrays[name]).astype(np.float64) for name in wanted[:5])
        bias = numpy_helper.to_array(arrays[wanted[5]]).astype(np.float64) if len(wanted) > 5 else np.zeros(len(scale))
        factor = scale / np.sqrt(variance + attributes.get("epsilon", 1e-5))
        new = {"weights": weights * factor.reshape(-1, *[1] * (weights.ndim - 1)), "bias": (bias - mean) * factor + offset}
        labels = [f"{conv.name}/{node.name}/{kind}" for kind in new]
        graph.initializer.extend(numpy_helper.from_array(array.astype(np.float32), label)
                                 for array, label in zip(new.values(), labels, strict=True))
        conv.input[:] = [conv.input[0], *labels]
        conv.output[0] = node.output[0]
        makers[node.output[0]] = conv
        graph.node.remove(node)
    return result
