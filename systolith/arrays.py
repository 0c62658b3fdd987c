"""Input arrays: loaded, checked, drawn at random."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from systolith.errors import ApiError
from systolith.host import inputs
from systolith.host.codes import dequantise
from systolith.host.inputs import Specs, port_specs
from systolith.host.sequences import Values, flat
from systolith.reference.graph import QGraph, QTensor
from systolith.reference.plan import Plan
from systolith.spec.outputs import writing
from systolith.stored import StoredArrays

__all__ = [
    "ApiError",
    "Arrays",
    "Inputs",
    "Source",
    "check_inputs",
    "input_specs",
    "load_arrays",
    "named",
    "random_inputs",
    "save_arrays",
]

Arrays = Mapping[str, np.ndarray]
Source = str | Path | Arrays | None
#: Inputs of a run: as `Source`, or the array of the one input.
Inputs = str | Path | Arrays | np.ndarray | None


def load_arrays(source: Source, what: str) -> Arrays | None:
    """A mapping as it is, or the arrays of an .npz or .npy file, of which only the headers are read at first.

    Raises
    ------
    ApiError   If the file cannot be read or holds anything but plain arrays; `what` names its role.
    """
    if source is None or isinstance(source, StoredArrays):
        return source
    if isinstance(source, Mapping):
        return {name: np.asarray(value) for name, value in source.items()}
    return StoredArrays(source, what)


def named(given: Inputs, names: Sequence[str]) -> Arrays | None:
    """Inputs by name: what `load_arrays` gives, or one array under the name of the only input.

    Raises
    ------
    ApiError   If it is an array and the model has several inputs.
    """
    if not isinstance(given, np.ndarray):
        return load_arrays(given, "inputs")
    if len(names) != 1:
        raise ApiError(
            f"one array was given, and the model has the inputs {', '.join(map(repr, names))}: give a "
            "mapping from name to array"
        )
    return {names[0]: given}


def check_inputs(arrays: Arrays, specs: Specs, core: Collection[str] | None = None) -> None:
    """`host.inputs.check_inputs`; of arrays in a file, the headers are compared before anything else is read.

    Raises
    ------
    ApiError     If the file has one array, and the model several inputs.
    InputError   Naming the input.
    """
    headers = None
    if isinstance(arrays, StoredArrays):
        arrays.bind(specs)
        headers = arrays.headers
    inputs.check_inputs(arrays, specs, headers, core)


def save_arrays(path: str | Path, values: Values) -> None:
    """Write an .npz file under the name as it is; numpy.savez would append .npz, and takes no array called
    'file'. Tensors of a sequence get names as `host.sequences.flat` gives them.

    Raises
    ------
    OutputError   If it cannot be written; what was there stays.
    """
    with writing(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, value in flat(values).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                # Texts, which ONNX Runtime gives as objects, are characters in a file.
                array = np.asarray(value, str) if value.dtype == object else np.asanyarray(value)
                np.lib.format.write_array(member, array, allow_pickle=False)


def input_specs(model: Plan) -> Specs:
    """Shape and dtype of each input of the whole model."""
    return port_specs(model.inputs)


def random_inputs(model: Plan | QGraph, seed: int) -> dict[str, np.ndarray]:
    """Seeded random inputs of the model's own types.

    Int8 inputs of the core cover the whole range. Among inputs that only the host reads, uint8 and int8 cover
    theirs, floats lie from 0 to 1, and other integers are 0 or 1, which are valid as indices too.

    Raises
    ------
    ApiError   If an input takes texts.
    """
    plan = Plan.of(model)
    for port in plan.inputs:
        if port.dtype == "object":
            raise ApiError(f"input {port.name!r} takes texts, which are not drawn at random: give inputs")
    rng, formats = np.random.default_rng(seed), plan.formats
    return {
        name: _random(rng, formats.get(name), shape, np.dtype(dtype))
        for name, (shape, dtype) in input_specs(plan).items()
    }


def _random(
    rng: np.random.Generator, form: QTensor | None, shape: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    if form is not None:
        return dequantise(rng.integers(-128, 128, shape, dtype=np.int8), form)
    if dtype.kind == "f":
        return rng.random(shape).astype(dtype)
    if dtype.itemsize == 1 and dtype.kind != "b":
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)
    return rng.integers(0, 2, shape).astype(dtype)
