"""MaxPool on the vector unit."""

from __future__ import annotations

from systolith.compiler.lower.context import Lowering
from systolith.compiler.lower.conv import images
from systolith.reference.max_pool import MaxPool

__all__ = ["lower_max_pool"]


def lower_max_pool(low: Lowering, op: MaxPool) -> None:
    """MaxPool; input and output lie channels last."""
    sy, sx = op.strides
    dy, dx = op.dilations
    operands = low.table(op.table)
    most = next(f.max for f in low.isa.by_mnemonic["POOL"].fields if f.name == "bytes")
    for x, y in images(low):
        for first in range(0, x.channels, most):
            y0, x0 = -op.pads[0], -op.pads[1] * x.channels
            low.emit("POOL", ny=y.height, nx=y.width, bytes=min(most, x.channels - first), base=x.address + y0 * x.pitch + x0 + first,
                     y0=y0, x0=x0, height=x.height, row_bytes=x.pitch, ky=op.kernel[0], ky_addr=dy * x.pitch, ky_y=dy,
                     kx=op.kernel[1], kx_x=dx * x.channels, oy_addr=sy * x.pitch, oy_y=sy, ox_x=sx * x.channels,
                     dst=y.address + first, dst_row=y.pitch, dst_px=y.channels, **operands)
