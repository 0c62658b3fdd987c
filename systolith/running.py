"""The verb `run`, on option objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from systolith.arrays import ApiError, Inputs, check_inputs, input_specs, load_arrays, named
from systolith.compiling import compile_plan
from systolith.device_port import simulated_arch
from systolith.host.inputs import port_specs
from systolith.importing import Model, Progress, absence, imported, tell
from systolith.options import Importing, Running
from systolith.results import RunResult
from systolith.session import BACKENDS, Session, run_reference
from systolith.spec.arch import ArchConfig, load_arch
from systolith.spec.image import Image, ImageError

__all__ = ["check_backends", "run_model"]


def check_backends(names: Sequence[str]) -> None:
    """Refuse what is no backend.

    Raises
    ------
    ApiError   Naming it.
    """
    for name in names:
        if name not in BACKENDS:
            raise ApiError(f"there is no backend {name!r}; choose from {', '.join(BACKENDS)}")


def run_model(
    model_or_image: Model | Image,
    inputs: Inputs,
    on: str,
    arch: str | Path | ArchConfig | None,
    importing: Importing,
    running: Running,
    progress: Progress = None,
) -> RunResult:
    """See `api.run`."""
    check_backends((on,))
    # A file is read before the model, so that what is wrong with it is said at once.
    given = inputs if isinstance(inputs, np.ndarray) else load_arrays(inputs, "inputs")
    if given is None:
        raise ApiError("run needs inputs: one array per input of the model")
    image = _as_image(model_or_image)
    if on == "reference":
        if isinstance(model_or_image, Image) or image is not None:
            raise ApiError(
                "an image holds instructions, not the model: run the ONNX file on 'reference', or the "
                "image on 'machine'"
            )
        plan = imported(model_or_image, importing, progress).plan
        return run_reference(plan, named(given, [*input_specs(plan)]))
    if image is None:
        arch = arch or simulated_arch(running.port)
        if arch is None:
            if isinstance(model_or_image, str | Path):
                from systolith.compiler.checks.file import read_file

                # What the file is comes before what a model would need.
                read_file(Path(model_or_image))
            raise ApiError(
                "running a model needs an architecture: give --arch, or an image that was compiled for one"
            )
        config = load_arch(arch)
        # A model of which the core runs nothing runs too: the caller wants its results.
        found = imported(model_or_image, importing, progress, config)
        image = compile_plan(found.plan, config, progress=progress)
    elif arch is not None and load_arch(arch).digest() != image.arch.digest():
        raise ApiError(
            f"the image was compiled for {image.arch.name!r}, not for {load_arch(arch).name!r}: compile "
            f"the model again"
        )
    specs = port_specs(image.inputs)
    arrays = named(given, [*specs])
    check_inputs(arrays, specs, image.formats)
    tell(progress, f"preparing {on}")
    with Session(on, image, running) as session:
        tell(progress, f"running on {on}")
        return session.run(arrays)


def _as_image(source: Model | Image) -> Image | None:
    """The image, if it is one or names one; None for a model.

    Raises
    ------
    ImageError   If there is no such file, or it is called an image and is none that can be used.
    """
    if isinstance(source, Image):
        return source
    if not isinstance(source, str | Path):
        return None
    path = Path(source)
    if not path.is_file():
        raise ImageError(
            f"{str(source)!r} {absence(path)}: give an ONNX file or an image made by `systolith compile`"
        )
    # What it holds counts, and not what it is called, but for the sake of a damaged image.
    if path.suffix == ".sysl" or Image.is_image(path):
        return Image.load(path)
    return None
