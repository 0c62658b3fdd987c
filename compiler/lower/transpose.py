"""Axes permuted: the same bytes in another order."""

from __future__ import annotations

from dataclasses import replace

from systolith.compiler.base.layout import Layout
from systolith.compiler.lower.context import Lowering
from systolith.compiler.lower.registry import Axes, lowering
from systolith.reference.transpose import Transpose

__all__ = ["lower_transpose"]


def _wants(op: Transpose, shape: tuple[int, ...], after: Axes) -> Axes:
    return tuple(op.perm[axis] for axis in after)


@lowering(Transpose, wants=_wants, relabels=True)
def lower_transpose(low: Lowering, op: Transpose) -> None:
    """Transpose: no instruction."""
    place = low.places[low.node.inputs[0]]
    order = tuple(op.perm.index(axis) for axis in place.layout.order)
    low.places[low.node.output] = replace(place, layout=Layout(order=order))
