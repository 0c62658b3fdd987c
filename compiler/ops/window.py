"""Geometry of sliding windows: kernel, strides, dilations, pads, auto_pad and ceil_mode, in one and two
dimensions."""

from __future__ import annotations

from dataclasses import dataclass

from systolith.compiler.base.errors import UnsupportedError
from systolith.compiler.base.limits import MAX_ELEMENTS, shape_text, too_large
from systolith.compiler.ops.registry import NodeView

__all__ = ["Window", "known_auto_pad", "one_or_two_dimensions", "pads_not_negative", "window_of"]


def one_or_two_dimensions(node: NodeView) -> bool:
    """the input must have one or two spatial axes ([N, C, L] or [N, C, H, W])."""
    return len(node.values[0].shape) in (3, 4)


def known_auto_pad(node: NodeView) -> bool:
    """auto_pad must be NOTSET, VALID, SAME_UPPER or SAME_LOWER."""
    return node.attrs.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID", b"SAME_UPPER", b"SAME_LOWER")


def pads_not_negative(node: NodeView) -> bool:
    """pads must not be negative."""
    return all(pad >= 0 for pad in node.attrs.get("pads", ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A window over [H, W]; a one-dimensional one has height 1.

    `pads` is what the model states (or auto_pad means), `reach` the same with what ceil_mode reads past the
    end: (top, left, bottom, right).
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    reach: tuple[int, int, int, int]
    out: tuple[int, int]

    def shape(self, x: tuple[int, ...], channels: int) -> tuple[int, ...]:
        """Shape of the result for an input shape."""
        return (x[0], channels, *(self.out if len(x) == 4 else self.out[1:]))


def window_of(node: NodeView, kernel: tuple[int, ...]) -> Window:
    """The window of a node, from its attributes and the shape of its first operand."""
    spatial = node.values[0].shape[2:]
    rank = len(spatial)
    attrs = node.attrs
    stated = attrs.get("kernel_shape")
    if len(kernel) != rank or (stated is not None and tuple(stated) != tuple(kernel)):
        raise UnsupportedError(
            "import",
            node.name,
            f"kernel_shape {stated or kernel} does not fit {rank} spatial axes and the weights",
            "correct the attribute",
        )
    strides, dilations = tuple(attrs.get("strides", (1,) * rank)), tuple(attrs.get("dilations", (1,) * rank))
    pads = tuple(attrs.get("pads", (0,) * 2 * rank))
    if (
        len(strides) != rank
        or len(dilations) != rank
        or len(pads) != 2 * rank
        or min(*strides, *dilations, *kernel) < 1
    ):
        raise UnsupportedError(
            "import",
            node.name,
            f"strides {strides}, dilations {dilations} or pads {pads} do not fit {rank} spatial axes",
            "correct the attribute",
        )
    auto = attrs.get("auto_pad", b"NOTSET").decode()
    begin, end, reach, out = [], [], [], []
    for axis, size in enumerate(spatial):
        span, stride = (kernel[axis] - 1) * dilations[axis] + 1, strides[axis]
        first, last = pads[axis], pads[axis + rank]
        if auto == "VALID":
            first = last = 0
        elif auto.startswith("SAME"):
            total = max((-(-size // stride) - 1) * stride + span - size, 0)
            first = total // 2 if auto == "SAME_UPPER" else total - total // 2
            last = total - first
        room = size + first + last - span
        count = room // stride + 1
        if attrs.get("ceil_mode", 0) and auto == "NOTSET":
            count = -(-room // stride) + 1
            if (count - 1) * stride >= size + first:
                count -= 1
        if room < 0 or count < 1:
            raise UnsupportedError(
                "import",
                node.name,
                f"the kernel of {node.op_type} spans {span} of {size} + {first} + {last} elements",
                "pad the input or use a smaller kernel",
            )
        begin.append(first)
        end.append(last)
        reach.append(max(last, (count - 1) * stride + span - size - first))
        out.append(count)
    padded = [first + size + last for first, size, last in zip(begin, spatial, reach, strict=True)]
    if too_large((*node.values[0].shape[:2], *padded)):
        raise UnsupportedError(
            "import",
            node.name,
            f"with its padding the input has shape {shape_text((*node.values[0].shape[:2], *padded))}, and a "
            f"tensor may have {MAX_ELEMENTS} elements",
            "use smaller pads",
        )

    def two(values, fill: int) -> tuple[int, int]:
        return (fill, *values) if rank == 1 else tuple(values)

    return Window(
        kernel=two(kernel, 1),
        strides=two(strides, 1),
        dilations=two(dilations, 1),
        pads=(*two(begin, 0), *two(end, 0)),
        reach=(*two(begin, 0), *two(reach, 0)),
        out=two(out, 1),
    )
