"""Random quantised graphs and random cores: shapes, strides, pads, dilations, groups and zero points at their
extremes.

One generator makes all of them. What it decides (operators, extents, attributes) comes from `decide`, which
is either a seeded generator or hypothesis, which then makes a failing graph smaller; 0 or the lowest value is
always the simplest. The contents of weights, biases and tables come from a seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from systolith.reference.add import Add
from systolith.reference.average_pool import AveragePool
from systolith.reference.concat import Concat
from systolith.reference.conv import Conv
from systolith.reference.conv_transpose import ConvTranspose
from systolith.reference.graph import QGraph, QNode, QTensor, Requant
from systolith.reference.lookup import Lookup
from systolith.reference.matmul import MatMul
from systolith.reference.max_pool import MaxPool
from systolith.reference.maximum import Maximum
from systolith.reference.mul import Mul
from systolith.reference.recurrent import Recurrent
from systolith.reference.reshape import Reshape
from systolith.reference.select import Select
from systolith.reference.take import Take
from systolith.reference.transpose import Transpose
from systolith.spec import numerics
from systolith.spec.arch import PRESETS, ArchConfig
from systolith.spec.isa import Cell

__all__ = [
    "ARCHS",
    "CompactGraphs",
    "GraphBuilder",
    "archs",
    "assert_same_bits",
    "graphs",
    "random_graph",
    "random_inputs",
]

ARCHS = {
    # What a compact core runs has tests of its own.
    **{name: arch for name, arch in PRESETS.items() if not arch.compact},
    "wide": dataclasses.replace(
        PRESETS["tiny"],
        name="wide",
        rows=4,
        cols=8,
        lanes=2,
        act_bytes=1 << 16,
        weight_bytes=1 << 16,
        param_rows=256,
        table_slots=8,
        weight_rows_per_cycle=2,
    ),
    "nodw": dataclasses.replace(
        PRESETS["array8"], name="nodw", depthwise=False, weight_rows_per_cycle=1, act_blocks=1
    ),
    "array32": dataclasses.replace(
        PRESETS["array16"], name="array32", rows=32, cols=32, lanes=32, weight_rows_per_cycle=32
    ),
}
ARCHS["bus32"] = dataclasses.replace(
    ARCHS["wide"], name="bus32", bus_bits=32, weight_rows_per_cycle=1, act_blocks=1
)
ARCHS["bus64"] = dataclasses.replace(
    ARCHS["wide"],
    name="bus64",
    rows=8,
    cols=4,
    lanes=4,
    bus_bits=64,
    weight_rows_per_cycle=8,
    depthwise=False,
)
#: `tiny` as it is holds little; the graphs are about order and numbers, not about capacity.
ARCHS["tiny"] = dataclasses.replace(PRESETS["tiny"], act_bytes=1 << 16, weight_bytes=1 << 14)

#: Elements of one tensor, at most: enough for several tiles of every loop, and quick.
_MOST = 4000


class GraphBuilder:
    """Appends operators with random attributes to a growing graph.

    Parameters
    ----------
    seed : int          seed of the contents, and of the decisions if there is no `decide`
    decide : callable   ``decide(low, high)`` gives an integer of that range, both ends included
    """

    def __init__(self, seed: int, decide: Callable[[int, int], int] | None = None) -> None:
        self.rng = np.random.default_rng(seed)
        self.integer = decide or (lambda low, high: int(self.rng.integers(low, high + 1)))
        self.name = f"seed{seed}"
        self.tensors: dict[str, QTensor] = {}
        self.nodes: list[QNode] = []
        self.inputs: list[str] = []

    def choose(self, *options):
        return options[self.integer(0, len(options) - 1)]

    def chance(self, percent: int) -> bool:
        return self.integer(0, 99) >= 100 - percent

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def zero(self) -> int:
        return self.choose(0, -128, 127, self.integer(-128, 127))

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
        self.nodes.append(
            QNode(
                name=f"{kind.lower()}{len(self.nodes)}",
                op=op,
                inputs=inputs,
                output=output,
                op_type=kind,
                sources=(output,),
            )
        )
        return output

    def finish(self, *outputs: str) -> QGraph:
        return QGraph(
            name=self.name,
            tensors=self.tensors,
            nodes=tuple(self.nodes),
            inputs=tuple(self.inputs),
            outputs=outputs,
        )

    def table(self):
        return self.rng.integers(-128, 128, 256).astype(np.int8) if self.chance(30) else None

    def requant(self, channels: int, terms: int) -> Requant:
        """Scales around the one that brings a sum of random products to int8 range."""
        spread = 2.0 ** self.rng.uniform(-2, 2, channels) * 100 / (74 * 74 * np.sqrt(terms))
        pairs = [numerics.approximate_scale(float(s)) for s in spread]
        low, high = (
            sorted((self.integer(-128, 127), self.integer(-128, 127))) if self.chance(30) else (-128, 127)
        )
        return Requant(
            mult=np.array([m for m, _ in pairs]),
            shift=np.array([s for _, s in pairs]),
            zero=self.zero(),
            low=low,
            high=high,
            table=self.table(),
        )

    def weights(self, *shape: int) -> np.ndarray:
        """Sometimes all weights are at the ends of int8."""
        if self.chance(20):
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
            (
                kernel.append(k),
                dilations.append(d),
                strides.append(self.integer(1, 3)),
                pads.append((before, after)),
            )
            assert extent + before + after >= span
        return {
            "kernel": tuple(kernel),
            "dilations": tuple(dilations),
            "strides": tuple(strides),
            "pads": (pads[0][0], pads[1][0], pads[0][1], pads[1][1]),
        }

    def same(self, rank: int) -> dict:
        """A window that keeps the extents."""
        across = 2 * self.integer(0, 1) + 1, self.integer(1, 2)
        down = across if rank == 4 else (1, 1)
        pads = [(k - 1) * d // 2 for k, d in (down, across)]
        return {
            "kernel": (down[0], across[0]),
            "dilations": (down[1], across[1]),
            "strides": (1, 1),
            "pads": (*pads, *pads),
        }

    def block(self, x: str) -> str:
        """A convolution or matrix product that keeps the shape, and a way round it: what the core may
        chain."""
        shape = self.shape(x)
        y = (
            self.matmul(x, shape[-1])
            if len(shape) == 2
            else self.conv(x, shape[1], self.choose(1, shape[1]), self.same(len(shape)))
        )
        return self.binary(*self.choose((x, y), (y, x)))

    def conv(
        self, x: str, channels: int | None = None, group: int | None = None, window: dict | None = None
    ) -> str:
        return self.convolve(x, window or self.windows(self.shape(x)[2:]), channels, group)

    def windows(self, spatial: tuple[int, ...]) -> dict:
        """A window over one or two axes, both as two."""
        if len(spatial) == 2:
            return self.window(spatial)
        window = self.window((1, spatial[0]), 5)
        pads = (0, window["pads"][1], 0, window["pads"][3])
        return {name: (1, pair[1]) for name, pair in window.items() if name != "pads"} | {"pads": pads}

    def convolve(self, x: str, window: dict, channels: int | None, group: int | None) -> str:
        c = self.shape(x)[1]
        if group is None:
            group = self.choose(1, c, self.choose(*(g for g in range(1, c + 1) if c % g == 0)))
        multiplier = self.integer(1, 2) if group == c and c > 1 else self.integer(1, max(1, 24 // group))
        m = channels or group * (1 if group == c and c > 1 and not self.chance(30) else multiplier)
        weights = self.weights(m, c // group, *window["kernel"])
        op = Conv(
            weights=weights,
            bias=self.rng.integers(-20000, 20000, m).astype(np.int32),
            strides=window["strides"],
            dilations=window["dilations"],
            pads=window["pads"],
            group=group,
            x_zero=self.tensors[x].zero_point,
            requant=self.requant(m, weights[0].size),
        )
        return self.append(op, x)

    def conv_transpose(self, x: str) -> str:
        """With kernels shorter and longer than the stride, and results that reach beyond them."""
        c, spatial = self.shape(x)[1], self.shape(x)[2:]
        group = self.choose(1, c)
        m = group * self.integer(1, max(1, 12 // group))
        sizes = [(self.integer(1, 5), self.integer(1, 3), self.integer(1, 2)) for _ in spatial]
        if len(sizes) == 1:
            sizes.insert(0, (1, 1, 1))
        kernel, strides, dilations = zip(*sizes, strict=True)
        pads, out = [], []
        for extent, (k, s, d) in zip((1, *spatial)[-2:], sizes, strict=True):
            full = (extent - 1) * s + (k - 1) * d + 1
            pads.append(self.integer(0, min(k - 1, full - 1)))
            out.append(self.integer(1, full - pads[-1] + self.choose(0, s - 1)))
        if len(spatial) == 1:
            pads[0], out[0] = 0, 1
        weights = self.weights(m, c // group, *kernel)
        op = ConvTranspose(
            weights=weights,
            bias=self.rng.integers(-20000, 20000, m).astype(np.int32),
            strides=strides,
            dilations=dilations,
            pads=tuple(pads),
            out=tuple(out),
            group=group,
            x_zero=self.tensors[x].zero_point,
            requant=self.requant(m, weights[0].size),
        )
        return self.append(op, x)

    def matmul(self, x: str, m: int | None = None) -> str:
        k, m = self.tensors[x].shape[-1], m or self.integer(1, 40)
        op = MatMul(
            weights=self.weights(k, m),
            bias=self.rng.integers(-20000, 20000, m).astype(np.int32),
            x_zero=self.tensors[x].zero_point,
            requant=self.requant(m, k),
        )
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
            counts.append(np.maximum(inside, 1) if self.chance(50) else np.full(size, k))
        products = {int(v) for v in np.unique(np.multiply.outer(*counts))}
        zero = self.zero()
        requants = {}
        for count in products:
            mult, shift = numerics.approximate_scale(1.1 / count)
            requants[count] = Requant(mult=np.array([mult]), shift=np.array([shift]), zero=zero)
        return self.append(
            AveragePool(
                **window,
                counts_y=counts[0],
                counts_x=counts[1],
                x_zero=self.tensors[x].zero_point,
                requants=requants,
            ),
            x,
        )

    def binary(self, a: str, b: str) -> str:
        common = dict(
            a_zero=self.tensors[a].zero_point,
            b_zero=self.tensors[b].zero_point,
            zero=self.zero(),
            table=self.table(),
        )
        if self.chance(50):
            ma, mb, shift = numerics.approximate_pair(self.rng.uniform(0.2, 1.2), self.rng.uniform(-1.2, 1.2))
            return self.append(Add(a_mult=ma, b_mult=mb, shift=shift, **common), a, b)
        mult, shift = numerics.approximate_scale(self.rng.uniform(0.002, 0.02))
        return self.append(Mul(a_mult=mult, shift=shift, **common), a, b)

    def maximum(self, x: str) -> str:
        """The larger of a tensor and another of its shape, which may be itself."""
        alike = [name for name in self.tensors if self.shape(name) == self.shape(x)]
        return self.append(Maximum(table=self.table()), *self.choose((x, alike[0]), (alike[-1], x)))

    def lookup(self, x: str) -> str:
        return self.append(Lookup(table=self.rng.integers(-128, 128, 256).astype(np.int8)), x)

    def residual(self, x: str) -> str:
        """Combine with an earlier tensor of the same shape, in either order, or with its own table."""
        alike = [name for name in self.tensors if name != x and self.shape(name) == self.shape(x)]
        other = self.choose(self.lookup, lambda _: self.choose(*alike, x))(x)
        return self.binary(*self.choose((x, other), (other, x)))

    def with_constant(self, x: str) -> str:
        """A constant that is broadcast along some axes, on either side."""
        constant = self.constant(tuple(self.choose(1, extent) for extent in self.shape(x)))
        return self.binary(*self.choose((x, constant), (constant, x)))

    def gate(self, x: str) -> str:
        """Multiply or add a global average per channel, as squeeze-and-excitation does."""
        if len(self.shape(x)) != 4:
            return self.lookup(x)
        h, w = self.shape(x)[2:]
        mult, shift = numerics.approximate_scale(1 / (h * w))
        requant = Requant(mult=np.array([mult]), shift=np.array([shift]), zero=self.zero())
        mean = AveragePool(
            kernel=(h, w),
            strides=(1, 1),
            dilations=(1, 1),
            pads=(0, 0, 0, 0),
            counts_y=np.array([h]),
            counts_x=np.array([w]),
            x_zero=self.tensors[x].zero_point,
            requants={h * w: requant},
        )
        return self.binary(x, self.append(mean, x))

    def concat(self, x: str) -> str:
        """Join with a tensor that differs along one axis only, or with itself."""
        shape = self.shape(x)
        axis = self.integer(1, len(shape) - 1)
        fits = [
            name
            for name in self.tensors
            if len(self.shape(name)) == len(shape)
            and all(a == b for i, (a, b) in enumerate(zip(self.shape(name), shape, strict=True)) if i != axis)
        ]
        parts = [x, self.choose(self.lookup(x), *fits)]
        if self.chance(30):
            parts.append(self.choose(*fits))
        return self.append(Concat(axis=axis), *self.choose(parts, parts[::-1]))

    def transpose(self, x: str) -> str:
        axes, perm = list(range(1, len(self.shape(x)))), [0]
        while axes:
            perm.append(axes.pop(self.integer(0, len(axes) - 1)))
        return self.append(Transpose(perm=tuple(perm)), x)

    def reshape(self, x: str) -> str:
        """Merge all axes but the batch, or two neighbours."""
        shape = self.shape(x)
        if len(shape) == 2:
            divisor = self.choose(*(d for d in range(1, shape[1] + 1) if shape[1] % d == 0))
            return self.append(Reshape(shape=(shape[0], divisor, shape[1] // divisor)), x)
        if self.chance(50):
            return self.append(Reshape(shape=(shape[0], int(np.prod(shape[1:])))), x)
        axis = self.integer(1, len(shape) - 2)
        return self.append(
            Reshape(shape=(*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])), x
        )

    def select(self, x: str) -> str:
        """Indices of some axes: slices with steps, backwards too, repetitions, paddings, or any."""

        def chosen(extent: int) -> tuple[int, ...] | None:
            start, step = self.integer(0, extent - 1), self.integer(1, 3)
            most = 2 * extent
            if extent > 32:
                # Longer rows make products of square matrices too large.
                return tuple(range(start, extent, step))
            return self.choose(
                None,
                tuple(range(start, extent, step)),
                tuple(range(start, -1, -step)),
                tuple(i // step for i in range(extent * step))[:most],
                (*range(extent), *range(start, extent)),
                (-1,) * start + tuple(range(extent)) + (-1,) * step,
                tuple(self.integer(-1, extent - 1) for _ in range(self.integer(1, extent + 1))),
            )

        indices = (None, *(chosen(extent) for extent in self.shape(x)[1:]))
        return self.append(Select(indices=indices, fill=self.zero()), x)

    def take(self, x: str) -> str:
        """One index of an axis that is not the batch."""
        axis = self.integer(1, len(self.shape(x)) - 1)
        return self.append(Take(axis=axis, index=self.integer(0, self.shape(x)[axis] - 1)), x)

    def recurrent(
        self,
        x: str,
        kind: Cell,
        units: int,
        reverse: bool,
        planes: int | None = None,
        wide: bool = False,
    ) -> str:
        """A layer with random weights, scales and initial state; the input's weights are of so many int8
        planes, or of 1 to 3."""
        _, batch, inputs = self.tensors[x].shape
        count = kind.gates
        weights, recurrent = (
            self.weights(count, units, inputs).astype(np.int16),
            self.weights(count, units, units),
        )
        weights = weights * self.integer(1, 3) if planes is None else np.clip(weights, -127, 127) * planes
        if kind is Cell.GRU:
            weights[3], recurrent[2] = 0, 0
        spread = (
            2.0 ** self.rng.uniform(-2, 2, count * units)
            * 4096
            / (74 * 74 * np.sqrt(inputs + units))
            / (256 if wide else 1)
        )
        pairs = [numerics.approximate_scale(float(s)) for s in spread]
        return self.append(
            Recurrent(
                kind=kind,
                weights=weights,
                recurrent=recurrent,
                bias=(self.rng.integers(-20000, 20000, (count, units)) * (256 if wide else 1)).astype(
                    np.int32
                ),
                mult=np.array([m for m, _ in pairs]).reshape(count, units),
                shift=np.array([s for _, s in pairs]).reshape(count, units),
                x_zero=self.tensors[x].zero_point,
                cell_shift=self.integer(0, 7),
                alpha=self.integer(1, 1 << 15),
                reverse=reverse,
                wide=wide,
                hidden=self.rng.integers(-32768, 32640, (batch, units)).astype(np.int16)
                if wide
                else self.rng.integers(-128, 128, (batch, units)).astype(np.int8),
                state=self.rng.integers(-32768, 32768, (batch, units)).astype(np.int16),
            ),
            x,
        )

    def depthwise(self, x: str) -> str:
        return self.conv(x, channels=self.shape(x)[1], group=self.shape(x)[1])

    def step(self, x: str) -> str:
        """One operator that fits the shape; a matrix product where nothing else does."""
        rank = len(self.shape(x))
        steps = [self.lookup, self.block, self.residual, self.with_constant, self.concat, self.reshape]
        steps += (
            [self.conv, self.conv, self.conv_transpose, self.depthwise, self.transpose, self.gate]
            if rank > 2
            else [self.matmul, self.matmul]
        )
        steps += [self.max_pool, self.average_pool] if rank == 4 else []
        steps += [self.select, self.maximum]
        steps += [self.take] if rank > 2 else []
        return self.choose(*steps)(x)

    def grow(self, steps: int, largest: int) -> QGraph:
        """A chain of operators, some of which reach back; sometimes a classifier; sometimes an inner tensor
        is an output too."""
        n, c = self.choose(1, 1, 1, 2), self.integer(1, 20)
        spatial = self.choose(
            (self.integer(1, largest), self.integer(1, largest)), (self.integer(1, largest * 4),), ()
        )
        x = self.input((n, c, *spatial))
        if self.chance(15):
            x = self.binary(x, self.input((n, c, *spatial)))
        for _ in range(steps):
            y = self.step(x)
            if np.prod(self.shape(y)) <= _MOST:
                x = y
        if self.chance(25) and len(self.shape(x)) > 2:
            x = self.append(Reshape(shape=(n, int(np.prod(self.shape(x)[1:])))), x)
            x = self.matmul(self.matmul(x))
        results = [node.output for node in self.nodes]
        if not results:
            return self.finish(self.lookup(x))
        outputs = [x] if x in results else [results[-1]]
        if self.chance(25) and (inner := self.choose(*results)) not in outputs:
            outputs.append(inner)
        return self.finish(*outputs)


def random_graph(seed: int, steps: int = 4, largest: int = 9) -> QGraph:
    """One graph from a seed."""
    return GraphBuilder(seed).grow(steps, largest)


class CompactGraphs(GraphBuilder):
    """What a compact core runs: convolutions, average pools and matrix products, without tables."""

    def table(self):
        return None

    def step(self, x):
        if len(self.shape(x)) == 4:
            return self.choose(self.conv, self.depthwise, self.average_pool)(x)
        return self.matmul(x)

    def build(self, steps=4):
        shape = (
            (1, self.integer(1, 12), self.integer(1, 9), self.integer(1, 9))
            if self.chance(75)
            else (self.choose(1, 3), self.integer(1, 40))
        )
        x = self.input(shape)
        for _ in range(steps):
            y = self.step(x)
            if np.prod(self.shape(y)) <= 1000:
                x = y
        return self.finish(self.nodes[-1].output)


@st.composite
def graphs(draw, steps: int = 5, largest: int = 9) -> QGraph:
    """Graphs of up to so many operators, whose decisions hypothesis makes."""
    builder = GraphBuilder(draw(st.integers(0, 999)), lambda low, high: draw(st.integers(low, high)))
    return builder.grow(draw(st.integers(1, steps)), largest)


@st.composite
def archs(draw) -> ArchConfig:
    """Cores of every shape, with little or much room for constants."""

    def power(low: int, high: int) -> int:
        return 1 << draw(st.integers(low, high))

    rows, cols = power(1, 5), power(1, 5)
    return ArchConfig(
        name="drawn",
        rows=rows,
        cols=cols,
        bus_bits=power(5, 7),
        act_bytes=power(11, 17),
        act_blocks=power(0, 3),
        weight_bytes=max(1 << 12, rows * cols * power(3, 8)),
        weight_rows_per_cycle=min(rows, power(0, 5)),
        acc_depth=power(5, 10),
        param_rows=power(4, 9),
        table_slots=power(1, 4),
        lanes=min(cols, power(0, 5)),
        queue_depth=power(1, 3),
        depthwise=draw(st.booleans()),
    )


def random_inputs(graph: QGraph, seed: int) -> dict[str, np.ndarray]:
    """int8 inputs of the graph, over the whole range."""
    rng = np.random.default_rng(seed)
    return {name: rng.integers(-128, 128, graph.tensors[name].shape).astype(np.int8) for name in graph.inputs}


def assert_same_bits(driver, graph: QGraph, seed: int, runs: int = 2) -> None:
    """Inferences on a device, one after another, give the bits of the reference."""
    for run in range(runs):
        inputs = random_inputs(graph, seed * 2 + run)
        expected, actual = graph.run(inputs), driver.run_int8(inputs)
        for name in graph.outputs:
            where = (
                f"{graph.name}, output {name}, run {run}, input seed {seed}, arch {driver.image.arch.name}"
            )
            np.testing.assert_array_equal(actual[name], expected[name], err_msg=where)
