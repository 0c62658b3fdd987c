"""Values of a plan: a tensor is an array; a sequence of tensors, which only steps of the host read and give,
is a list of arrays."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

__all__ = ["Value", "Values", "described", "equal", "extents", "flat"]

Value = np.ndarray | list[np.ndarray]
Values = Mapping[str, Value]


def described(value: Value) -> str:
    """Type and shape for a reader: "float32[1, 3]", "sequence of 2 tensors"."""
    if isinstance(value, list):
        return f"sequence of {len(value)} tensor{'s' if len(value) != 1 else ''}"
    return f"{value.dtype}{list(value.shape)}"


def extents(value: Value) -> list[int] | list[list[int]]:
    """The shape; of a sequence, one per tensor."""
    return [list(part.shape) for part in value] if isinstance(value, list) else list(value.shape)


def equal(a: Value, b: Value) -> bool:
    """Whether two values are the same, in their types too; NaN is equal to NaN."""
    if isinstance(a, list) or isinstance(b, list):
        return isinstance(a, list) and isinstance(b, list) and len(a) == len(b) and all(map(equal, a, b))
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")


def flat(values: Values) -> dict[str, np.ndarray]:
    """Arrays alone, as a file of arrays holds them: tensors of a sequence become NAME_0, NAME_1 and so on,
    with more underscores where one of these names is taken."""
    found = {name: value for name, value in values.items() if not isinstance(value, list)}
    for name, value in values.items():
        if isinstance(value, list):
            link = "_"
            while any(f"{name}{link}{index}" in found for index in range(len(value))):
                link += "_"
            found.update((f"{name}{link}{index}", part) for index, part in enumerate(value))
    return found
