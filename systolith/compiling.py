"""The verbs `compile` and `explain`, on option objects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from systolith.arrays import ApiError
from systolith.host.runner import Runner
from systolith.importing import Imported, Model, Progress, check_core, imported, tell
from systolith.options import Importing
from systolith.reference.plan import Plan
from systolith.spec import outputs
from systolith.spec.arch import ArchConfig, load_arch
from systolith.spec.image import Image
from systolith.spec.memory import FULL_RATE, MemoryTiming

if TYPE_CHECKING:
    from systolith.evidence.fidelity import Fidelity

__all__ = ["Compiled", "compile_model", "compile_plan", "explain_model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """An image, how far it is from the float model (None: nothing to compare with), and what was fixed of
    the model."""

    image: Image
    fidelity: Fidelity | None = None
    notes: tuple[str, ...] = ()


def compile_model(
    model: Model,
    arch: str | Path | ArchConfig,
    importing: Importing,
    *,
    memory: MemoryTiming = FULL_RATE,
    dump: str | Path | None = None,
    streaming: bool = False,
    progress: Progress = None,
) -> Compiled:
    """See `api.compile`."""
    outputs.check_folder("the dump", dump)
    config = load_arch(arch)
    found = imported(model, importing, progress, config)
    check_core(found.plan, importing)
    return _compiled(found, config, memory, dump, streaming, progress)


def explain_model(
    model: Model,
    arch: str | Path | ArchConfig,
    importing: Importing,
    *,
    memory: MemoryTiming = FULL_RATE,
    progress: Progress = None,
) -> Compiled:
    """As `compile_model`; a float model needs no calibration data, because no cycle depends on it."""
    config = load_arch(arch)
    found = imported(model, importing, progress, config, unobserved=importing.calib is None)
    check_core(found.plan, importing)
    return _compiled(found, config, memory, None, False, progress)


def _compiled(
    found: Imported,
    config: ArchConfig,
    memory: MemoryTiming,
    dump: str | Path | None,
    streaming: bool,
    progress: Progress,
) -> Compiled:
    image = compile_plan(found.plan, config, memory=memory, dump=dump, streaming=streaming, progress=progress)
    return Compiled(image=image, fidelity=found.fidelity, notes=found.notes)


def compile_plan(
    plan: Plan,
    config: ArchConfig,
    *,
    memory: MemoryTiming = FULL_RATE,
    dump: str | Path | None = None,
    streaming: bool = False,
    progress: Progress = None,
) -> Image:
    """The image of a plan."""
    from systolith.compiler.driver import compile_levels

    if streaming:
        from systolith.compiler.passes.streaming import stream_plan

        plan = stream_plan(plan)
    tell(progress, f"compiling {plan.name} for {config.name}")
    # What ONNX Runtime does not accept is refused now, not when the image runs.
    Runner(plan)
    compilation = compile_levels(plan, config, memory)
    if dump is not None:
        from systolith.compiler.dump import dump_levels

        try:
            dump_levels(compilation, Path(dump))
        except OSError as error:
            raise ApiError(f"cannot write the dump to {str(dump)!r}: {error.strerror or error}") from error
    return compilation.image
