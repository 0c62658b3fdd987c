"""How tensors lie in memory: the order of their axes, and nothing else. Every tensor is dense.

Convolution and pooling want channels innermost; a Transpose costs nothing when its result may keep the bytes
where they are. `flatten` is the one case that is more than an order: a tensor that was flattened with its
channels innermost, whose only readers are matrix products, which take their weight rows in the same order
instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from systolith.reference.average_pool import AveragePool
from systolith.reference.conv import Conv
from systolith.reference.elementwise import Lookup
from systolith.reference.graph import QGraph
from systolith.reference.matmul import MatMul
from systolith.reference.max_pool import MaxPool
from systolith.reference.recurrent import Recurrent
from systolith.reference.shape import Reshape, Take, Transpose

__all__ = ["Layout", "channels_last", "is_linear", "input_orders", "row_major"]


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes as they are."""
    return tuple(range(len(shape)))


def channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """[N, C, ...] stored as [N, ..., C]."""
    return (0, *range(2, len(shape)), 1) if len(shape) > 2 else row_major(shape)


def same_bytes(a: tuple[int, ...], b: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Two orders put every element at the same place (axes of extent 1 do not count)."""
    return [i for i in a if shape[i] != 1] == [i for i in b if shape[i] != 1]


def is_linear(order: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """The order puts elements in row-major order."""
    return same_bytes(order, row_major(shape), shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Memory order of one tensor.

    Parameters
    ----------
    order : tuple of int      axes, outermost first
    flatten : int array       or None; byte j of the tensor holds element flatten[j] of its row-major order
    """

    order: tuple[int, ...]
    flatten: np.ndarray | None = field(default=None, compare=False)


def input_orders(graph: QGraph) -> dict[str, tuple[int, ...]]:
    """The order in which each graph input serves its first reader without a copy."""
    readers: dict[str, list] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)

    def wanted(name: str) -> tuple[int, ...]:
        shape = graph.tensors[name].shape
        for node in readers.get(name, ()):
            if isinstance(node.op, Conv | MaxPool | AveragePool):
                return channels_last(shape)
            if isinstance(node.op, Reshape | MatMul | Recurrent | Take):
                return row_major(shape)
            after = wanted(node.output)
            if isinstance(node.op, Transpose):
                return tuple(node.op.perm[i] for i in after)
            if graph.tensors[node.output].shape == shape:
                return after
        return row_major(shape)

    return {name: wanted(name) for name in graph.inputs}


def only_matmuls_read(graph: QGraph, name: str) -> bool:
    """Every path from the tensor leads through look-ups to matrix products, and it is no output."""
    readers = [node for node in graph.nodes if name in node.inputs]
    return (
        bool(readers)
        and name not in graph.outputs
        and all(
            isinstance(node.op, MatMul)
            or (isinstance(node.op, Lookup) and only_matmuls_read(graph, node.output))
            for node in readers
        )
    )
