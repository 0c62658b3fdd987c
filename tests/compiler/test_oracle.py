"""ONNX Runtime on the core's part as a quantised model, and the reference: within one step of each other."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from systolith.compiler.partition import partition_model
from systolith.evidence.layerwise import OrtLayers
from tests.compiler.test_bound_states import signal, voice_model
from tests.compiler.test_recurrent import float_model

MINIMUM = 0.995


class Net:
    """A random float network on [1, C, H, W]."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.constants = [], []
        self.channels, self.x = int(self.rng.integers(3, 9)), "x"
        self.start = self.channels

    def const(self, array):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    def node(self, op, *inputs, **attributes):
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], f"node{len(self.nodes)}", **attributes))
        return name

    def conv(self, group=1):
        out = self.channels if group > 1 else int(self.rng.integers(3, 13))
        shape = (out, self.channels // group, 3, 3)
        weights = self.rng.normal(0, (9 * shape[1]) ** -0.5, shape)
        bias = [self.const(self.rng.normal(0, 0.3, out))] if self.rng.random() < 0.6 else []
        self.x = self.node("Conv", self.x, self.const(weights), *bias, pads=[1] * 4, group=group)
        self.channels = out

    def depthwise(self):
        self.conv(self.channels)

    def function(self):
        op = str(self.rng.choice(["Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish", "Elu"]))
        self.x = self.node(op, self.x)

    def pool(self):
        self.x = self.node("MaxPool", self.x, kernel_shape=[3, 3], pads=[1] * 4)

    def residual(self):
        shortcut = self.x
        self.depthwise()
        self.x = self.node(str(self.rng.choice(["Add", "Mul", "Sub"])), self.x, shortcut)

    def hosted(self):
        """Of the host alone."""
        self.x = self.node("Softmax", self.x, axis=1)

    def model(self):
        y = self.node("Flatten", self.node("GlobalAveragePool", self.x))
        weights = self.rng.normal(0, self.channels**-0.5, (self.channels, 7))
        y = self.node("Gemm", y, self.const(weights), self.const(self.rng.normal(0, 0.3, 7)))
        values = [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, self.start, 10, 10]),
            helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, 7]),
        ]
        graph = helper.make_graph(self.nodes, "net", values[:1], values[1:], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)

    def samples(self):
        return {"x": self.rng.normal(0, 1, (8, 1, self.start, 10, 10)).astype(np.float32)}


def counted(plan, equal, total, seeds=3):
    """Compare every layer of every step of the core that the oracle has."""
    for part in plan.cores:
        model = onnx.load_model_from_string(part.core)
        onnx.checker.check_model(model)
        assert [value.name for value in model.graph.input] == list(part.graph.inputs)
        assert [value.name for value in model.graph.output] == list(part.graph.outputs)
        layers = OrtLayers(model, part.graph)
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            codes = {
                name: rng.integers(-128, 128, part.graph.tensors[name].shape).astype(np.int8)
                for name in part.graph.inputs
            }
            for layer in layers.compare(codes):
                assert np.abs(layer.alone).max(initial=0) <= 1, f"{layer.name} ({layer.op_type})"
                # A mean of equally scaled integers that lies between two codes may go either way.
                equal[layer.op_type] += int(np.count_nonzero(layer.alone == 0)) + layer.ties
                total[layer.op_type] += layer.alone.size


@pytest.mark.parametrize("hosted", [False, True], ids=["whole", "host between"])
def test_random_networks(hosted):
    equal, total, seeds = Counter(), Counter(), range(10)
    for seed in seeds:
        net = Net(100 + seed)
        net.conv()
        for _ in range(5):
            kinds = [net.conv, net.depthwise, net.function, net.pool, net.residual]
            kinds[int(net.rng.integers(len(kinds)))]()
        if hosted:
            net.hosted()
            net.conv()
        plan = partition_model(net.model(), net.samples())
        assert len(plan.cores) == (2 if hosted else 1)
        counted(plan, equal, total)
    assert {"Conv", "Gemm", "MaxPool"} <= set(total)
    for op in total:
        assert equal[op] >= MINIMUM * total[op], f"{op}: {total[op] - equal[op]} of {total[op]} differ"


@pytest.mark.parametrize("op_type", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_recurrent_networks_are_near(op_type, direction):
    """ONNX Runtime computes cells in float between quantised operands; tables and the rounded state of each
    step make the difference, so that the whole result is compared, in steps of the hidden state."""
    model, samples = float_model(op_type, direction)
    plan = partition_model(model, {"x": samples})
    session = onnxruntime.InferenceSession(plan.core.core)
    graph, off = plan.graph, []
    for sample in samples[:8]:
        x = graph.tensors["x"]
        codes = np.clip(np.rint(sample / x.scale) + x.zero_point, -128, 127).astype(np.int8)
        ours = graph.run({"x": codes})
        for name, value in zip(graph.outputs, session.run(list(graph.outputs), {"x": sample}), strict=True):
            tensor = graph.tensors[name]
            off.append((ours[name] - tensor.zero_point - np.rint(value / tensor.scale)).ravel())
    steps = np.abs(np.concatenate(off))
    assert steps.max() <= 8 and steps.mean() < 0.6


def test_a_step_that_reads_what_onnx_has_no_name_for_has_no_model():
    """The parts of a cell state go from one step of the core to the next; the model has only the state."""
    zero = np.zeros((40, 1, 1, 20), np.float32)
    plan = partition_model(voice_model(), {"x": signal(), "h": zero, "c": zero})
    model = [value.name for value in voice_model().graph.input]
    before, behind = plan.cores
    assert set(before.inputs) <= set(model) and not set(behind.inputs) <= set(model)
    assert behind.core == b""
