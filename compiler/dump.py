"""Every level of a compilation as text, to read and to compare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np

from systolith.compiler.driver import Compilation
from systolith.reference.graph import Op, QGraph, Requant
from systolith.reference.partition import Partition
from systolith.spec import outputs
from systolith.spec.isa import isa_for

__all__ = ["dump_levels"]


def dump_levels(partition: Partition, compilation: Compilation, directory: Path) -> list[Path]:
    """Write one file per level; returns their paths, in the order of the levels.

    ==================  ==================================================================================
    host-before.onnx    what the host runs first, if anything
    core.onnx           the core's part of the model, quantised
    host-after.onnx     what the host runs last, if anything
    graph.txt           the quantised graph: tensors with scale and zero point, operators with attributes
    lowered.txt         instructions in program order before tokens, under the node that each belongs to
    placement.txt       where each tensor lies, and during which instructions
    constants.txt       weights, parameters and tables: offset in the image, and place on chip
    program.txt         the linked run stream with tokens and the cycle model's start and end
    ==================  ==================================================================================

    Raises
    ------
    OSError   If the directory cannot be made, or a file not be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    host = partition.host
    files: dict[str, bytes] = {}
    if host is not None and host.before:
        files["host-before.onnx"] = host.before
    if partition.core:
        files["core.onnx"] = partition.core
    if host is not None and host.after:
        files["host-after.onnx"] = host.after
    for name, lines in (
        ("graph", _graph(compilation.graph)),
        ("lowered", _lowered(compilation)),
        ("placement", _placement(compilation)),
        ("constants", _constants(compilation)),
        ("program", _program(compilation)),
    ):
        files[f"{name}.txt"] = "".join(f"{line}\n" for line in lines).encode()
    for name, data in files.items():
        outputs.write(directory / name, data)
    return [directory / name for name in files]


def _graph(graph: QGraph) -> Iterator[str]:
    yield f"graph {graph.name}"
    for name, tensor in graph.tensors.items():
        kind = (
            "input"
            if name in graph.inputs
            else "constant"
            if tensor.data is not None
            else "output"
            if name in graph.outputs
            else "tensor"
        )
        yield (
            f"{kind} {name}: {list(tensor.shape)} scale {tensor.scale:.9g} "
            f"zero point {tensor.zero_point} as {tensor.dtype}"
        )
    for node in graph.nodes:
        yield ""
        yield f"{node.name}: {node.output} = {node.op_type}({', '.join(node.inputs)})"
        for line in _attributes(node.op):
            yield f"    {line}"
        if node.sources != (node.name,):
            yield f"    computes {', '.join(node.sources)}"


def _attributes(op: Op) -> Iterator[str]:
    for item in fields(op):
        value = getattr(op, item.name)
        if isinstance(value, Requant):
            yield (
                f"{item.name}: mult {_summary(value.mult)} shift {_summary(value.shift)} zero {value.zero} "
                f"clamp {value.low} to {value.high}"
                + ("" if value.table is None else f" table {_summary(value.table)}")
            )
        elif isinstance(value, np.ndarray):
            yield f"{item.name}: {_summary(value)}"
        elif value is not None:
            yield f"{item.name}: {value}"


def _summary(array: np.ndarray) -> str:
    if array.size <= 4:
        return str(array.tolist())
    return f"{array.dtype}{list(array.shape)} {array.min()} to {array.max()}"


def _lowered(compilation: Compilation) -> Iterator[str]:
    low, last = compilation.lowering, None
    isa = isa_for(low.arch)
    for number, (instr, owner) in enumerate(zip(low.instrs, low.owners, strict=True)):
        if owner != last:
            yield f"# {low.graph.nodes[owner].name}" if owner >= 0 else "# inputs and outputs"
            last = owner
        yield f"{number:6} {isa.disassemble(instr)}"


def _placement(compilation: Compilation) -> Iterator[str]:
    low = compilation.lowering
    for name, place in low.outside:
        yield (
            f"{name}: {place.bytes} bytes at 0x{place.address:x} of the DATA region, "
            f"axes in memory order {list(place.layout.order)}"
        )
    for r in low.residences:
        last = r.last if r.last is not None else len(low.instrs)
        part = (
            ""
            if r.bytes == np.prod(r.extents)
            else f", part {[f'{i.start}:{i.stop}' for i in r.box]} of {list(r.extents)}"
        )
        yield (
            f"{r.name}: {r.bytes} bytes at 0x{r.address:x} of the activation SRAM, axes in memory order "
            f"{list(r.order)}, "
            f"from instruction {r.first} to {last}{part}"
        )


def _constants(compilation: Compilation) -> Iterator[str]:
    for (space, key), entry in compilation.lowering.constants.entries.items():
        owner = f"{key[0]} {key[1]}" if isinstance(key, tuple) and isinstance(key[0], str) else "shared"
        where = f"resident at 0x{entry.resident:x}" if entry.resident is not None else "loaded before use"
        yield f"{space.name} {len(entry.data)} bytes at 0x{entry.offset:x} of the image, {where}: {owner}"


def _program(compilation: Compilation) -> Iterator[str]:
    image = compilation.image
    isa = isa_for(image.arch)
    yield "#  offset    start      end  instruction"
    last = None
    for (offset, instr), owner, timing in zip(
        image.stream("run"), image.owners, compilation.timings, strict=True
    ):
        if owner != last:
            yield f"# {image.layers[owner].name}" if owner >= 0 else "# inputs and outputs"
            last = owner
        yield f"{offset:9x} {timing.start:8} {timing.end:8}  {isa.disassemble(instr)}"
