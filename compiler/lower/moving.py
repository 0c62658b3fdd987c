"""Moving elements: strided copies between places, and the change of memory order that no relabelling can
save."""

from __future__ import annotations

from collections.abc import Sequence

from systolith.compiler.base.layout import Layout
from systolith.compiler.lower.context import Lowering, Place
from systolith.compiler.lower.nest import whole_strides
from systolith.compiler.lower.pieces import relay, transfer
from systolith.compiler.lower.vector import copy
from systolith.spec.isa import Region

__all__ = ["move", "reorder", "strides_of"]


def strides_of(shape: tuple[int, ...], order: tuple[int, ...]) -> list[int]:
    """Byte stride of each axis of a dense tensor."""
    strides, step = [0] * len(shape), 1
    for axis in reversed(order):
        strides[axis] = step
        step *= shape[axis]
    return strides


def move(
    low: Lowering,
    extents: Sequence[int],
    source: tuple[int, Sequence[int]],
    source_outside: bool,
    into: tuple[int, Sequence[int]],
    into_outside: bool,
) -> None:
    """Copy between places; each side is (address, byte strides)."""
    if source_outside and into_outside:
        relay(low, extents, source, into)
    elif into_outside:
        transfer(low, "STORE", extents, into, source)
    elif source_outside:
        transfer(low, "LOAD", extents, source, into)
    else:
        copy(low, list(extents), (source[0], list(source[1])), (into[0], list(into[1])))


def reorder(low: Lowering, name: str, order: tuple[int, ...]) -> Place:
    """A copy of a tensor in another memory order, by way of external memory: written densely, read back with
    strides."""
    place, shape = low.places[name], low.graph.tensors[name].shape
    offset = place.address if place.external else low.scratch.allocate(place.bytes)
    extents = [shape[axis] for axis in order]
    strides = strides_of(shape, place.layout.order)
    source = offset, [strides[axis] for axis in order]
    if place.external:
        copied = low.scratch.allocate(place.bytes)
        relay(low, extents, source, (copied, whole_strides(extents)))
        return Place(address=copied, bytes=place.bytes, layout=Layout(order=order), external=True)
    low.emit("STORE", region=Region.DATA, offset=offset, bytes=place.bytes, base=place.address)
    address = low.allocate(place.bytes, f"a reordered copy of {name!r}")
    transfer(low, "LOAD", extents, source, (address, whole_strides(extents)))
    low.scratch.release(offset, place.bytes)
    return Place(address=address, bytes=place.bytes, layout=Layout(order=order))
