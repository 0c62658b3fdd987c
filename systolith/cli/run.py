"""The command `run`: one inference on a backend."""

from __future__ import annotations

import click

from systolith.cli.options import (
    ARCH_HELP,
    import_options,
    json_option,
    max_cycles_option,
    memory_options,
    port_option,
    tools_option,
)
from systolith.cli.tables import print_host
from systolith.options import Importing, Running
from systolith.report import reporter_for, write_json
from systolith.spec.memory import MemoryTiming
from systolith.spec.outputs import check_outputs
from systolith.spec.plan import HostStep
from systolith.tooling.tools import describe

__all__ = ["run"]


@click.command()
@click.argument("model_or_image")
@click.option("--arch", metavar="NAME_OR_TOML", help=ARCH_HELP + " Not needed with an image.")
@click.option(
    "--inputs",
    required=True,
    metavar="X.npz",
    help="One array per input of the model, of its own shape and type.",
)
@click.option(
    "--outputs", metavar="Y.npz", help="Where the outputs go, under the model's own names and types."
)
@click.option(
    "--on",
    "backend",
    default="machine",
    show_default=True,
    metavar="BACKEND",
    help="reference, machine, rtl, netlist or board.",
)
@port_option
@max_cycles_option
@memory_options
@import_options
@tools_option
@json_option
def run(
    model_or_image: str,
    arch: str | None,
    inputs: str,
    outputs: str | None,
    backend: str,
    port: str | None,
    max_cycles: int | None,
    memory: MemoryTiming,
    importing: Importing,
    json_path: str | None,
) -> None:
    """Run MODEL_OR_IMAGE once on a backend."""
    from systolith.arrays import save_arrays
    from systolith.host.sequences import described, extents
    from systolith.results import host_rows
    from systolith.running import run_model

    check_outputs(
        {"--outputs": outputs, "--json": json_path}, inputs=(model_or_image, inputs, importing.calib_path)
    )
    reporter = reporter_for(json_path)
    with reporter.progress() as progress:
        result = run_model(
            model_or_image,
            inputs,
            backend,
            arch,
            importing,
            Running(memory=memory, port=port, max_cycles=max_cycles),
            progress,
        )
    if outputs is not None:
        save_arrays(outputs, result.outputs)
    for name, value in result.outputs.items():
        reporter.line(f"{name}: {described(value)}")
    if result.cycles:
        reporter.line(
            f"{result.cycles:,} cycles ({result.load_cycles:,} to load, once), {result.seconds:.2f} s on "
            f"{backend}"
        )
    if result.tools:
        reporter.line(f"tools: {describe(result.tools)}")
    nodes = host_rows([run.step for run in result.steps], result.host_seconds)
    print_host(reporter, nodes)
    write_json(
        json_path,
        {
            "backend": backend,
            "seconds": round(result.seconds, 6),
            "cycles": result.cycles,
            "load_cycles": result.load_cycles,
            "outputs": {name: extents(value) for name, value in result.outputs.items()},
            "steps": [
                {
                    "step": number,
                    "where": "host" if isinstance(run.step, HostStep) else "core",
                    "seconds": round(run.seconds, 6),
                    "cycles": run.cycles,
                }
                for number, run in enumerate(result.steps, 1)
            ],
            "host_nodes": nodes,
            "tools": result.tools,
        },
    )
