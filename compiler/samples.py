"""Samples that a float model is observed on: the user's, or drawn ones where only cycles matter."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping

import numpy as np

from systolith.compiler.base.errors import InputError
from systolith.compiler.base.model import Model

__all__ = ["calibration_samples", "drawn_samples"]

#: Samples that are drawn.
_DRAWN = 4


def calibration_samples(
    model: Model, calibration: Mapping[str, np.ndarray] | None, without: Collection[str] = ()
) -> list[dict[str, np.ndarray]]:
    """One dict of inputs per sample; `without` are inputs that need no data.

    Raises
    ------
    InputError   Naming the input whose data is missing, of the wrong shape, or not finite.
    """
    inputs = [name for name in model.inputs if name not in without]
    if calibration is None:
        raise InputError(
            "quantise",
            "",
            "the model is in float and there is no calibration data",
            f"give samples for {', '.join(repr(name) for name in inputs)}, or a quantised model",
        )
    for name in calibration:
        if name not in inputs:
            raise InputError(
                "quantise",
                name,
                "calibration data for an input that the model does not have",
                f"the model's inputs are {', '.join(sorted(inputs))}",
            )
    columns: dict[str, list[np.ndarray]] = {}
    for name in inputs:
        shape = model.shape_of(name)
        if name not in calibration:
            raise InputError(
                "quantise",
                name,
                "there is no calibration data for this input",
                "add it to the calibration data",
            )
        rows = _stacked(model, name, np.asarray(calibration[name]), shape)
        columns[name] = [np.asarray(row) for row in rows]
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) > 1:
        raise InputError(
            "quantise",
            "",
            f"calibration data has different numbers of samples: {counts}",
            "give as many for each input",
        )
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _stacked(model: Model, name: str, data: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    if shape is None:
        raise InputError("quantise", name, "its shape is not known", "give it with --shape")
    if data.dtype.kind not in "fiub":
        raise InputError("quantise", name, f"calibration data has type {data.dtype}", "give numbers")
    if data.ndim == len(shape) + 1 and data.shape[1:] == shape and len(data):
        stacked = data
    elif (
        shape
        and data.ndim == len(shape)
        and data.shape[1:] == shape[1:]
        and len(data)
        and shape[0]
        and len(data) % shape[0] == 0
    ):
        stacked = data.reshape(-1, *shape)
    else:
        raise InputError(
            "quantise",
            name,
            f"calibration data has shape {data.shape}, the input {shape}",
            "stack one or more samples on the first axis",
        )
    if not np.all(np.isfinite(data)):
        raise InputError("quantise", name, "calibration data holds NaN or infinity", "remove those samples")
    return stacked.astype(model.type_of(name).dtype)


def drawn_samples(model: Model) -> list[dict[str, np.ndarray]]:
    """Samples where there are none: standard normal numbers, and zeros and ones for integers; the same in
    every run. They give every tensor a format, on which neither instructions nor cycles depend."""
    found = []
    for number in range(_DRAWN):
        sample = {}
        for name in model.inputs:
            generator = np.random.default_rng([number, zlib.crc32(name.encode())])
            shape, dtype = model.shape_of(name), model.type_of(name).dtype
            if shape is None or dtype is None or dtype.kind not in "fiub":
                raise InputError("quantise", name, "no sample of it can be drawn", "give calibration data")
            drawn = generator.standard_normal(shape) if dtype.kind == "f" else generator.integers(0, 2, shape)
            sample[name] = np.asarray(drawn).astype(dtype)
        found.append(sample)
    return found
