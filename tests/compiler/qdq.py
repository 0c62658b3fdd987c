"""Build small QDQ models, and compare the quantised graph with ONNX Runtime layer by layer."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

__all__ = ["QdqModel", "held", "layer_differences"]


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


def held(array: np.ndarray, tensor) -> np.ndarray:
    """ONNX Runtime's values as the graph holds them."""
    if array.dtype == np.int8:
        return array
    if array.dtype == np.uint8:
        return (array.astype(np.int16) - 128).astype(np.int8)
    codes = np.rint(array / np.float32(tensor.scale)) + tensor.zero_point
    return np.clip(codes, -128, 127).astype(np.int8)


def layer_differences(model: onnx.ModelProto, graph, seed: int, given: dict | None = None) -> dict[str, np.ndarray]:
    """Per node, our result minus ONNX Runtime's (optimisations off), both computed from ONNX Runtime's inputs to that node.

    The codes of the graph's inputs are `given`, or random.
    """
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    known = {value.name for value in model.graph.output}
    made = [
        name
        for node in model.graph.node
        for name in node.output
        if name in graph.tensors and name not in known
    ]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(exposed.SerializeToString(), options)
    rng = np.random.default_rng(seed)
    values = {name: tensor.data for name, tensor in graph.tensors.items() if tensor.data is not None}
    feeds = {}
    for name in graph.inputs:
        tensor = graph.tensors[name]
        codes = given[name] if given else rng.integers(-128, 128, tensor.shape).astype(np.int8)
        values[name] = codes
        real = (codes.astype(np.int32) - tensor.zero_point).astype(np.float32) * np.float32(tensor.scale)
        feeds[name] = {
            "int8": codes,
            "uint8": (codes.astype(np.int16) + 128).astype(np.uint8),
            "float32": real,
        }[tensor.dtype]
    names = [value.name for value in session.get_outputs()]
    values.update(
        (name, held(array, graph.tensors[name]))
        for name, array in zip(names, session.run(names, feeds), strict=True)
    )
    differences = {}
    for node in graph.nodes:
        result = node.op.run(*(values[name] for name in node.inputs))
        if node.output in values:
            differences[f"{node.name} ({node.op_type})"] = result.astype(np.int16) - values[node.output]
        else:
            values[node.output] = (
                result  # A step that the model does not have: judged with the next one that it has.
            )
    assert set(graph.outputs) <= set(values)
    return differences
