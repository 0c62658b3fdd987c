"""The command `explain`: where the cycles of a model go, before anything runs."""

from __future__ import annotations

import click

from systolith.cli.options import arch_option, import_options, json_option, memory_options
from systolith.cli.tables import print_fidelity, print_layers
from systolith.options import Importing
from systolith.report import reporter_for, write_json
from systolith.spec.memory import MemoryTiming
from systolith.spec.outputs import check_outputs

__all__ = ["explain"]


@click.command()
@click.argument("model")
@arch_option
@import_options
@memory_options
@json_option
def explain(model: str, arch: str, importing: Importing, memory: MemoryTiming, json_path: str | None) -> None:
    """Estimated cycles, roofline and limit of each layer of MODEL, without running it."""
    from systolith import compiling
    from systolith.results import describe

    check_outputs({"--json": json_path}, inputs=(model, importing.calib_path))
    reporter = reporter_for(json_path)
    with reporter.progress() as progress:
        found = compiling.explain_model(model, arch, importing, memory=memory, progress=progress)
    info = describe(found.image, found.image.cycles, fidelity=found.fidelity, notes=found.notes)
    print_layers(reporter, info)
    print_fidelity(reporter, found.fidelity)
    write_json(json_path, info)
