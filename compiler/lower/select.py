"""Indices of axes: strided copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from systolith.compiler.base.layout import Layout
from systolith.compiler.lower.context import Lowering
from systolith.compiler.lower.moving import move, strides_of
from systolith.compiler.lower.registry import Temporary, lowering
from systolith.reference.select import Select

__all__ = ["Piece", "lower_select", "pieces_of"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an axis that loops cover.

    Parameters
    ----------
    target : int             its first index in the result
    source : int             the index there of the operand; -1: it is filled
    loops : tuple            outermost first, (extent, step in the operand, step in the result)
    """

    target: int
    source: int
    loops: tuple[tuple[int, int, int], ...]


def pieces_of(indices: Sequence[int]) -> list[Piece]:
    """As few pieces as cover the indices: two loops where they repeat evenly, else runs of even steps."""
    whole = np.array(indices, np.int64)
    count = len(whole)
    if whole.min() >= 0:
        for inner in (count, *(n for n in range(1, count // 2 + 1) if count % n == 0)):
            table = whole.reshape(-1, inner)
            across = int(table[0, 1] - table[0, 0]) if inner > 1 else 0
            down = int(table[1, 0] - table[0, 0]) if len(table) > 1 else 0
            even = whole[0] + down * np.arange(len(table))[:, None] + across * np.arange(inner)
            if min(across, down) >= 0 and np.array_equal(table, even):
                return [Piece(0, int(whole[0]), ((len(table), down, inner), (inner, across, 1)))]
    found, at = [], 0
    while at < count:
        first, end = int(whole[at]), at + 1
        if first < 0:
            while end < count and whole[end] < 0:
                end += 1
            step = 0
        else:
            step = int(whole[end] - first) if end < count and whole[end] >= first else 0
            while end < count and whole[end] == first + step * (end - at):
                end += 1
        found.append(Piece(at, first, ((end - at, step, 1),)))
        at = end
    return found


@lowering(Select)
def lower_select(low: Lowering, op: Select) -> Temporary:
    """Select; the result lies as the operand does."""
    x = low.places[low.node.inputs[0]]
    order = x.layout.order
    y = low.place(low.node.output, Layout(order=order))
    shapes = [low.graph.tensors[name].shape for name in (low.node.inputs[0], low.node.output)]
    source, target = (strides_of(shape, order) for shape in shapes)
    axes = []
    for axis in order:
        chosen = op.indices[axis]
        whole = [Piece(0, 0, ((shapes[1][axis], 1, 1),))]
        axes.append(whole if chosen is None else pieces_of(chosen))
    constant: tuple[int, int] | None = None
    for parts in product(*axes):
        into = y.address + sum(p.target * target[axis] for p, axis in zip(parts, order, strict=True))
        loops = [(loop, axis) for p, axis in zip(parts, order, strict=True) for loop in p.loops]
        extents = [extent for (extent, _, _), _ in loops]
        steps = [step * target[axis] for (_, _, step), axis in loops]
        if any(p.source < 0 for p in parts):
            length = max(shapes[1][order[-1]], 1)
            constant = constant or low.constant(np.full(length, op.fill, np.int8))
            still = [0] * (len(loops) - 1) + [1 if steps[-1] == 1 else 0]
            move(low, extents, (constant[0], still), False, (into, steps), y.external)
        else:
            at = x.address + sum(p.source * source[axis] for p, axis in zip(parts, order, strict=True))
            walk = [step * source[axis] for (_, step, _), axis in loops]
            move(low, extents, (at, walk), x.external, (into, steps), y.external)
    return [constant] if constant else []
