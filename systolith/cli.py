"""The command line: `systolith COMMAND ...`.

Exit status: 0 on success, 1 where `verify` finds a difference, 2 on a refused input, with one sentence on
standard error. No traceback reaches a user; SYSTOLITH_DEBUG=1 shows it to a developer.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import click

from systolith.build_command import build
from systolith.doctor import EXIT_REFUSED, doctor, json_option
from systolith.options import ARCH_HELP, arch_option, import_options, memory_options, port_option
from systolith.report import (
    HOST_COLUMNS,
    LAYER_COLUMNS,
    Reporter,
    difference_lines,
    host_cells,
    layer_rows,
    reporter_for,
    skipped_lines,
    snr_lines,
    write_json,
)
from systolith.spec.arch import load_arch
from systolith.spec.errors import SystolithError
from systolith.spec.image import Image
from systolith.spec.isa import IsaError, isa_for
from systolith.spec.memory import MemoryTiming

__all__ = ["cli", "main"]

EXIT_DIFFERENT = 1


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="systolith")
def cli() -> None:
    """From an ONNX model to a systolic accelerator, bit for bit."""


@cli.command("compile")
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
    importing: dict,
    json_path: str | None,
) -> None:
    """Compile MODEL (ONNX) into a program image."""
    from systolith import api

    reporter = reporter_for(json_path)
    with reporter.progress() as progress:
        image = api.compile(
            model, arch, progress=progress, memory=memory, dump=dump, streaming=streaming, **importing
        )
    path = Path(output) if output else Path(model).with_suffix(".sysl")
    image.save(path)
    info = api.describe(image, image.cycles)
    _print_layers(reporter, info)
    reporter.line(
        f"wrote {path}: {path.stat().st_size:,} bytes, {image.load_count} load and {image.run_count} run "
        f"instructions"
    )
    write_json(json_path, {**info, "image": str(path), "bytes": path.stat().st_size})


@cli.command()
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
@memory_options
@import_options
@json_option
def run(
    model_or_image: str,
    arch: str | None,
    inputs: str,
    outputs: str | None,
    backend: str,
    port: str | None,
    memory: MemoryTiming,
    importing: dict,
    json_path: str | None,
) -> None:
    """Run MODEL_OR_IMAGE once on a backend."""
    import numpy as np

    from systolith import api

    reporter = reporter_for(json_path)
    with reporter.progress() as progress:
        result = api.run(
            model_or_image,
            inputs,
            on=backend,
            arch=arch,
            progress=progress,
            memory=memory,
            port=port,
            **importing,
        )
    if outputs is not None:
        # An open file keeps the name as given: numpy.savez would append .npz.
        with open(outputs, "wb") as file:
            np.savez(file, **result.outputs)
    for name, value in result.outputs.items():
        reporter.line(f"{name}: {value.dtype}{list(value.shape)}")
    if result.cycles:
        reporter.line(
            f"{result.cycles:,} cycles ({result.load_cycles:,} to load, once), {result.seconds:.2f} s on "
            f"{backend}"
        )
    nodes = api.host_rows(result.host, result.host_seconds)
    _print_host(reporter, nodes)
    write_json(
        json_path,
        {
            "backend": backend,
            "seconds": round(result.seconds, 6),
            "cycles": result.cycles,
            "load_cycles": result.load_cycles,
            "outputs": {n: list(v.shape) for n, v in result.outputs.items()},
            "host_nodes": nodes,
        },
    )


@cli.command()
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
@click.option("--seed", default=0, show_default=True, help="Of the random inputs.")
@click.option(
    "--waveform",
    metavar="FILE",
    help="Where the RTL differs, the cycles around the first wrong beat, as .fst or .vcd; default: "
    "MODEL-rtl.fst.",
)
@click.option(
    "--verilog",
    multiple=True,
    metavar="FILE",
    help="Verilog to run as rtl instead of the generated core, with its ports; may be given more than once.",
)
@port_option
@memory_options
@import_options
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
    memory: MemoryTiming,
    importing: dict,
    json_path: str | None,
) -> None:
    """Run MODEL on every backend and compare every bit of every output; say where the first difference
    arises."""
    from systolith import api

    reporter = reporter_for(json_path)
    names = tuple(name.strip() for name in backends.split(",") if name.strip())
    with reporter.progress() as progress:
        result = api.verify(
            model,
            arch,
            inputs,
            on=names,
            **importing,
            seed=seed,
            progress=progress,
            sources=_sources(verilog),
            waveform=waveform or f"{Path(model).stem}-rtl.fst",
            memory=memory,
            port=port,
        )
    info = result.as_dict()
    rtl = result.backends.get("rtl")
    _print_layers(
        reporter,
        info,
        "counted in RTL" if rtl is not None and rtl.cycles else "estimated",
        "counted in RTL" if rtl is not None and rtl.layer_cycles else "estimated by the cycle model",
    )
    for name, backend in result.backends.items():
        cycles = f", {backend.cycles:,} cycles, {backend.load_cycles:,} to load" if backend.cycles else ""
        reporter.line(f"{name}: {backend.seconds:.2f} s{cycles}")
    for text in snr_lines(result.snr_db):
        reporter.line(text)
    compared = [name for name in result.backends if name != "reference"]
    for difference in result.differences:
        for text in difference_lines(difference):
            reporter.line(text)
    if result.bit_exact:
        reporter.line(
            f"bit-exact: reference = {' = '.join(compared)}"
            if compared
            else "only the reference ran: nothing was compared"
        )
    write_json(json_path, info)
    if not result.bit_exact:
        seeded = f" (seed {result.seed})" if result.seed is not None else ""
        click.echo(
            f"systolith: {model} differs from the reference on "
            f"{', '.join(dict.fromkeys(d.backend for d in result.differences))}{seeded}",
            err=True,
        )
        context.exit(EXIT_DIFFERENT)


@cli.command()
@click.argument("model")
@arch_option
@import_options
@memory_options
@json_option
def explain(model: str, arch: str, importing: dict, memory: MemoryTiming, json_path: str | None) -> None:
    """Estimated cycles, roofline and limit of each layer of MODEL, without running it."""
    from systolith import api

    reporter = reporter_for(json_path)
    with reporter.progress() as progress:
        info = api.explain(model, arch, progress=progress, memory=memory, **importing)
    _print_layers(reporter, info)
    write_json(json_path, info)


@cli.command()
@click.argument("source", metavar="TEXT.asm")
@arch_option
@click.option(
    "-o", "--output", metavar="WORDS.bin", help="Where the words go; default: printed in hexadecimal."
)
@json_option
def asm(source: str, arch: str, output: str | None, json_path: str | None) -> None:
    """Assemble TEXT.asm, one instruction per line, into instruction words."""
    isa = isa_for(load_arch(arch))
    words = []
    for number, line in enumerate(_read_text(source).splitlines(), 1):
        if not line.partition("#")[0].strip():
            continue
        try:
            words.append(isa.encode(isa.assemble(line)))
        except IsaError as error:
            raise IsaError(f"{source}, line {number}: {error}") from error
    reporter = reporter_for(json_path)
    if output is None:
        for word in words:
            reporter.line(word.hex())
    else:
        Path(output).write_bytes(b"".join(words))
        reporter.line(f"wrote {output}: {len(words)} instructions of {isa.word_bytes} bytes")
    write_json(
        json_path,
        {"instructions": len(words), "word_bytes": isa.word_bytes, "words": [word.hex() for word in words]},
    )


@cli.command()
@click.argument("source", metavar="IMAGE_OR_WORDS")
@click.option(
    "--arch", metavar="NAME_OR_TOML", help=ARCH_HELP + " Only for raw words; an image carries its own."
)
@click.option(
    "--stream",
    default="all",
    show_default=True,
    type=click.Choice(["all", "load", "run"]),
    help="Which stream of an image.",
)
@json_option
def disasm(source: str, arch: str | None, stream: str, json_path: str | None) -> None:
    """Print the instructions of an image, or of raw words made by `asm`; the text assembles again."""
    reporter = reporter_for(json_path)
    listing: list[dict] = []
    if arch is not None:
        isa = isa_for(load_arch(arch))
        data = _read_bytes(source)
        if len(data) % isa.word_bytes:
            raise IsaError(
                f"{source} has {len(data)} bytes, which is no whole number of {isa.word_bytes}-byte "
                f"instructions: "
                "is --arch the one it was assembled for?"
            )
        for offset in range(0, len(data), isa.word_bytes):
            try:
                text = isa.disassemble(isa.decode(data[offset : offset + isa.word_bytes]))
            except IsaError as error:
                raise IsaError(f"{source}, offset 0x{offset:x}: {error}") from error
            listing.append({"stream": "raw", "offset": offset, "text": text, "layer": None})
    else:
        image = Image.load(source)
        isa = isa_for(image.arch)
        for which in ("load", "run") if stream == "all" else (stream,):
            for i, (offset, instr) in enumerate(image.stream(which)):
                owner = image.owners[i] if which == "run" and i < len(image.owners) else -1
                listing.append(
                    {
                        "stream": which,
                        "offset": offset,
                        "text": isa.disassemble(instr),
                        "layer": image.layers[owner].name if owner >= 0 else None,
                    }
                )
    previous = None
    for row in listing:
        if row["stream"] not in ("raw", previous):
            reporter.line(f"# {row['stream']} stream")
            previous = row["stream"]
        layer = f" {row['layer']}" if row["layer"] else ""
        reporter.line(f"{row['text']}  # 0x{row['offset']:05x}{layer}")
    write_json(json_path, {"instructions": listing})


cli.add_command(build)
cli.add_command(doctor)


# -- helpers -------------------------------------------------------------------------------------------------
def _print_layers(
    reporter: Reporter, info: dict, total: str = "estimated", layers: str = "estimated by the cycle model"
) -> None:
    title = f"{info['model']} on {info['arch']}: cycles of the layers, {layers}"
    reporter.table(title, LAYER_COLUMNS, layer_rows(info["layers"]))
    reporter.line(
        f"{info['cycles']:,} cycles {total}, {info['macs']:,} MACs, {info['utilisation']:.1%} of "
        f"{info['peak_macs_per_cycle']} MACs a cycle, roofline {info['roofline_cycles']:,} cycles"
    )
    for text in skipped_lines(info["layers"]):
        reporter.line(text)
    _print_host(reporter, info["host_nodes"])


def _print_host(reporter: Reporter, nodes: list[dict]) -> None:
    """The nodes on the host and, once they ran, what each segment took."""
    if not nodes:
        return
    title = "nodes that run on the host, in ONNX Runtime, before or after the core"
    reporter.table(title, HOST_COLUMNS, host_cells(nodes), left=4)
    for segment in dict.fromkeys(node["segment"] for node in nodes):
        seconds = next(node.get("segment_seconds") for node in nodes if node["segment"] == segment)
        if seconds is not None:
            reporter.line(f"host, {segment} the core: {seconds * 1000:.3f} ms")


def _sources(paths: tuple[str, ...]) -> dict[str, str] | None:
    """Verilog files by name, or None without any."""
    sources: dict[str, str] = {}
    for path in paths:
        if Path(path).name in sources:
            raise click.ClickException(f"two Verilog files are called {Path(path).name!r}: rename one")
        sources[Path(path).name] = _read_text(path)
    return sources or None


def _read_bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise click.ClickException(f"cannot read {path!r}: {error.strerror}") from error


def _read_text(path: str) -> str:
    try:
        return _read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise click.ClickException(
            f"{path!r} is no UTF-8 text: {error.reason} at byte {error.start}"
        ) from error


def _fail(text: str) -> int:
    # One sentence on one line, whatever the exception held.
    click.echo("systolith: " + " ".join(text.split()), err=True)
    return EXIT_REFUSED


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        return cli.main(args=arguments, prog_name="systolith", standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return EXIT_REFUSED
    except click.ClickException as error:
        return _fail(error.format_message())
    except click.exceptions.Abort:
        return _fail("interrupted")
    except BrokenPipeError:
        # The reader of a pipe left: not an error, but Python must not complain while it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("SYSTOLITH_DEBUG"):
            traceback.print_exc()
        if isinstance(error, OSError) and error.filename is not None:
            return _fail(f"cannot use {str(error.filename)!r}: {error.strerror}")
        if isinstance(error, (SystolithError, OSError)):
            # What a tool printed may follow the sentence; SYSTOLITH_DEBUG shows it.
            return _fail(str(error).partition("\n")[0])
        return _fail(
            f"internal error ({type(error).__name__}: {error}): please report it; SYSTOLITH_DEBUG=1 shows "
            f"where"
        )


if __name__ == "__main__":
    sys.exit(main())
