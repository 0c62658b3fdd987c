"""The verbs `compile` and `explain`, on option objects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from systolith.arrays import ApiError
from systolith.host.segments import HostSegments
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
    partition = imported(model, importing, progress)
    from systolith.compiler.driver import compile_levels

    if streaming:
        from systolith.compiler.passes.streaming import carry_states

        partition = replace(partition, graph=carry_states(partition.graph))
    tell(progress, f"compiling {partition.graph.name} for {config.name}")
    # What ONNX Runtime does not accept is refused now, not when the image runs.
    HostSegments(partition.host)
    compilation = compile_levels(partition.graph, config, memory)
    if dump is not None:
        from systolith.compiler.dump import dump_levels

        try:
            dump_levels(partition, compilation, Path(dump))
        except OSError as error:
            raise ApiError(f"cannot write the dump to {str(dump)!r}: {error.strerror or error}") from error
    return replace(compilation.image, host=partition.host)
