"""The command `compile`: a model as a program image."""

from __future__ import annotations

from pathlib import Path

import click

from systolith.cli.options import arch_option, import_options, json_option, memory_options
from systolith.cli.tables import print_fidelity, print_layers
from systolith.options import Importing
from systolith.report import reporter_for, write_json
from systolith.spec.memory import MemoryTiming
from systolith.spec.outputs import check_outputs

__all__ = ["compile_command"]


@click.command("compile")
@click.argument("model")
@arch_option
@click.option(
    "-o", "--output", metavar="IMAGE.sysl", help="Where the image goes; default: the model's name with .sysl."
)
@click.option("--streaming", is_flag=True, help="Recurrent layers continue from run to run.")
@click.option("--dump", metavar="DIR", help="Write every level of the compilation there, as text and ONNX.")
@memory_options
@import_options
@json_option
def compile_command(
    model: str,
    arch: str,
    output: str | None,
    streaming: bool,
    dump: str | None,
    memory: MemoryTiming,
    importing: Importing,
    json_path: str | None,
) -> None:
    """Compile MODEL (ONNX) into a program image."""
    from systolith import compiling
    from systolith.results import describe

    path = Path(output) if output else Path(model).with_suffix(".sysl")
    check_outputs({"the image": path, "--json": json_path}, inputs=(model, importing.calib_path))
    reporter = reporter_for(json_path)
    with reporter.progress() as progress:
        found = compiling.compile_model(
            model, arch, importing, memory=memory, dump=dump, streaming=streaming, progress=progress
        )
    image = found.image
    image.save(path)
    info = describe(image, image.cycles, fidelity=found.fidelity, notes=found.notes)
    print_layers(reporter, info)
    print_fidelity(reporter, found.fidelity)
    count = sum(step.count for step in image.cores)
    reporter.line(
        f"wrote {path}: {path.stat().st_size:,} bytes, {image.load_count} load and {count} run instructions"
    )
    write_json(json_path, {**info, "image": str(path), "bytes": path.stat().st_size})
