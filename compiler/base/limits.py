"""How large a tensor may be, checked before anything of its size is computed or allocated."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["MAX_CONSTANT", "MAX_ELEMENTS", "MAX_INSTRUCTIONS", "MAX_TOTAL", "shape_text", "too_large"]

#: Elements of one activation. As floats on the host they take 256 MiB, which is all the memory of the largest
#: board.
MAX_ELEMENTS = 1 << 26
#: Elements of one constant that operators make, such as the weights of a layer. The first dense layer of VGG
#: has 103 million.
MAX_CONSTANT = 1 << 27
#: Elements of all activations of a model; the reference keeps them all, a byte each.
MAX_TOTAL = 1 << 30
#: Instructions of one inference. MobileNet has a thousand; this many take a minute to make.
MAX_INSTRUCTIONS = 1 << 18


def too_large(shape: Sequence[int], most: int = MAX_ELEMENTS) -> bool:
    """Whether a tensor of this shape has more elements than that."""
    return math.prod(shape) > most


def shape_text(shape: Sequence[int]) -> str:
    """A shape as messages show it: ``[1, 3, 224, 224]``."""
    return f"[{', '.join(map(str, shape))}]"
