"""MATMULs with a window, as the benches of both arrays use them."""

from systolith.sim.benches.stimulus import matmul
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Instr

__all__ = ["padded_convolution"]


def padded_convolution(
    arch: ArchConfig, *, first: int, pixel: int, height: int, width: int, **operands: int
) -> Instr:
    """Three kernel rows over an image with one pixel of padding on each side, as many results as pixels.

    Parameters
    ----------
    first : int       address of the image
    pixel : int       bytes of a pixel
    height, width     of the image, in pixels
    operands : dict   the others of MATMUL, or some in place of those that follow from the image
    """
    row = pixel * width
    image = {
        "base": (first - row - pixel) % arch.act_bytes,
        "y0": -1,
        "x0": -pixel,
        "height": height,
        "row_bytes": row,
        "ky": 3,
        "ky_addr": row,
        "ky_y": 1,
        "oy": height,
        "oy_addr": row,
        "oy_y": 1,
        "ox": width,
        "ox_x": pixel,
    }
    return matmul(arch, **{**image, **operands})
