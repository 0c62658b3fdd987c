"""The cycle model beside the RTL: whole programs within 3 %, each layer of more than 1,000 cycles within 10
%."""

import numpy as np
import pytest

from systolith import api
from systolith.reference.conv import Conv
from systolith.reference.graph import QGraph
from systolith.reference.reshape import Reshape
from systolith.spec.isa import Cell
from systolith.spec.memory import FULL_RATE, MemoryTiming
from tests.graphs import ARCHS, GraphBuilder

#: A 16-bit SDRAM.
SLOW = MemoryTiming(latency=20, bytes_per_cycle=2)


def conv(
    b: GraphBuilder, x: str, channels: int, kernel: int, stride: int = 1, depthwise: bool = False
) -> str:
    """A convolution that keeps the size of the image, divided by the stride."""
    group = b.tensors[x].shape[1] if depthwise else 1
    weights = b.weights(channels, b.tensors[x].shape[1] // group, kernel, kernel)
    before = kernel // 2
    return b.append(
        Conv(
            weights=weights,
            bias=np.zeros(channels, np.int32),
            strides=(stride, stride),
            dilations=(1, 1),
            pads=(before, before, before, before),
            group=group,
            x_zero=b.tensors[x].zero_point,
            requant=b.requant(channels, weights[0].size),
        ),
        x,
    )


def flattened(b: GraphBuilder, x: str) -> str:
    shape = b.tensors[x].shape
    return b.append(Reshape(shape=(shape[0], int(np.prod(shape[1:])))), x)


def separable() -> QGraph:
    """Depthwise and pointwise layers, as MobileNet has them."""
    b = GraphBuilder(1)
    x = conv(b, b.input((1, 3, 48, 48)), 8, 3, stride=2)
    for channels, stride in ((16, 1), (32, 2), (32, 1)):
        x = conv(b, conv(b, x, b.tensors[x].shape[1], 3, stride, depthwise=True), channels, 1)
    return b.finish(b.matmul(flattened(b, b.max_pool(x))))


def residual() -> QGraph:
    """Convolutions with an addition round them, as ResNet has them."""
    b = GraphBuilder(2)
    x = conv(b, b.input((1, 3, 32, 32)), 16, 3)
    for channels, stride in ((16, 1), (32, 2)):
        inner = conv(b, conv(b, x, channels, 3, stride), channels, 3)
        x = b.binary(inner, x if stride == 1 else conv(b, x, channels, 1, stride))
    return b.finish(x)


def perceptron() -> QGraph:
    """Fully connected layers at batch 1: as many instructions as weights."""
    b = GraphBuilder(3)
    x = b.input((1, 640))
    for _ in range(6):
        x = b.matmul(x)
    return b.finish(x)


def recurrent(kind: Cell, inputs: int, units: int) -> QGraph:
    """Two layers over a sequence; of few units, so that the cells are the limit, or of many."""
    b = GraphBuilder(4)
    x = b.recurrent(b.input((9, 1, inputs)), kind, units, reverse=False)
    x = b.append(Reshape(shape=(9, 1, units)), x)
    return b.finish(b.recurrent(x, kind, units, reverse=True))


@pytest.mark.parametrize("memory", [FULL_RATE, SLOW], ids=["full", "slow"])
@pytest.mark.parametrize(
    ("network", "arch"),
    [
        (separable, "array8"),
        (residual, "array8"),
        (perceptron, "array8"),
        (separable, "bus64"),
        (perceptron, "bus64"),
        (separable, "tiny"),
        (perceptron, "tiny"),
    ],
)
def test_the_model_is_near_the_rtl(network, arch, memory):
    near(network(), arch, memory)


@pytest.mark.parametrize("memory", [FULL_RATE, SLOW], ids=["full", "slow"])
@pytest.mark.parametrize(
    ("inputs", "units", "arch"),
    [(16, 20, "array8"), (40, 48, "array8"), (16, 20, "bus64"), (24, 28, "bus64"), (10, 12, "tiny")],
)
@pytest.mark.parametrize("kind", Cell)
def test_the_model_is_near_the_rtl_of_recurrent_layers(kind, inputs, units, arch, memory):
    near(recurrent(kind, inputs, units), arch, memory)


def near(graph: QGraph, arch: str, memory: MemoryTiming) -> None:
    result = api.verify(graph, ARCHS[arch], on=("rtl",), memory=memory).as_dict()
    assert result["bit_exact"]
    assert abs(result["estimated_cycles"] / result["cycles"] - 1) <= 0.03, (
        result["estimated_cycles"],
        result["cycles"],
    )
    for layer in result["layers"]:
        if layer["cycles"] > 1000:
            assert abs(layer["estimated_cycles"] / layer["cycles"] - 1) <= 0.10, layer
    assert sum(layer["cycles"] for layer in result["layers"]) <= result["cycles"]


def test_a_slow_memory_limits_what_it_feeds():
    fast, slow = (
        api.explain(perceptron(), "array8", memory=memory)["layers"] for memory in (FULL_RATE, SLOW)
    )
    assert fast[0]["limit"] == "weights"
    assert slow[-1]["limit"] == "memory"
