"""MaxPool on the vector unit."""

from __future__ import annotations

from systolith.compiler.lower.context import Lowering
from systolith.compiler.lower.registry import Order, lowering
from systolith.compiler.lower.spatial import Views, over_images, spatial_window
from systolith.reference.max_pool import MaxPool

__all__ = ["lower_max_pool"]


@lowering(MaxPool, order=Order.CHANNELS_LAST, streams=True)
def lower_max_pool(low: Lowering, op: MaxPool) -> None:
    """MaxPool; input and output lie channels last."""
    window, _ = spatial_window(low, op.kernel, op.strides, op.dilations, op.pads)
    (sy, sx), (dy, dx) = window.strides, window.dilations
    operands = low.table(op.table)
    most = next(f.max for f in low.format("POOL").fields if f.name == "bytes")

    def compute(views: Views, rows: range, cols: range) -> None:
        x, y = views.x, views.y
        height, width, channels = x.extents
        pitch = width * channels
        for first in range(0, channels, most):
            y0 = rows.start * sy - window.pads[0] - x.first[0]
            x0 = (cols.start * sx - window.pads[1] - x.first[1]) * channels
            low.emit(
                "POOL",
                ny=len(rows),
                nx=len(cols),
                bytes=min(most, channels - first),
                base=x.address + y0 * pitch + x0 + first,
                y0=y0,
                x0=x0,
                height=height,
                row_bytes=pitch,
                ky=window.kernel[0],
                ky_addr=dy * pitch,
                ky_y=dy,
                kx=window.kernel[1],
                kx_x=dx * channels,
                oy_addr=sy * pitch,
                oy_y=sy,
                ox_x=sx * channels,
                dst=y.at((rows.start, cols.start, first)),
                dst_row=y.extents[1] * channels,
                dst_px=channels,
                **operands,
            )

    over_images(low, window, compute)
