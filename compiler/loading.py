"""From any file that ONNX Runtime runs to one typed model with static shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from systolith.compiler.base.errors import InputError
from systolith.compiler.base.limits import shape_text
from systolith.compiler.base.model import Model, TensorType
from systolith.compiler.checks.model import read_model
from systolith.compiler.checks.shapes import check_shapes, inferred_types
from systolith.compiler.passes.control_flow import unroll
from systolith.compiler.passes.dress import weights_only
from systolith.compiler.passes.floats import single_precision
from systolith.compiler.passes.fold import fold, vanish
from systolith.compiler.passes.time_first import put_time_first

__all__ = ["Given", "Loaded", "followed", "load", "name_nodes", "retyped"]

_RECURRENT = ("GRU", "LSTM", "RNN")
#: Operators behind which the first axis is another.
_MOVING = ("Expand", "Flatten", "Gather", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze")
#: How often shapes and constants are followed up in turn.
_ROUNDS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the caller fixes of a model.

    Parameters
    ----------
    shapes    : input -> extents, None for one that is left to the samples
    constants : input -> value; the input becomes a constant
    batch     : extent of the first axis of every input whose first axis the model leaves open
    """

    shapes: Mapping[str, Sequence[int | None]] = field(default_factory=dict)
    constants: Mapping[str, object] = field(default_factory=dict)
    batch: int | None = None


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model as it was loaded.

    Parameters
    ----------
    model     : static input shapes, unique names of nodes, constants folded
    notes     : what was fixed, one line each
    quantised : whether it states formats of activations, so that none has to be chosen
    """

    model: Model
    notes: tuple[str, ...]
    quantised: bool


def load(
    source: str | Path | onnx.ModelProto,
    given: Given | None = None,
    samples: Mapping[str, np.ndarray] | None = None,
) -> Loaded:
    """The model of a file, checked, typed and static.

    Extents that the model leaves open are those of `given`, else those of the samples; a first axis that
    neither states is 1.

    Parameters
    ----------
    source  : path or ModelProto
    given   : shapes and constants
    samples : per input, stacked on the first axis

    Raises
    ------
    CompileError   If the file cannot be read, is no valid model, or leaves an extent open; one sentence that
                   names the culprit.
    """
    given = given or Given()
    proto = read_model(source)
    proto = single_precision(proto)
    name_nodes(proto)
    put_time_first(proto)
    name_nodes(proto)
    notes = [*_fix_constants(proto, given.constants), *_fix_shapes(proto, given, samples)]
    check_shapes(proto)
    model = followed(Model.from_proto(proto, inferred_types(proto)))
    return Loaded(model=model, notes=tuple(notes), quantised=not weights_only(model))


def followed(model: Model) -> Model:
    """Fold, unroll and infer types until nothing changes."""
    for _ in range(_ROUNDS):
        before = model
        model = unroll(vanish(fold(model)))
        if model is before:
            break
        model = retyped(model)
    return model.without_dead_nodes()


def retyped(model: Model) -> Model:
    """The model with all types and shapes that onnx can infer of it."""
    return model.with_nodes(model.nodes, types=_better(model, inferred_types(model.to_proto())))


def _better(model: Model, types: Mapping[str, TensorType]) -> dict[str, TensorType]:
    """Types that say more than those that are known."""
    return {
        name: kind
        for name, kind in types.items()
        if kind.element and (kind.extents is not None or model.type_of(name).extents is None)
    }


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a unique name: the model's where it has one."""
    seen: set[str] = set()
    for node in model.graph.node:
        base = node.name or f"{node.op_type}:{next((name for name in node.output if name), '')}"
        name, number = base, 1
        while name in seen:
            name, number = f"{base}_{number}", number + 1
        seen.add(name)
        node.name = name


def _fix_constants(model: onnx.ModelProto, constants: Mapping[str, object]) -> list[str]:
    inputs = {value.name: value for value in model.graph.input}
    notes = []
    for name, value in constants.items():
        if name not in inputs:
            raise InputError(
                "import",
                name,
                "the model has no input of this name to fix",
                f"its inputs are {', '.join(inputs) or 'none'}",
            )
        kind = inputs[name].type.tensor_type
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise InputError("import", name, f"its constant has type {array.dtype}", "give numbers")
        shape = [dim.dim_value for dim in kind.shape.dim]
        array = array.astype(helper.tensor_dtype_to_np_dtype(kind.elem_type or onnx.TensorProto.FLOAT))
        if array.ndim != len(shape) and array.size == 1:
            array = array.reshape([1] * len(shape))
        elif array.ndim != len(shape) or any(
            extent > 0 and extent != found for extent, found in zip(shape, array.shape, strict=True)
        ):
            raise InputError(
                "import",
                name,
                f"its constant has shape {shape_text(array.shape)}, the input {shape_text(shape)}",
                "give a value of the input's shape",
            )
        model.graph.initializer.append(numpy_helper.from_array(array, name))
        model.graph.input.remove(inputs[name])
        notes.append(f"input {name!r} is constant: {_shown(array)}")
    return notes


def _shown(array: np.ndarray) -> str:
    return str(array.reshape(-1)[0]) if array.size == 1 else f"{array.size} values"


