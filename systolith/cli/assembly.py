"""The commands `asm` and `disasm`: instructions as text."""

from __future__ import annotations

from typing import Any

import click

from systolith.cli.files import read_bytes, read_text
from systolith.cli.options import ARCH_HELP, arch_option, json_option
from systolith.report import reporter_for, write_json
from systolith.spec.arch import load_arch
from systolith.spec.image import Image
from systolith.spec.isa import IsaError, isa_for
from systolith.spec.outputs import check_outputs, write

__all__ = ["asm", "disasm"]


@click.command()
@click.argument("source", metavar="TEXT.asm")
@arch_option
@click.option(
    "-o", "--output", metavar="WORDS.bin", help="Where the words go; default: printed in hexadecimal."
)
@json_option
def asm(source: str, arch: str, output: str | None, json_path: str | None) -> None:
    """Assemble TEXT.asm, one instruction per line, into instruction words."""
    check_outputs({"-o": output, "--json": json_path}, inputs=(source,))
    isa = isa_for(load_arch(arch))
    words = []
    for number, line in enumerate(read_text(source).splitlines(), 1):
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
        write(output, b"".join(words))
        reporter.line(f"wrote {output}: {len(words)} instructions of {isa.word_bytes} bytes")
    write_json(
        json_path,
        {"instructions": len(words), "word_bytes": isa.word_bytes, "words": [word.hex() for word in words]},
    )


@click.command()
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
    check_outputs({"--json": json_path}, inputs=(source,))
    reporter = reporter_for(json_path)
    listing: list[dict[str, Any]] = []
    if arch is not None:
        isa = isa_for(load_arch(arch))
        data = read_bytes(source)
        if len(data) % isa.word_bytes:
            raise IsaError(
                f"{source} has {len(data)} bytes, which is no whole number of {isa.word_bytes}-byte "
                "instructions: is --arch the one it was assembled for?"
            )
        for offset in range(0, len(data), isa.word_bytes):
            try:
                text = isa.disassemble(isa.decode(data[offset : offset + isa.word_bytes]))
            except IsaError as error:
                raise IsaError(f"{source}, offset 0x{offset:x}: {error}") from error
            listing.append({"stream": "raw", "step": None, "offset": offset, "text": text, "layer": None})
    else:
        image = Image.load(source)
        isa = isa_for(image.arch)
        for which in ("load", "run") if stream == "all" else (stream,):
            for core, step in enumerate(image.cores) if which == "run" else [(0, None)]:
                number = image.steps.index(step) + 1 if step is not None and len(image.cores) > 1 else None
                for i, (offset, instr) in enumerate(image.stream(which, core)):
                    owner = -1 if step is None else step.owners[i]
                    listing.append(
                        {
                            "stream": which,
                            "step": number,
                            "offset": offset,
                            "text": isa.disassemble(instr),
                            "layer": step.layers[owner].name if step is not None and owner >= 0 else None,
                        }
                    )
    previous = None
    for row in listing:
        stream_of = (row["stream"], row["step"])
        if row["stream"] != "raw" and stream_of != previous:
            of_step = f" of step {row['step']}" if row["step"] is not None else ""
            reporter.line(f"# {row['stream']} stream{of_step}")
            previous = stream_of
        layer = f" {row['layer']}" if row["layer"] else ""
        reporter.line(f"{row['text']}  # 0x{row['offset']:05x}{layer}")
    write_json(json_path, {"instructions": listing})
