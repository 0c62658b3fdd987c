"""Build small QDQ models, and compare the quantised graph with ONNX Runtime layer by layer."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from systolith.evidence.layerwise import OrtLayers

__all__ = ["QdqModel", "layer_differences"]


class QdqModel:
    """Appends nodes to an ONNX graph; float names in, float names out.

    Parameters
    ----------
    seed : int
    unsigned : bool   activations uint8 instead of int8
    """

    def __init__(self, seed: int, unsigned: bool = False, opset: int = 21) -> None:
        self.rng = np.random.default_rng(seed)
        self.unsigned = unsigned
        self.opset = opset
        self.nodes, self.inputs, self.outputs, self.initializers = [], [], [], []
        self.count = 0

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def const(self, array) -> str:
        name = self.name("c")
        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def scale(self, near: float = 0.05) -> np.float32:
        return np.float32(near * self.rng.uniform(0.6, 1.7))

    def node(self, op: str, *inputs: str, domain: str = "", outputs: int = 1, **attributes) -> str:
        names = [self.name(op.lower()) for _ in range(outputs)]
        self.nodes.append(
            helper.make_node(op, inputs, names, f"node_{names[0]}", domain=domain, **attributes)
        )
        return names[0]

    def parameters(self, scale: float) -> tuple[str, str]:
        zero = self.rng.integers(0, 256) if self.unsigned else self.rng.integers(-128, 128)
        return self.const(np.float32(scale)), self.const(
            np.array(zero, np.uint8 if self.unsigned else np.int8)
        )

    def quantise(self, x: str, scale: float) -> str:
        """QuantizeLinear and DequantizeLinear."""
        return self.qdq(x, *self.parameters(scale))

    def qdq(self, x: str, *parameters: str) -> str:
        """The same with named scale and zero point."""
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, *parameters), *parameters)

    def input(self, *shape: int, scale: float | None = None) -> str:
        """A float input, quantised and dequantised."""
        name = self.name("x")
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return self.quantise(name, self.scale() if scale is None else scale)

    def weights(self, *shape: int, axis: int | None = 0) -> str:
        """Dequantised int8 weights; per channel along `axis`, per tensor where it is None."""
        data = self.rng.integers(-127, 128, shape).astype(np.int8)
        count = () if axis is None else (shape[axis],)
        scale = self.rng.uniform(0.002, 0.02, count).astype(np.float32)
        return self.node(
            "DequantizeLinear",
            self.const(data),
            self.const(scale),
            self.const(np.zeros(count, np.int8)),
            axis=axis or 0,
        )

    def bias(self, count: int) -> str:
        return self.const(self.rng.normal(0, 2, count).astype(np.float32))

    def output(self, name: str) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))

    def build(self, *outputs: str) -> onnx.ModelProto:
        shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "random", self.inputs, shapes, self.initializers)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        return onnx.shape_inference.infer_shapes(model)


def layer_differences(
    model: onnx.ModelProto, graph, seed: int, given: dict | None = None
) -> dict[str, np.ndarray]:
    """Per node, our result minus ONNX Runtime's (optimisations off), both computed from ONNX Runtime's inputs
    to that node.

    The codes of the graph's inputs are `given`, or random.
    """
    rng = np.random.default_rng(seed)
    codes = given or {
        name: rng.integers(-128, 128, graph.tensors[name].shape).astype(np.int8) for name in graph.inputs
    }
    return {
        f"{layer.name} ({layer.op_type})": layer.alone for layer in OrtLayers(model, graph).compare(codes)
    }
