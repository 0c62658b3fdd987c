"""From a model, in any form that the verbs take, to what the core and the host run of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

from systolith.arrays import ApiError, load_arrays
from systolith.options import FarFromFloatWarning, Importing
from systolith.reference.graph import QGraph
from systolith.reference.plan import Plan
from systolith.spec.arch import ArchConfig
from systolith.spec.errors import SystolithError
from systolith.spec.image import Image
from systolith.spec.plan import HostStep
from systolith.spec.ranges import FAR

if TYPE_CHECKING:
    import onnx

    from systolith.evidence.fidelity import Fidelity

__all__ = [
    "AccuracyError",
    "FarFromFloatWarning",
    "HostOnlyError",
    "Imported",
    "Model",
    "ModelFile",
    "Progress",
    "absence",
    "check_core",
    "existing",
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


#: Operators that only state formats.
_FORMATS = ("QuantizeLinear", "DequantizeLinear")


class AccuracyError(SystolithError):
    """Outputs are further from float than the caller allows."""


class HostOnlyError(SystolithError):
    """The core would run nothing of the model."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A model that was imported.

    Parameters
    ----------
    plan     : steps of the core and of the host
    fidelity : how far the plan is from the float model; None where there is none to compare with
    notes    : what was fixed of the model, one line each
    """

    plan: Plan
    fidelity: Fidelity | None = None
    notes: tuple[str, ...] = ()


def import_file(
    model: ModelFile,
    importing: Importing,
    progress: Progress = None,
    arch: ArchConfig | None = None,
    unobserved: bool = False,
) -> Imported:
    """An ONNX file as a plan: steps of the core, each a quantised graph, and steps of the host.

    A file's own name names the model: exporters give every graph the same.

    Parameters
    ----------
    arch       : whose size and speed decide what the core runs; None: all that some core could
    unobserved : accept a float model without calibration data, and draw formats

    Raises
    ------
    ApiError       If the file does not exist, or `importing` says what the model does not allow.
    AccuracyError  If an output is further from float than `importing` allows.
    CompileError   If the model is refused; from the compiler, naming the node.
    """
    from systolith.compiler.loading import Given
    from systolith.compiler.partition import prepare
    from systolith.evidence.fidelity import chosen_hidden, has_recurrent_layers
    from systolith.evidence.precision import accurate_plan

    path, data = existing(model), load_arrays(importing.calib, "calibration data")
    if importing.hidden == "auto" and data is None:
        raise ApiError(
            "hidden 'auto' compares with the float model on calibration data: give a float model and "
            "that data, or 8 or 16"
        )
    prepared = prepare(
        path,
        data,
        given=Given(
            shapes=importing.shapes or {}, constants=importing.constants or {}, batch=importing.batch
        ),
        states=importing.states,
        ranges=importing.chosen_ranges,
        percentile=importing.percentile,
        unobserved=unobserved,
    )
    for note in prepared.loaded.notes:
        tell(progress, note)

    def said(text: str) -> None:
        tell(progress, text)

    bits = None if importing.hidden is None else importing.hidden
    if bits == "auto":
        bits = chosen_hidden(prepared, arch, said)
    drawn = data is None
    if drawn and prepared.in_float:
        tell(progress, "without calibration data formats are drawn: cycles do not depend on them")
    if drawn or not prepared.in_float:
        plan, found = prepared.plan(arch, None if bits is None else int(bits)), None
    else:
        tell(progress, "comparing with the float model")
        chosen = None if bits is None else int(bits)
        plan, found = accurate_plan(prepared, arch, chosen, importing.float_below, said)
    if str(importing.hidden) == "16" and not has_recurrent_layers(plan):
        raise ApiError(
            "the model has no recurrent layer on the core, so there is no hidden state of 16 bits: leave "
            "hidden out"
        )
    if found is not None:
        _check_accuracy(found, importing)
    if isinstance(path, Path):
        plan = replace(plan, name=path.stem)
    return Imported(plan=plan, fidelity=found, notes=prepared.loaded.notes)


def _check_accuracy(found: Fidelity, importing: Importing) -> None:
    """Refuse or warn of outputs that are far from float."""
    if importing.min_snr is not None and found.lowest < importing.min_snr:
        raise AccuracyError(
            f"{found.summary()}, and {importing.min_snr:g} dB are wanted: calibrate with more data, try "
            "--ranges mse or --hidden 16, or allow less"
        )
    if found.far:
        warnings.warn(
            f"{found.summary()}: below {FAR:g} dB results may be useless; try --ranges mse, --hidden 16 or "
            "other calibration data",
            FarFromFloatWarning,
            stacklevel=3,
        )


def imported(
    model: Model,
    importing: Importing,
    progress: Progress = None,
    arch: ArchConfig | None = None,
    unobserved: bool = False,
) -> Imported:
    """The model, imported where it is a file."""
    if isinstance(model, QGraph | Plan):
        return Imported(plan=Plan.of(model))
    tell(progress, f"importing {model}" if isinstance(model, str | Path) else "importing the model")
    return import_file(model, importing, progress, arch, unobserved)


def check_core(plan: Plan | Image, importing: Importing) -> None:
    """Refuse a plan or image of which the core runs nothing, unless that is wanted.

    Raises
    ------
    HostOnlyError   Naming the node with most work and why it is on the host.
    """
    if plan.cores or importing.host_only:
        return
    nodes = [node for step in plan.steps if isinstance(step, HostStep) for node in step.nodes]
    # What the core is for, and else what computes.
    node = max(nodes, key=lambda node: (node.macs or 0, node.op not in _FORMATS), default=None)
    why = "it has no nodes" if node is None else f"node {node.name!r}: {node.reason}"
    name = plan.name if isinstance(plan, Plan) else plan.model
    raise HostOnlyError(
        f"nothing of {name} can run on the core ({why}): change the model, or run it on the host alone "
        "with --host-only"
    )
