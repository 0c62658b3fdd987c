"""Moving elements: concatenation, and the change of memory order that no relabelling can save."""

from __future__ import annotations

from itertools import product

import numpy as np

from systolith.compiler.layout import Layout
from systolith.compiler.lower.context import Lowering, Place
from systolith.compiler.lower.elementwise import copy
from systolith.reference.shape import Concat
from systolith.spec.isa import Region, Space

__all__ = ["lower_concat", "reorder", "strides_of"]


def strides_of(shape: tuple[int, ...], order: tuple[int, ...]) -> list[int]:
    """Byte stride of each axis of a dense tensor."""
    strides, step = [0] * len(shape), 1
    for axis in reversed(order):
        strides[axis] = step
        step *= shape[axis]
    return strides


def lower_concat(low: Lowering, op: Concat) -> None:
    """Concat: each input is copied to its place; all lie in the result's order."""
    y = low.places[low.node.output]
    shape = low.graph.tensors[low.node.output].shape
    out = strides_of(shape, y.layout.order)
    at = 0
    for name in low.node.inputs:
        extent = low.graph.tensors[name].shape
        place = low.places[name]
        src = strides_of(extent, place.layout.order)
        order = y.layout.order
        copy(low, [extent[axis] for axis in order], (place.address, [src[axis] for axis in order]),
             (y.address + at * out[op.axis], [out[axis] for axis in order]))
        at += extent[op.axis]


def reorder(low: Lowering, name: str, order: tuple[int, ...]) -> Place:
    """A copy of a tensor in another memory order, by way of external memory: written densely, read back with strides."""
    place, shape = low.places[name], low.graph.tensors[name].shape
    offset = low.scratch(place.bytes)
    low.emit("STORE", region=Region.DATA, offset=offset, bytes=place.bytes, base=place.address)
    src = strides_of(shape, place.layout.order)
    dst = strides_of(shape, order)
    address = low.allocate(place.bytes, f"a reordered copy of {name!r}")
    loops = [(shape[axis], src[axis], dst[axis]) for axis in order if shape[axis] > 1]
    length = 1
    while loops and loops[-1][1] == loops[-1][2] == length:
        length *= loops.pop()[0]
    while len(loops) < 2:
        loops.insert(0, (1, 0, 0))
    outer, ((planes, ext_plane, plane), (rows, ext_row, row)) = loops[:-2], loops[-2:]
    for index in product(*(range(extent) for extent, _, _ in outer)):
        ext = sum(i * loop[1] for i, loop in zip(index, outer, strict=True))
        local = sum(i * loop[2] for i, loop in zip(index, outer, strict=True))
        for first in range(0, planes, 1 << 12):
            low.emit("LOAD", space=Space.ACT, region=Region.DATA, offset=offset + ext + first * ext_plane, planes=min(planes - first, 1 << 12), rows=rows,
                     bytes=length, ext_plane=ext_plane, ext_row=ext_row, base=address + local + first * plane, plane=plane, row=row)
    return Place(address=address, bytes=place.bytes, layout=Layout(order=order))


def flatten_order(shape: tuple[int, ...], order: tuple[int, ...]) -> np.ndarray:
    """Row-major index of the element at each byte of one item of the batch (axis 0 outermost)."""
    item = np.arange(int(np.prod(shape[1:], dtype=np.int64))).reshape(shape[1:])
    return item.transpose([axis - 1 for axis in order[1:]]).ravel()
