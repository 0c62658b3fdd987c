"""How tensors lie in memory: the order of their axes, and nothing else. Every tensor is dense.

Convolution and pooling want channels innermost; a Transpose costs nothing when its result may keep the bytes
where they are. `flatten` is the one case that is more than an order: a tensor that was flattened with its
channels innermost, whose only readers are matrix products, which take their weight rows in the same order
instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

__all__ = ["Layout", "channels_last", "is_linear", "row_major", "same_bytes"]


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
