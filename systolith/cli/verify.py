"""The command `verify`: every backend beside the reference."""

from __future__ import annotations

from pathlib import Path

import click

from systolith.cli.files import read_text
from systolith.cli.options import (
    EXIT_DIFFERENT,
    arch_option,
    import_options,
    json_option,
    max_cycles_option,
    memory_options,
    port_option,
    tools_option,
)
from systolith.cli.tables import print_layers
from systolith.options import Importing, Running
from systolith.report import difference_lines, reporter_for, snr_lines, write_json
from systolith.spec.memory import MemoryTiming
from systolith.spec.outputs import check_outputs
from systolith.spec.printable import printable
from systolith.tooling.tools import describe

__all__ = ["verify"]


@click.command()
@click.argument("model")
@arch_option
@click.option("--inputs", metavar="X.npz", help="One array per input; default: seeded random values.")
@click.option(
    "--on",
    "backends",
    default="reference,machine,rtl",
    show_default=True,
    metavar="LIST",
    help="Backends to compare; netlist is the RTL after synthesis by Yosys.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the random inputs.")
@click.option(
    "--waveform",
    metavar="FILE",
    help=(
        "Where the RTL differs, the cycles around the first wrong beat, as .fst or .vcd; default: "
        "MODEL-rtl.fst."
    ),
)
@click.option(
    "--verilog",
    multiple=True,
    metavar="FILE",
    help="Verilog to run as rtl instead of the generated core, with its ports; may be given more than once.",
)
@port_option
@max_cycles_option
@memory_options
@import_options
@tools_option
@json_option
@click.pass_context
def verify(
    context: click.Context,
    model: str,
    arch: str,
    inputs: str | None,
    backends: str,
    seed: int,
    waveform: str | None,
    verilog: tuple[str, ...],
    port: str | None,
    max_cycles: int | None,
    memory: MemoryTiming,
    importing: Importing,
    json_path: str | None,
) -> None:
    """Run MODEL on every backend and compare every bit of every output; say where the first difference
    arises."""
    from systolith.importing import check_core
    from systolith.verifying import verify_model

    check_outputs(
        {"--json": json_path, "--waveform": waveform}, inputs=(model, inputs, importing.calib_path, *verilog)
    )
    reporter = reporter_for(json_path)
    names = tuple(name.strip() for name in backends.split(",") if name.strip())
    with reporter.progress() as progress:
        result = verify_model(
            model,
            arch,
            inputs,
            importing,
            Running(memory=memory, port=port, max_cycles=max_cycles, sources=_sources(verilog)),
            on=names,
            seed=seed,
            waveform=waveform or f"{Path(model).stem}-rtl.fst",
            progress=progress,
        )
    info = result.as_dict()
    rtl = result.backends.get("rtl")
    print_layers(
        reporter,
        info,
        "counted in RTL" if rtl is not None and rtl.cycles else "estimated",
        "counted in RTL" if rtl is not None and rtl.layer_cycles else "estimated by the cycle model",
    )
    for name, backend in result.backends.items():
        cycles = f", {backend.cycles:,} cycles, {backend.load_cycles:,} to load" if backend.cycles else ""
        reporter.line(f"{name}: {backend.seconds:.2f} s{cycles}")
    if result.tools:
        reporter.line(f"tools: {describe(result.tools)}")
    if result.fidelity is not None:
        for text in snr_lines(result.fidelity.snr()):
            reporter.line(text)
    compared = [name for name in result.backends if name != "reference"]
    for difference in result.differences:
        for text in difference_lines(difference):
            reporter.line(text)
    verdict = (
        "not bit-exact"
        if not result.bit_exact
        else f"bit-exact: reference = {' = '.join(compared)}"
        if compared
        else "only the reference ran: nothing was compared"
    )
    from_float = "" if result.fidelity is None else f"; {result.fidelity.summary()}"
    reporter.line(f"{verdict}{from_float}")
    write_json(json_path, info)
    check_core(result.image, importing)
    if not result.bit_exact:
        seeded = f" (seed {result.seed})" if result.seed is not None else ""
        click.echo(
            f"systolith: {printable(model)} differs from the reference on "
            f"{', '.join(dict.fromkeys(d.backend for d in result.differences))}{seeded}",
            err=True,
        )
        context.exit(EXIT_DIFFERENT)


def _sources(paths: tuple[str, ...]) -> dict[str, str] | None:
    """Verilog files by name, or None without any."""
    sources: dict[str, str] = {}
    for path in paths:
        if Path(path).name in sources:
            raise click.ClickException(f"two Verilog files are called {Path(path).name!r}: rename one")
        sources[Path(path).name] = read_text(path)
    return sources or None
