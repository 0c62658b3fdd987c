"""How large a tensor may be, checked before anything of its size is computed or allocated."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["MAX_ELEMENTS", "MAX_INSTRUCTIONS", "MAX_TOTAL", "shape_text", "too_large"]

#: Elements of one activation. As floats on the host they take 256 MiB, which is all the memory of the largest
#: board.
MAX_ELEMENTS = 1 << 26
#: Elements of all activations of a model; the reference keeps them all, a byte each.
MAX_TOTAL = 1 << 30
#: Instructions of one inference. MobileNet has a thousand; this many take a minute to make.
MAX_INSTRUCTIONS = 1 << 18


def too_large(shape: Sequence[int]) -> bool:
    """Whether an activation of this shape has more than `MAX_ELEMENTS`."""
    return math.prod(shape) > MAX_ELEMENTS


def shape_text(shape: Sequence[int]) -> str:
    """A shape as messages show it: ``[1, 3, 224, 224]``."""
    return f"[{', '.join(map(str, shape))}]"
