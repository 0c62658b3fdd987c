"""Graphs whose numbers do not depend on calibration: what the benchmarks measure, and what says whether the
compiler makes the programs that were measured."""

import numpy as np

from systolith.reference.conv import Conv
from systolith.reference.graph import Op, QGraph, QNode, QTensor, Requant
from systolith.reference.matmul import MatMul
from systolith.reference.max_pool import MaxPool
from systolith.reference.recurrent import Recurrent
from systolith.reference.reshape import Reshape
from systolith.spec import numerics
from systolith.spec.isa import Cell

__all__ = ["layer", "network"]


def layer(kind: Cell, steps: int, inputs: int, units: int) -> QGraph:
    """One layer over one sequence, with weights over the whole of int8."""
    rng = np.random.default_rng(0)
    weights, recurrent = (rng.integers(-127, 128, (kind.gates, units, k)) for k in (inputs, units))
    if kind is Cell.GRU:
        weights[3], recurrent[2] = 0, 0
    mult, shift = numerics.approximate_scale(4096 / (74 * 74 * np.sqrt(inputs + units)))
    op = Recurrent(
        kind=kind,
        weights=weights.astype(np.int16),
        recurrent=recurrent.astype(np.int8),
        bias=np.zeros((kind.gates, units), np.int32),
        mult=np.full((kind.gates, units), mult),
        shift=np.full((kind.gates, units), shift),
        x_zero=0,
        hidden=np.zeros((1, units), np.int8),
        state=np.zeros((1, units), np.int16),
    )
    tensors = {
        "x": QTensor(name="x", shape=(steps, 1, inputs), scale=1 / 128, zero_point=0),
        "y": QTensor(name="y", shape=(steps, 1, 1, units), scale=1 / 128, zero_point=0),
    }
    node = QNode(
        name=kind.name.lower(),
        op=op,
        inputs=("x",),
        output="y",
        op_type=kind.name,
        sources=(kind.name.lower(),),
    )
    return QGraph(
        name=f"{kind.name.lower()}_{inputs}_{units}",
        tensors=tensors,
        nodes=(node,),
        inputs=("x",),
        outputs=("y",),
    )


def network() -> QGraph:
    """3 x 3 with a stride, depthwise, 1 x 1, MaxPool, and a matrix product over all that is left."""
    rng = np.random.default_rng(0)
    tensors = {"t0": QTensor(name="t0", shape=(1, 3, 32, 32), scale=0.05, zero_point=0)}
    nodes: list[QNode] = []

    def add(op: Op, shape: tuple[int, ...]) -> None:
        name = f"t{len(tensors)}"
        kind = type(op).__name__
        nodes.append(
            QNode(name=name, op=op, inputs=(f"t{len(nodes)}",), output=name, op_type=kind, sources=(name,))
        )
        tensors[name] = QTensor(name=name, shape=shape, scale=0.05, zero_point=0)

    def conv(out: int, per_group: int, size: int, stride: int = 1, group: int = 1) -> Conv:
        return Conv(
            weights=rng.integers(-127, 128, (out, per_group, size, size)).astype(np.int8),
            bias=np.zeros(out, np.int32),
            strides=(stride, stride),
            dilations=(1, 1),
            pads=(size // 2,) * 4,
            group=group,
            x_zero=0,
            requant=_requant(out),
        )

    add(conv(24, 3, 3, stride=2), (1, 24, 16, 16))
    add(conv(24, 1, 3, group=24), (1, 24, 16, 16))
    add(conv(40, 24, 1), (1, 40, 16, 16))
    add(MaxPool(kernel=(2, 2), strides=(2, 2), dilations=(1, 1), pads=(0, 0, 0, 0)), (1, 40, 8, 8))
    add(Reshape(shape=(1, 2560)), (1, 2560))
    weights = rng.integers(-127, 128, (2560, 24)).astype(np.int8)
    add(MatMul(weights=weights, bias=np.zeros(24, np.int32), x_zero=0, requant=_requant(24)), (1, 24))
    return QGraph(name="network", tensors=tensors, nodes=tuple(nodes), inputs=("t0",), outputs=("t6",))


def _requant(channels: int) -> Requant:
    return Requant(mult=np.full(channels, 1 << 15), shift=np.full(channels, 26), zero=0)
