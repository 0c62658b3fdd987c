"""The same elements under another shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from systolith.reference.graph import Op

__all__ = ["Reshape"]


@dataclass(frozen=True, kw_only=True)
class Reshape(Op):
    """Same elements in row-major order (Reshape, Flatten, Squeeze, Unsqueeze)."""

    shape: tuple[int, ...]

    def run(self, x: np.ndarray) -> np.ndarray:
        """int8 of `shape`."""
        return x.reshape(self.shape)
