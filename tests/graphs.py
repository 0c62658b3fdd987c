"""Random quantised graphs: shapes, strides, pads, dilations, groups and zero points at their extremes."""

from __future__ import annotations

import numpy as np

from systolith.reference.average_pool import AveragePool
from systolith.reference.conv import Conv
from systolith.reference.elementwise import Add, Lookup, Mul
from systolith.reference.graph import QGraph, QNode, QTensor, Requant
from systolith.reference.matmul import MatMul
from systolith.reference.max_pool import MaxPool
from systolith.reference.shape import Concat, Reshape, Transpose
from systolith.spec import numerics

__all__ = ["GraphBuilder", "random_graph"]


class GraphBuilder:
    """Appends operators with random attributes to a growing graph."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.name = f"seed{seed}"
        self.tensors: dict[str, QTensor] = {}
        self.nodes: list[QNode] = []
        self.inputs: list[str] = []

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def zero(self) -> int:
        return int(self.rng.choice([-128, 127, 0, self.integer(-128, 127)]))

    def input(self, shape: tuple[int, ...]) -> str:
        name = f"in{len(self.inputs)}"
        self.tensors[name] = QTensor(name=name, shape=shape, scale=0.05, zero_point=self.zero())
        self.inputs.append(name)
        return name

    def constant(self, shape: tuple[int, ...]) -> str:
        name = f"const{len(self.tensors)}"
        data = self.rng.integers(-128, 128, shape).astype(np.int8)
        self.tensors[name] = QTensor(name=name, shape=shape, scale=0.05, zero_point=self.zero(), data=data)
        return name

    def append(self, op, *inputs: str) -> str:
        arrays = [np.zeros(self.tensors[name].shape, np.int8) for name in inputs]
        shape = op.run(*arrays).shape
        output = f"t{len(self.nodes)}"
        self.tensors[output] = QTensor(name=output, shape=shape, scale=0.05, zero_point=self.zero())
        kind = type(op).__name__
        self.nodes.append(QNode(name=f"{kind.lower()}{len(self.nodes)}", op=op, inputs=inputs, output=output, op_type=kind, sources=(output,)))
        return output

    def finish(self, *outputs: str) -> QGraph:
        return QGraph(name=self.name, tensors=self.tensors, nodes=tuple(self.nodes), inputs=tuple(self.inputs), outputs=outputs)

    def table(self):
        return self.rng.integers(-128, 128, 256).astype(np.int8) if self.rng.random() < 0.3 else None

    def requant(self, channels: int, terms: int) -> Requant:
        """Scales around the one that brings a sum of random products to int8 range."""
        spread = 2.0 ** self.rng.uniform(-2, 2, channels) * 100 / (74 * 74 * np.sqrt(terms))
        pairs = [numerics.approximate_scale(float(s)) for s in spread]
        low, high = sorted((self.integer(-128, 127), self.integer(-128, 127))) if self.rng.random() < 0.3 else (-128, 127)
        return Requant(mult=np.array([m for m, _ in pairs]), shift=np.array([s for _, s in pairs]), zero=self.zero(), low=low, high=high, table=self.table())

    def weights(self, *shape: int) -> np.ndarray:
        """Half the time all weights saturate."""
        if self.rng.random() < 0.2:
            return self.rng.choice(np.array([-128, 127], np.int8), shape)
        return self.rng.integers(-128, 128, shape).astype(np.int8)

    def window(self, extents: tuple[int, int], largest: int = 4) -> dict:
        kernel, dilations, strides, pads = [], [], [], []
        for extent in extents:
            k = self.integer(1, min(largest, extent + 1))
            d = self.integer(1, 2) if k > 1 and (k - 1) * 2 < extent + 2 else 1
            span = (k - 1) * d + 1
            least = max(0, span - extent)
            before = min(self.integer(0, max(1, k - 1)), span - 1)
            after = min(max(least - before, self.integer(0, max(1, k - 1))), span - 1)
            kernel.append(k), dilations.append(d), strides.append(self.integer(1, 3)), pads.append((before, after))
            assert extent + before + after >= span
        return {"kernel": tuple(kernel), "dilations": tuple(dilations), "strides": tuple(strides),
                "pads": (pads[0][0], pads[1][0], pads[0][1], pads[1][1])}

    def conv(self, x: str, channels: int | None = None, group: int | None = None) -> str:
        n, c, *spatial = self.tensors[x].shape
        window = self.window((1, spatial[0]) if len(spatial) == 1 else tuple(spatial), 4 if len(spatial) == 2 else 5)
        if len(spatial) == 1:
            window = {k: (v[0] * 0 + (1 if k != "pads" else 0), *v[1:]) for k, v in window.items()}
            window["pads"] = (0, window["pads"][1], 0, window["pads"][3])
        if group is None:
            group = int(self.rng.choice([g for g in range(1, c + 1) if c % g == 0] if self.rng.random() < 0.5 else [1, c]))
        multiplier = self.integer(1, 2) if group == c and c > 1 else self.integer(1, max(1, 24 // group))
        m = channels or group * (1 if group == c and c > 1 and self.rng.random() < 0.7 else multiplier)
        weights = self.weights(m, c // group, *window["kernel"])
        op = Conv(weights=weights, bias=self.rng.integers(-20000, 20000, m).astype(np.int32), strides=window["strides"], dilations=window["dilations"],
                  pads=window["pads"], group=group, x_zero=self.tensors[x].zero_point, requant=self.requant(m, weights[0].size))
        return self.append(op, x)

    def matmul(self, x: str) -> str:
        k, m = self.tensors[x].shape[-1], self.integer(1, 40)
        op = MatMul(weights=self.weights(k, m), bias=self.rng.integers(-20000, 20000, m).astype(np.int32), x_zero=self.tensors[x].zero_point,
                    requant=self.requant(m, k))
        return self.append(op, x)

    def max_pool(self, x: str) -> str:
        spatial = self.tensors[x].shape[2:]
        window = self.window(spatial)
        return self.append(MaxPool(**window, table=self.table()), x)

    def average_pool(self, x: str) -> str:
        spatial = self.tensors[x].shape[2:]
        window = self.window(spatial)
        counts = []
        for axis, extent in enumerate(spatial):
            k, d, s = window["kernel"][axis], window["dilations"][axis], window["strides"][axis]
            before, after = window["pads"][axis], window["pads"][axis + 2]
            size = (extent + before + after - (k - 1) * d - 1) // s + 1
            starts = np.arange(size) * s - before
            inside = np.array([sum(0 <= start + j * d < extent for j in range(k)) for start in starts])
            counts.append(np.maximum(inside, 1) if self.rng.random() < 0.5 else np.full(size, k))
        products = {int(v) for v in np.unique(np.multiply.outer(*counts))}
        zero = self.zero()
        requants = {}
        for count in products:
            mult, shift = numerics.approximate_scale(1.1 / count)
            requants[count] = Requant(mult=np.array([mult]), shift=np.array([shift]), zero=zero)
        return self.append(AveragePool(**window, counts_y=counts[0], counts_x=counts[1], x_zero=self.tensors[x].zero_point, requants=requants), x)

    def binary(self, a: str, b: str) -> str:
        common = dict(a_zero=self.tensors[a].zero_point, b_zero=self.tensors[b].zero_point, zero=self.zero(), table=self.table())
        if self.rng.random() < 0.5:
            ma, mb, shift = numerics.approximate_pair(self.rng.uniform(0.2, 1.2), self.rng.uniform(-1.2, 1.2))
            return self.append(Add(a_mult=ma, b_mult=mb, shift=shift, **common), a, b)
        mult, shift = numerics.approximate_scale(self.rng.uniform(0.002, 0.02))
        return self.append(Mul(a_mult=mult, shift=shift, **common), a, b)

    def lookup(self, x: str) -> str:
        return self.append(Lookup(table=self.rng.integers(-128, 128, 256).astype(np.int8)), x)


def random_graph(seed: int, largest: int = 9, steps: int = 4) -> QGraph:
    """A chain of `steps` random operators with branches, then perhaps a classifier."""
    b = GraphBuilder(seed)
    n = 1 if b.rng.random() < 0.8 else 2
    if b.rng.random() < 0.75:
        x = b.input((n, b.integer(1, 20), b.integer(1, largest), b.integer(1, largest)))
    else:
        x = b.input((n, b.integer(1, 20), b.integer(1, largest * 4)))
    for _ in range(steps):
        shape = b.tensors[x].shape
        kind = b.rng.choice(["conv", "conv", "depthwise", "max_pool", "average_pool", "binary", "constant", "concat", "lookup", "gate", "transpose"])
        if kind in ("max_pool", "average_pool") and len(shape) != 4:
            kind = "conv"
        if kind == "conv":
            x = b.conv(x)
        elif kind == "depthwise":
            x = b.conv(x, channels=shape[1], group=shape[1])
        elif kind == "max_pool":
            x = b.max_pool(x)
        elif kind == "average_pool":
            x = b.average_pool(x)
        elif kind == "binary":
            x = b.binary(x, b.lookup(x))
        elif kind == "constant":
            x = b.binary(x, b.constant(tuple(e if b.rng.random() < 0.5 else 1 for e in shape)))
        elif kind == "gate":
            other = b.lookup(x)
            if len(shape) == 4:
                kernel = shape[2:]
                mult, shift = numerics.approximate_scale(1 / (kernel[0] * kernel[1]))
                count = kernel[0] * kernel[1]
                pooled = b.append(AveragePool(kernel=kernel, strides=(1, 1), dilations=(1, 1), pads=(0, 0, 0, 0), counts_y=np.array([kernel[0]]),
                                              counts_x=np.array([kernel[1]]), x_zero=b.tensors[x].zero_point,
                                              requants={count: Requant(mult=np.array([mult]), shift=np.array([shift]), zero=b.zero())}), x)
                x = b.binary(other, pooled)
            else:
                x = other
        elif kind == "concat":
            other = b.conv(x, group=1) if b.rng.random() < 0.3 else b.lookup(x)
            if b.tensors[other].shape[2:] != shape[2:]:
                other = b.lookup(x)
            x = b.append(Concat(axis=1), x, other)
        elif kind == "lookup":
            x = b.lookup(x)
        elif kind == "transpose" and len(shape) == 4:
            x = b.append(Transpose(perm=(0, *(int(i) + 1 for i in b.rng.permutation(3)))), x)
    shape = b.tensors[x].shape
    if b.rng.random() < 0.5 and len(shape) == 4 and int(np.prod(shape[1:])) <= 2000:
        flat = b.append(Reshape(shape=(shape[0], int(np.prod(shape[1:])))), x)
        x = b.matmul(b.matmul(flat))
    return b.finish(x)
