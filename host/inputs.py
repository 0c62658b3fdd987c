"""The one check of the arrays that a model takes: names, shapes, types, and numbers where int8 is to hold
them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

import numpy as np

from systolith.spec.errors import SystolithError
from systolith.spec.manifest import IoTensor
from systolith.spec.plan import Port

__all__ = ["Described", "InputError", "Specs", "check_inputs", "has_nan", "misfit", "port_specs"]

#: Shape and type of each input, by name.
Specs = Mapping[str, tuple[tuple[int, ...], str]]


class InputError(SystolithError, ValueError):
    """An input array, or a state, that does not match the model."""


class Described(Protocol):
    """An array, or what the header of a file says of one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...


def port_specs(ports: Iterable[Port | IoTensor]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of inputs, by name."""
    # Shapes of inputs are static; only outputs of the host may have none.
    return {port.name: (tuple(port.shape or ()), port.dtype) for port in ports}


def misfit(found: Described, shape: tuple[int, ...], dtype: str) -> str | None:
    """Why an array cannot be a tensor of this shape and type, one clause; None where it can."""
    if tuple(found.shape) != tuple(shape):
        return f"must have shape {list(shape)}, not {list(found.shape)}"
    # A file of arrays holds texts as fixed numbers of characters each.
    texts = dtype == "object" and found.dtype.kind == "U"
    if found.dtype != np.dtype(dtype) and not texts:
        return f"must be of type {dtype}, not {found.dtype}"
    return None


def has_nan(array: np.ndarray) -> bool:
    """Whether an array holds NaN; infinities are numbers, and saturate on their way to int8."""
    return array.dtype.kind == "f" and bool(np.isnan(array).any())


def check_inputs(
    arrays: Mapping[str, np.ndarray],
    specs: Specs,
    headers: Mapping[str, Described] | None = None,
    core: Collection[str] | None = None,
) -> None:
    """Refuse missing, unknown, misshapen and mistyped inputs, and NaN where the core reads it.

    Parameters
    ----------
    arrays  : by name
    headers : shapes and types of `arrays`, where these are known before the values are read
    core    : tensors that core steps read or give; None where every input is one. What the host alone reads
              may be NaN

    Raises
    ------
    InputError   Naming the input.
    """
    for name in arrays:
        if name not in specs:
            raise InputError(f"the model has no input {name!r}; its inputs are {', '.join(map(repr, specs))}")
    for name, (shape, dtype) in specs.items():
        if name not in arrays:
            raise InputError(f"input {name!r} is missing: give an array of {dtype} {list(shape)}")
        trouble = misfit(np.asarray(arrays[name]) if headers is None else headers[name], shape, dtype)
        if trouble is not None:
            raise InputError(f"input {name!r} {trouble}")
    for name in specs:
        if (core is None or name in core) and has_nan(np.asarray(arrays[name])):
            raise InputError(f"input {name!r} holds NaN: give numbers, as int8 has nothing else")
