"""From a model, in any form that the verbs take, to what the core and the host run of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

from systolith.arrays import ApiError, load_arrays
from systolith.options import Importing
from systolith.reference.graph import QGraph
from systolith.reference.plan import Plan

if TYPE_CHECKING:
    import onnx

__all__ = [
    "Model",
    "ModelFile",
    "Progress",
    "absence",
    "existing",
    "fidelity",
    "import_file",
    "imported",
    "tell",
]

#: A model in ONNX.
ModelFile: TypeAlias = Union[str, Path, "onnx.ModelProto"]
#: What the verbs take as a model.
Model: TypeAlias = Union[str, Path, "onnx.ModelProto", QGraph, Plan]
#: Called with one line of text at each stage; None is silent.
Progress: TypeAlias = Callable[[str], None] | None


def tell(progress: Progress, text: str) -> None:
    """One stage begins."""
    if progress is not None:
        progress(text)


def absence(path: Path) -> str:
    """What a path is that is no file."""
    return "is a folder" if path.is_dir() else "is no file" if path.exists() else "does not exist"


def existing(model: ModelFile) -> Path | onnx.ModelProto:
    """The path of a file that is there, or a model whose weights are there.

    Raises
    ------
    ApiError   If it is neither.
    """
    if not isinstance(model, str | Path):
        return _loaded(model)
    path = Path(model)
    if not path.is_file():
        raise ApiError(f"model {str(model)!r} {absence(path)}: give the path of an ONNX file")
    return path


def _loaded(model: object) -> onnx.ModelProto:
    import onnx
    from onnx.external_data_helper import uses_external_data

    if not isinstance(model, onnx.ModelProto):
        raise ApiError(
            f"a model is the path of an ONNX file, a ModelProto or a quantised graph, not "
            f"{type(model).__name__}"
        )
    for tensor in model.graph.initializer:
        if uses_external_data(tensor):
            raise ApiError(
                f"the weights {tensor.name!r} lie in a file of their own, and a ModelProto does not say in "
                "which folder: give the path of the model, or load them with "
                "onnx.load_external_data_for_model"
            )
    return model


def import_file(model: ModelFile, importing: Importing, progress: Progress = None) -> Plan:
    """An ONNX file as a plan: steps of the core, each a quantised graph, and steps of the host.

    A file's own name names the model: exporters give every graph the same.

    Raises
    ------
    ApiError       If the file does not exist, or `importing` says what the model does not allow.
    CompileError   If the model is refused; from the compiler, naming the node.
    """
    from systolith.compiler.partition import partition_model
    from systolith.evidence.fidelity import chosen_hidden, has_recurrent_layers

    path, data = existing(model), load_arrays(importing.calib, "calibration data")
    states, percentile = importing.states, importing.percentile
    if importing.hidden == "auto":
        if data is None:
            raise ApiError(
                "hidden 'auto' compares with the float model on calibration data: give a float model and "
                "that data, or 8 or 16"
            )
        chosen = chosen_hidden(path, data, states, percentile, lambda text: tell(progress, text))
        return _titled(chosen, path)
    bits = int(importing.hidden)
    plan = partition_model(path, data, states, bits, percentile)
    if bits == 16 and not has_recurrent_layers(plan):
        raise ApiError(
            "the model has no recurrent layer on the core, so there is no hidden state of 16 bits: leave "
            "hidden out"
        )
    return _titled(plan, path)


def _titled(plan: Plan, source: Path | onnx.ModelProto) -> Plan:
    return replace(plan, name=source.stem) if isinstance(source, Path) else plan


def imported(model: Model, importing: Importing, progress: Progress = None) -> Plan:
    """The model, imported where it is a file."""
    if not isinstance(model, QGraph | Plan):
        tell(progress, f"importing {model}" if isinstance(model, str | Path) else "importing the model")
        model = import_file(model, importing, progress)
    return Plan.of(model)


def fidelity(
    model: Model, plan: Plan, importing: Importing, progress: Progress = None
) -> dict[str, dict[str, float | None]]:
    """Signal to noise against the float model on the calibration data; empty where there is neither."""
    if isinstance(model, QGraph | Plan) or importing.calib is None:
        return {}
    from systolith.compiler.loading import load
    from systolith.evidence.fidelity import signal_to_noise

    calibration = load_arrays(importing.calib, "calibration data")
    if load(existing(model), samples=calibration).quantised:
        return {}
    tell(progress, "comparing with the float model")
    return signal_to_noise(model, plan, calibration, importing.states)
