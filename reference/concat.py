"""Join tensors along an axis."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from systolith.reference.graph import Op

__all__ = ["Concat"]


@dataclass(frozen=True, kw_only=True)
class Concat(Op):
    """Join along an axis; all inputs share scale and zero point."""

    moves_only = True

    axis: int

    def run(self, *inputs: np.ndarray) -> np.ndarray:
        """int8, the extents along `axis` added up."""
        return np.concatenate(inputs, axis=self.axis)
