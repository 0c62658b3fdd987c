"""Windows that slide over images: which part of the input a box of the output needs, image by image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from systolith.compiler.lower.context import Lowering
from systolith.compiler.lower.pieces import Box, Operand, View, in_boxes

__all__ = ["Views", "Window", "over_images", "spatial_window"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Geometry of a kernel over images; x and y are [N, H, W, C].

    Parameters
    ----------
    kernel, strides, dilations : (y, x)
    pads : (top, left)
    """

    x: tuple[int, int, int, int]
    y: tuple[int, int, int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int]

    def needed(self, box: Box) -> Box:
        """The part of x under the windows of a box of y; at least one position, even where all is padding."""
        spans = []
        for axis, out in enumerate(box[1:3]):
            extent, span = self.x[1 + axis], (self.kernel[axis] - 1) * self.dilations[axis] + 1
            first = min(max(out.start * self.strides[axis] - self.pads[axis], 0), extent - 1)
            end = min(max((out.stop - 1) * self.strides[axis] - self.pads[axis] + span, first + 1), extent)
            spans.append(range(first, end))
        return (box[0], *spans, range(self.x[3]))

    def taps(self) -> tuple[range, range]:
        """The part of the kernel, rows and columns, outside of which it meets padding alone; at least one tap
        of each."""

        def met(axis: int) -> range:
            extent, out, stride = self.x[1 + axis], self.y[1 + axis], self.strides[axis]

            def inside(tap: int) -> bool:
                """Whether some position p of the output has 0 <= p * stride + offset < extent."""
                offset = tap * self.dilations[axis] - self.pads[axis]
                return max(-(offset // stride), 0) <= min((extent - 1 - offset) // stride, out - 1)

            taps = [tap for tap in range(self.kernel[axis]) if inside(tap)]
            return range(taps[0], taps[-1] + 1) if taps else range(1)

        return met(0), met(1)

    def of_taps(self, taps: tuple[range, range]) -> Window:
        """The same window with these taps of the kernel alone."""
        pads = (self.pads[axis] - taps[axis].start * self.dilations[axis] for axis in (0, 1))
        return replace(self, kernel=(len(taps[0]), len(taps[1])), pads=tuple(pads))


@dataclass(frozen=True, slots=True)
class Views:
    """One image of the input, the result, and perhaps the chained operand: [height, width, channels]."""

    x: View
    y: View
    other: View | None

    def flattened(self, rows: range) -> Views:
        """These rows of each as a single one."""

        def flat(view: View) -> View:
            _, width, channels = view.extents
            return View(view.at((rows.start, *view.first[1:])), (0, 0, 0), (1, len(rows) * width, channels))

        return Views(flat(self.x), flat(self.y), self.other and flat(self.other))


def spatial_window(
    low: Lowering,
    kernel: Sequence[int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: Sequence[int],
) -> tuple[Window, bool]:
    """The current node's window, and whether rows and columns were exchanged.

    An image of one column lies in memory like one of one row, and the array wants the long axis to be x: its
    FIR mode runs along x, and the rows of a kernel are contiguous along x.
    """

    def nhwc(name: str) -> tuple[int, ...]:
        n, c, *spatial = low.graph.tensors[name].shape
        return (n, *([1] * (2 - len(spatial))), *spatial, c)

    x, y = nhwc(low.node.inputs[0]), nhwc(low.result)
    window = Window(
        x=x, y=y, kernel=tuple(kernel), strides=strides, dilations=dilations, pads=tuple(pads[:2])
    )
    if not (x[2] == y[2] == kernel[1] == 1 and x[1] > 1 and pads[1] == 0):
        return window, False

    def swapped(shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[0], shape[2], shape[1], shape[3]

    return Window(
        x=swapped(x),
        y=swapped(y),
        kernel=window.kernel[::-1],
        strides=strides[::-1],
        dilations=dilations[::-1],
        pads=window.pads[::-1],
    ), True


def over_images(low: Lowering, window: Window, compute: Callable[[Views, range, range], None]) -> None:
    """Call ``compute(views, rows, columns of the output)`` for every image of the batch and every box of it.

    Raises
    ------
    AllocationError   If tensors live outside and not even the smallest boxes fit.
    """
    places = low.places

    def image(view: View, n: int) -> View:
        return View(view.at((n, *view.first[1:])), view.first[1:], view.extents[1:])

    def boxed(box: Box, result: View, operands: list[View]) -> None:
        for n in box[0]:
            x, *other = (image(view, n) for view in operands)
            compute(Views(x, image(result, n), other[0] if other else None), box[1], box[2])

    operands = [
        Operand(
            name=low.node.inputs[0], place=places[low.node.inputs[0]], extents=window.x, window=window.needed
        )
    ]
    if low.chain is not None:
        operands.append(Operand(name=low.chain.other, place=places[low.chain.other], extents=window.y))
    in_boxes(
        low, Operand(name=low.result, place=places[low.result], extents=window.y), operands, (0, 1, 2), boxed
    )
