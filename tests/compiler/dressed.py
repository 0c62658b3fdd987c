"""Models in a dress, and the same plain, side by side in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from systolith.compiler.base.model import Model, array_type
from systolith.compiler.passes.dress import plain

__all__ = ["Dressed", "check_types", "kinds", "run"]


class Dressed:
    """Appends nodes to an ONNX graph, and runs it.

    Parameters
    ----------
    seed, opset : int
    """

    def __init__(self, seed: int, opset: int = 21) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.feeds: dict[str, np.ndarray] = {}

    def input(self, array: np.ndarray) -> str:
        """An input; `array` is what it is fed."""
        name = f"x{len(self.inputs)}"
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        self.inputs.append(helper.make_tensor_value_info(name, kind, array.shape))
        self.feeds[name] = array
        return name

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.normal(0, 1, shape).astype(np.float32)

    def ints(self, kind: type, *shape: int) -> np.ndarray:
        limits = np.iinfo(kind)
        return self.rng.integers(limits.min, limits.max, shape, endpoint=True).astype(kind)

    def const(self, array: object, kind: type | None = None) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, kind), name))
        return name

    def node(self, op: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: object) -> str:
        """A node; returns its first result, and the others are named with 1, 2, ... behind it."""
        label = f"{op.lower()}{len(self.nodes)}"
        names = [label, *(f"{label}_{at}" for at in range(1, outputs))]
        self.nodes.append(helper.make_node(op, inputs, names, f"node_{label}", domain=domain, **attributes))
        return label

    def microsoft(self, op: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        return self.node(op, *inputs, outputs=outputs, domain="com.microsoft", **attributes)

    def qdq(self, x: str, scale: float, zero: int, kind: type = np.int8) -> str:
        parameters = self.const(scale, np.float32), self.const(zero, kind)
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, *parameters), *parameters)

    def model(self, *outputs: str, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
        values = [helper.make_tensor_value_info(name, kind, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "dressed", self.inputs, values, self.constants)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def typed(self, *outputs: str, kind: int = TensorProto.FLOAT) -> Model:
        """The model with the types of all its tensors, as ONNX Runtime makes them."""
        proto = self.model(*outputs, kind=kind)
        types = {name: array_type(array) for name, array in everything(proto, self.feeds).items()}
        return Model.from_proto(proto, types)

    def check(self, *outputs: str, kind: int = TensorProto.FLOAT, within: float = 0.0) -> Model:
        """The plain model; its results are those of the model within a number, and its types are right."""
        model = self.typed(*outputs, kind=kind)
        made = plain(model)
        before, after = (run(one.to_proto(), self.feeds) for one in (model, made))
        for name, one, other in zip(outputs, before, after, strict=True):
            assert one.dtype == other.dtype and one.shape == other.shape, name
            difference = np.abs(one.astype(np.float64) - other.astype(np.float64)).max(initial=0.0)
            assert difference <= within, f"{name} differs by {difference}"
        check_types(made, self.feeds)
        return made


def kinds(model: Model) -> list[str]:
    return [node.op_type for node in model.nodes]


def run(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> Sequence[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(proto.SerializeToString(), options).run(None, feeds)


def everything(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every tensor that a node gives, by name."""
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    given = {value.name for value in proto.graph.output}
    made = [name for node in proto.graph.node for name in node.output if name and name not in given]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    names = [value.name for value in watched.graph.output]
    return dict(zip(names, run(watched, feeds), strict=True))


def check_types(model: Model, feeds: dict[str, np.ndarray]) -> None:
    """Every tensor that a node gives has the element type and shape that the model states."""
    for name, array in everything(model.to_proto(), feeds).items():
        assert model.type_of(name) == array_type(array), f"{name} is {array_type(array)}"