def _fix_shapes(model: onnx.ModelProto, given: Given, samples: Mapping[str, np.ndarray] | None) -> list[str]:
    """Give every axis of every input an extent."""
    inputs = {value.name: value for value in model.graph.input}
    for name in given.shapes:
        if name not in inputs:
            raise InputError(
                "import",
                name,
                "the model has no input of this name to give a shape",
                f"its inputs are {', '.join(inputs) or 'none'}",
            )
    symbols: dict[str, tuple[int, str, str]] = {}
    notes: list[str] = []
    changed = False
    waiting: list[tuple[onnx.ValueInfoProto, int, onnx.TensorShapeProto.Dimension]] = []
    for name, value in inputs.items():
        if not value.type.HasField("tensor_type"):
            continue
        sample = None if samples is None or name not in samples else np.asarray(samples[name])
        _check_rank(name, value, given, sample)
        shape = value.type.tensor_type.shape
        stated = list(given.shapes.get(name, [None] * len(shape.dim)))
        stacked = _extents(sample, len(shape.dim))
        for axis, dim in enumerate(shape.dim):
            wanted = stated[axis]
            if dim.HasField("dim_value") and dim.dim_value > 0:
                if wanted is not None and wanted != dim.dim_value:
                    raise InputError(
                        "import",
                        name,
                        f"axis {axis} is {dim.dim_value} in the model, and {wanted} was given",
                        "leave it open with '?', or export the model with that extent",
                    )
                continue
            source = "as given"
            if wanted is None and axis == 0 and given.batch is not None:
                wanted, source = given.batch, "as given by the batch"
            if wanted is None and stacked is not None:
                wanted, source = stacked[axis], "from the samples"
            if wanted is None:
                if axis == 0 and sample is not None and len(sample) != 1 and _is_time(model, name):
                    raise InputError(
                        "import",
                        name,
                        f"its first axis is time, and is open: data of shape {shape_text(sample.shape)} may "
                        "be one sequence or many steps",
                        "stack samples on an axis of their own in front, or give the extent with --shape",
                    )
                waiting.append((value, axis, dim))
                continue
            _fix(symbols, notes, name, axis, dim, wanted, source)
            changed = True
    for value, axis, dim in waiting:
        changed = True
        if dim.dim_param in symbols:
            extent, other, _ = symbols[dim.dim_param]
            _fix(symbols, notes, value.name, axis, dim, extent, f"as {dim.dim_param!r} of {other!r}")
        elif axis == 0:
            _fix(symbols, notes, value.name, axis, dim, 1, "because nothing else was given")
        else:
            raise InputError(
                "import",
                value.name,
                f"axis {axis} of the input is dynamic ({dim.dim_param or 'unknown'})",
                "give its extent with --shape, or samples that show it",
            )
    if changed:
        del model.graph.value_info[:]
        for value in model.graph.output:
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
    return notes


def _is_time(model: onnx.ModelProto, name: str) -> bool:
    """Whether a recurrent node steps along the first axis of an input, which then is no batch."""
    same = {name}
    for node in model.graph.node:
        if not node.input or node.input[0] not in same:
            continue
        if node.op_type in _RECURRENT:
            return True
        if node.op_type not in _MOVING:
            same.update(node.output)
    return False


def _fix(
    symbols: dict[str, tuple[int, str, str]],
    notes: list[str],
    name: str,
    axis: int,
    dim: onnx.TensorShapeProto.Dimension,
    extent: int,
    source: str,
) -> None:
    # '?' is what some exporters write for an extent that has no name.
    symbol = dim.dim_param.strip("?")
    if symbol:
        known = symbols.setdefault(symbol, (extent, name, source))
        if known[0] != extent:
            raise InputError(
                "import",
                name,
                f"axis {axis} ({symbol!r}) is {extent}, {source}, but {symbol!r} is {known[0]} in "
                f"{known[1]!r}, {known[2]}",
                "give both the same extent",
            )
    shown = f" ({symbol})" if symbol else ""
    notes.append(f"axis {axis}{shown} of input {name!r} is {extent}, {source}")
    dim.Clear()
    dim.dim_value = extent


def _check_rank(name: str, value: onnx.ValueInfoProto, given: Given, sample: np.ndarray | None) -> None:
    """Give an input without any shape the rank that is known of it from elsewhere."""
    kind = value.type.tensor_type
    stated = given.shapes.get(name)
    if not kind.HasField("shape"):
        rank = len(stated) if stated is not None else None if sample is None else sample.ndim - 1
        if rank is None or rank < 0:
            raise InputError(
                "import", name, "the input has no shape", "give one with --shape, or samples that show it"
            )
        kind.shape.SetInParent()
        for _ in range(rank):
            kind.shape.dim.add()
    rank = len(kind.shape.dim)
    if stated is not None and len(stated) != rank:
        raise InputError(
            "import",
            name,
            f"its shape was given with {len(stated)} axes, and the input has {rank}",
            "give one extent per axis, '?' for one that is left open",
        )
    for extent in stated or ():
        if extent is not None and extent < 1:
            raise InputError("import", name, f"an extent of {extent} was given", "give 1 or more")


def _extents(sample: np.ndarray | None, rank: int) -> list[int | None] | None:
    """What samples tell of an input's extents; None where they tell nothing."""
    if sample is None:
        return None
    if sample.ndim == rank + 1:
        return [int(extent) for extent in sample.shape[1:]]
    if sample.ndim == rank and rank:
        # Joined on the first axis: how many samples that are, it does not tell.
        return [None, *(int(extent) for extent in sample.shape[1:])]
    return None
