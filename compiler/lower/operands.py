"""Operands where a rule needs them: in the order that it asks for, on chip."""

from __future__ import annotations

from systolith.compiler.base.layout import Layout, same_bytes
from systolith.compiler.lower.context import Lowering, Place
from systolith.compiler.lower.moving import reorder
from systolith.compiler.lower.registry import Axes, Temporary

__all__ = ["bring", "materialise"]


def bring(low: Lowering, name: str, order: Axes) -> None:
    """Make the tensor lie in this order, for the current node and those after it."""
    place, extents = low.places[name], low.graph.tensors[name].shape
    if place.layout.flatten is None and same_bytes(place.layout.order, order, extents):
        return
    first = len(low.instrs)
    copy = reorder(low, name, order)
    low.drop(name)
    low.places[name] = copy
    if copy.external:
        low.outside.append((name, copy))
    else:
        low.reside(name, copy.address, order, first=first)


def materialise(low: Lowering, name: str, order: Axes, temporary: Temporary) -> None:
    """Bring a constant operand on chip, for the current node only."""
    tensor = low.graph.tensors[name]
    if tensor.data is None or name in low.places:
        return
    address, size = low.constant(tensor.data.transpose(order))
    temporary.append((address, size))
    low.places[name] = Place(address=address, bytes=size, layout=Layout(order=order))
