"""Tensors in external memory: a node's result is computed box by box, while the next box's operands come in.

Every operand that lives outside gets two buffers in the activation SRAM, and so does a result that lives
outside. The loads of a box are issued before the previous box is computed, and the tokens (`compiler.tokens`)
do the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from systolith.compiler.lower.context import Lowering, Place
from systolith.compiler.lower.nest import merge_loops, whole_strides
from systolith.spec.isa import Region, Space

__all__ = ["Box", "Operand", "View", "in_boxes", "relay", "transfer"]

#: A range of indices per axis, axes in memory order.
Box = tuple[range, ...]

#: More boxes than this are not accepted while evicting another tensor could give them more room.
_ENOUGH = 16


@dataclass(frozen=True, slots=True)
class View:
    """A dense box of a tensor in the activation SRAM.

    Parameters
    ----------
    address : int            of the first element held
    first, extents : tuple   index of that element, and how many are held, per axis in memory order
    """

    address: int
    first: tuple[int, ...]
    extents: tuple[int, ...]

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes from one element to the next, per axis."""
        return whole_strides(self.extents)

    def at(self, index: Sequence[int]) -> int:
        """Address of an element."""
        return self.address + sum(
            (i - f) * s for i, f, s in zip(index, self.first, self.strides, strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """A tensor that a node reads or writes, as a dense array.

    Parameters
    ----------
    name : str
    place : Place
    extents : tuple of int             in memory order
    window : callable(Box) -> Box      what a box of the result needs of it
    """

    name: str
    place: Place
    extents: tuple[int, ...]
    window: Callable[[Box], Box] = lambda box: box

    def whole(self) -> View:
        """The tensor as it lies on chip."""
        return View(self.place.address, (0,) * len(self.extents), self.extents)


def transfer(
    low: Lowering,
    mnemonic: str,
    lengths: Sequence[int],
    outside: tuple[int, Sequence[int]],
    inside: tuple[int, Sequence[int]],
) -> None:
    """LOAD or STORE ``outside[i...] <-> inside[i...]`` for all i below `lengths`; each side is (address, byte
    strides)."""
    limits = {f.name: f.max for f in low.format(mnemonic).fields}
    extents, strides = merge_loops(lengths, list(zip(outside[1], inside[1], strict=True)))
    loops = list(zip(extents, strides, strict=True))
    length = loops.pop()[0] if loops and loops[-1][1] == (1, 1) else 1
    while len(loops) < 2:
        loops.insert(0, (1, (0, 0)))
    outer, ((planes, plane), (rows, row)) = loops[:-2], loops[-2:]
    space = {"space": Space.ACT} if mnemonic == "LOAD" else {}
    pieces = product(
        *(range(extent) for extent, _ in outer),
        range(0, planes, limits["planes"]),
        range(0, rows, limits["rows"]),
        range(0, length, limits["bytes"]),
    )
    for *index, p, r, b in pieces:
        at = [
            base
            + b
            + p * plane[k]
            + r * row[k]
            + sum(i * steps[k] for i, (_, steps) in zip(index, outer, strict=True))
            for k, base in enumerate((outside[0], inside[0]))
        ]
        low.emit(
            mnemonic,
            **space,
            region=Region.DATA,
            offset=at[0],
            planes=min(planes - p, limits["planes"]),
            rows=min(rows - r, limits["rows"]),
            bytes=min(length - b, limits["bytes"]),
            ext_plane=plane[0],
            ext_row=row[0],
            base=at[1],
            plane=plane[1],
            row=row[1],
        )


def in_boxes(
    low: Lowering,
    result: Operand,
    operands: Sequence[Operand],
    split: Sequence[int],
    compute: Callable[[Box, View, list[View]], None],
) -> None:
    """Compute a node, whole where everything is on chip, else box by box.

    Parameters
    ----------
    split : axes of the result that may be cut, in the order in which they are
    compute : callable(box, result, operands)   emits the computation of one box

    Raises
    ------
    AllocationError   If not even the smallest boxes fit.
    """
    outside = [operand for operand in operands if operand.place.external]
    if not outside and not result.place.external:
        compute(tuple(map(range, result.extents)), result.whole(), [operand.whole() for operand in operands])
        return
    boxes, sizes, addresses = _fit(low, result, outside, split)
    buffers = iter(addresses)
    count = min(2, len(boxes))
    into = [[next(buffers) for _ in range(count)] for _ in outside]
    out = [next(buffers) for _ in range(count)] if result.place.external else []
    held: list[list[View]] = [[] for _ in outside]

    def load(box: Box) -> None:
        for operand, views, own in zip(outside, held, into, strict=True):
            needed = operand.window(box)
            view = View(own[len(views) % count], tuple(r.start for r in needed), tuple(map(len, needed)))
            last = views[-1] if views else None
            if last is None or (last.first, last.extents) != (view.first, view.extents):
                low.reside(operand.name, view.address, operand.place.layout.order, operand.extents, needed)
                _move(low, "LOAD", operand, view)
                views.append(view)

    load(boxes[0])
    for i, box in enumerate(boxes):
        current = iter([views[-1] for views in held])
        views = [next(current) if operand.place.external else operand.whole() for operand in operands]
        if i + 1 < len(boxes):
            load(boxes[i + 1])
        if result.place.external:
            target = View(out[i % count], tuple(r.start for r in box), tuple(map(len, box)))
            low.reside(result.name, target.address, result.place.layout.order, result.extents, box)
            compute(box, target, views)
            _move(low, "STORE", result, target)
        else:
            compute(box, result.whole(), views)
    for address, size in zip(addresses, sizes, strict=True):
        low.act.release(address, size)


def relay(
    low: Lowering,
    lengths: Sequence[int],
    source: tuple[int, Sequence[int]],
    target: tuple[int, Sequence[int]],
) -> None:
    """Copy within external memory, by way of the activation SRAM; both sides are (offset, byte strides)."""
    for boxes in _partitions(tuple(lengths), range(len(lengths))):
        size = max(prod(map(len, box)) for box in boxes)
        buffers = low.act.allocate_all([size] * min(2, len(boxes)))
        if buffers is not None:
            break
    else:
        raise low.no_room("moving a tensor inside external memory needs a buffer in activation SRAM")

    def move(mnemonic: str, side: tuple[int, Sequence[int]], i: int) -> None:
        box = boxes[i]
        extents = tuple(map(len, box))
        offset = side[0] + sum(r.start * step for r, step in zip(box, side[1], strict=True))
        transfer(
            low, mnemonic, extents, (offset, side[1]), (buffers[i % len(buffers)], whole_strides(extents))
        )

    move("LOAD", source, 0)
    for i in range(len(boxes)):
        if i + 1 < len(boxes):
            move("LOAD", source, i + 1)
        move("STORE", target, i)
    for address in buffers:
        low.act.release(address, size)


def _move(low: Lowering, mnemonic: str, operand: Operand, view: View) -> None:
    strides = whole_strides(operand.extents)
    offset = operand.place.address + sum(f * s for f, s in zip(view.first, strides, strict=True))
    transfer(low, mnemonic, view.extents, (offset, strides), (view.address, view.strides))


def _fit(
    low: Lowering, result: Operand, outside: list[Operand], split: Sequence[int]
) -> tuple[list[Box], list[int], list[int]]:
    """The largest boxes whose buffers fit, with the sizes and addresses of the buffers."""
    evictable = any(
        not place.external and place.bytes >= low.arch.act_bytes // 8 and low.graph.tensors[name].data is None
        for name, place in low.places.items()
    )
    needed = 0
    for boxes in _partitions(result.extents, split):
        if len(boxes) > _ENOUGH and evictable:
            break
        sizes = [max(prod(map(len, operand.window(box))) for box in boxes) for operand in outside]
        if result.place.external:
            sizes.append(max(prod(map(len, box)) for box in boxes))
        sizes = [size for size in sizes for _ in range(min(2, len(boxes)))]
        needed = sum(sizes)
        addresses = low.act.allocate_all(sizes)
        if addresses is not None:
            return boxes, sizes, addresses
    raise low.no_room(f"the smallest pieces of {low.node.op_type} need {needed} bytes of activation SRAM")


def _partitions(extents: tuple[int, ...], split: Sequence[int]) -> Iterator[list[Box]]:
    """Ways to cut an array into boxes, from large to small: first along the first axis of `split` that is
    longer than 1."""
    steps = list(extents)
    axes = [axis for axis in split if extents[axis] > 1]
    for axis in axes:
        # Four pieces hide three quarters of the transfers; fewer where pieces would be thin.
        pieces = (4 if extents[axis] >= 8 else 2) if axis == axes[0] else 2
        while steps[axis] > 1:
            steps[axis] = -(-extents[axis] // pieces)
            yield _cut(extents, steps)
            pieces += max(1, pieces // 4)
    if not axes:
        yield _cut(extents, steps)


def _cut(extents: Sequence[int], steps: Sequence[int]) -> list[Box]:
    return list(
        product(
            *(
                [range(i, min(i + step, extent)) for i in range(0, extent, step)]
                for extent, step in zip(extents, steps, strict=True)
            )
        )
    )
