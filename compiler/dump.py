"""Every level of a compilation as text, to read and to compare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np

from systolith.compiler.driver import Compilation, CorePartLevels
from systolith.reference.graph import Op, QGraph, Requant
from systolith.spec import outputs
from systolith.spec.isa import isa_for
from systolith.spec.plan import HostStep

__all__ = ["dump_levels"]


def dump_levels(compilation: Compilation, directory: Path) -> list[Path]:
    """Write one file per level; returns their paths, in the order of the steps and levels.

    ==================  ==================================================================================
    host.onnx           what a step of the host runs
    core.onnx           what a step of the core runs, quantised
    graph.txt           the quantised graph: tensors with scale and zero point, operators with attributes
    lowered.txt         instructions in program order before tokens, under the node that each belongs to
    placement.txt       where each tensor lies, and during which instructions
    program.txt         the linked run stream with tokens and the cycle model's start and end
    constants.txt       weights, parameters and tables: offset in the image, and place on chip
    ==================  ==================================================================================

    Where the plan has several steps, the names of all but the last begin with the step: step1-host.onnx.

    Raises
    ------
    OSError   If the directory cannot be made, or a file not be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    plan = compilation.plan
    files: dict[str, bytes] = {}
    core = 0
    for number, step in enumerate(plan.steps, 1):
        prefix = f"step{number}-" if len(plan.steps) > 1 else ""
        if isinstance(step, HostStep):
            files[f"{prefix}host.onnx"] = step.model
            continue
        if step.core:
            files[f"{prefix}core.onnx"] = step.core
        for name, lines in (
            ("graph", _graph(plan.name, step.graph)),
            ("lowered", _lowered(compilation.parts[core])),
            ("placement", _placement(compilation.parts[core])),
            ("program", _program(compilation, core)),
        ):
            files[f"{prefix}{name}.txt"] = _text(lines)
        core += 1
    files["constants.txt"] = _text(_constants(compilation))
    for name, data in files.items():
        outputs.write(directory / name, data)
    return [directory / name for name in files]


def _text(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _graph(model: str, graph: QGraph) -> Iterator[str]:
    yield f"graph {model}"
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


def _lowered(part: CorePartLevels) -> Iterator[str]:
    low, last = part.lowering, None
    isa = isa_for(low.arch)
    for number, (instr, owner) in enumerate(zip(low.instrs, low.owners, strict=True)):
        if owner != last:
            yield f"# {low.graph.nodes[owner].name}" if owner >= 0 else "# inputs and outputs"
            last = owner
        yield f"{number:6} {isa.disassemble(instr)}"


def _placement(part: CorePartLevels) -> Iterator[str]:
    low = part.lowering
    for name, place in low.outside:
        yield (
            f"{name}: {place.bytes} bytes at 0x{place.address:x} of the DATA region, "
            f"axes in memory order {list(place.layout.order)}"
        )
    for r in low.residences:
        last = r.last if r.last is not None else len(low.instrs)
        box = (
            ""
            if r.bytes == np.prod(r.extents)
            else f", part {[f'{i.start}:{i.stop}' for i in r.box]} of {list(r.extents)}"
        )
        yield (
            f"{r.name}: {r.bytes} bytes at 0x{r.address:x} of the activation SRAM, axes in memory order "
            f"{list(r.order)}, "
            f"from instruction {r.first} to {last}{box}"
        )


def _constants(compilation: Compilation) -> Iterator[str]:
    for (space, key), entry in compilation.constants.entries.items():
        # Keys begin with the core step and its node, or are the data itself.
        owner = (
            " ".join(map(str, key[1:])) if isinstance(key, tuple) and isinstance(key[0], int) else "shared"
        )
        where = f"resident at 0x{entry.resident:x}" if entry.resident is not None else "loaded before use"
        yield f"{space.name} {len(entry.data)} bytes at 0x{entry.offset:x} of the image, {where}: {owner}"


def _program(compilation: Compilation, core: int) -> Iterator[str]:
    image = compilation.image
    isa, step = isa_for(image.arch), image.cores[core]
    yield "#  offset    start      end  instruction"
    last = None
    for (offset, instr), owner, timing in zip(
        image.stream("run", core), step.owners, compilation.parts[core].timings, strict=True
    ):
        if owner != last:
            yield f"# {step.layers[owner].name}" if owner >= 0 else "# inputs and outputs"
            last = owner
        yield f"{offset:9x} {timing.start:8} {timing.end:8}  {isa.disassemble(instr)}"
