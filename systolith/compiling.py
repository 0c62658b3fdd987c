"""The verbs `compile` and `explain`, on option objects."""

from __future__ import annotations

from pathlib import Path

from systolith.arrays import ApiError
from systolith.host.runner import Runner
from systolith.importing import Model, Progress, imported, tell
from systolith.options import Importing
from systolith.spec import outputs
from systolith.spec.arch import ArchConfig, load_arch
from systolith.spec.image import Image
from systolith.spec.memory import FULL_RATE, MemoryTiming

__all__ = ["compile_model"]


def compile_model(
    model: Model,
    arch: str | Path | ArchConfig,
    importing: Importing,
    *,
    memory: MemoryTiming = FULL_RATE,
    dump: str | Path | None = None,
    streaming: bool = False,
    progress: Progress = None,
) -> Image:
    """See `api.compile`."""
    outputs.check_folder("the dump", dump)
    config = load_arch(arch)
    plan = imported(model, importing, progress)
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
