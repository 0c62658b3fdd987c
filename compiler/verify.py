"""What must hold at each level of the compiler. A failure here is an error of the compiler, never of the
model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from systolith.compiler.lower.context import Lowering
from systolith.reference.accesses import hulls
from systolith.reference.graph import QGraph, QTensor
from systolith.reference.hazards import HazardError, check_order
from systolith.reference.plan import CorePart, Plan
from systolith.spec.image import Image
from systolith.spec.isa import Instr, Region, isa_for

__all__ = ["VerifyError", "verify_graph", "verify_image", "verify_lowering", "verify_order", "verify_plan"]


class VerifyError(AssertionError):
    """A level of the compiler broke its own rules."""


def verify_graph(graph: QGraph) -> None:
    """Nodes in topological order, unique names, int8 numbers.

    Raises
    ------
    VerifyError   Naming the node or tensor.
    """
    known = {*graph.inputs, *(name for name, tensor in graph.tensors.items() if tensor.data is not None)}
    names: set[str] = set()
    for node in graph.nodes:
        _require(node.name not in names, f"two nodes are called {node.name!r}")
        names.add(node.name)
        for name in node.inputs:
            _require(name in known, f"node {node.name!r} reads {name!r} before it is computed")
        _require(node.output not in known, f"node {node.name!r} computes {node.output!r} again")
        known.add(node.output)
    for name in graph.outputs:
        _require(name in known, f"output {name!r} is never computed")
    for name in known:
        tensor = graph.tensors[name]
        _require(
            tensor.name == name and all(extent > 0 for extent in tensor.shape),
            f"tensor {name!r} has shape {tensor.shape}",
        )
        _require(
            -128 <= tensor.zero_point <= 127 and tensor.scale > 0,
            f"tensor {name!r} has zero point {tensor.zero_point}, scale {tensor.scale}",
        )
        if tensor.data is not None:
            _require(
                tensor.data.dtype == np.int8 and tensor.data.shape == tensor.shape,
                f"constant {name!r} is {tensor.data.dtype}{tensor.data.shape}",
            )


def verify_plan(plan: Plan) -> None:
    """Steps read what is there, core steps agree on the format of a tensor, and each graph is right.

    Raises
    ------
    VerifyError   Naming the step, tensor or node.
    """
    known = {port.name for port in plan.inputs}
    formats: dict[str, QTensor] = {}
    carried: set[str] = set()
    for number, step in enumerate(plan.steps, 1):
        for name in step.inputs:
            _require(name in known, f"step {number} reads {name!r}, which nothing before it gives")
        for name in step.outputs:
            again = name in known and name not in step.inputs
            _require(not again, f"step {number} gives {name!r} again")
        known.update(step.outputs)
        if not isinstance(step, CorePart):
            continue
        verify_graph(step.graph)
        for name in (*step.inputs, *step.outputs):
            tensor = step.graph.tensors[name]
            _require(
                formats.setdefault(name, tensor) == tensor,
                f"step {number} has another format of {name!r} than a core step before it",
            )
        for node in step.graph.nodes:
            _require(
                not node.op.carried or node.name not in carried,
                f"two core steps have a node {node.name!r} that carries state",
            )
            carried.update([node.name] if node.op.carried else [])
    for port in plan.outputs:
        _require(port.name in known, f"nothing gives the output {port.name!r}")


def verify_lowering(low: Lowering, kept: Sequence[tuple[int, int]] = ()) -> None:
    """Every write stays inside its memory, and nothing is written over an input of the graph, or over `kept`
    ranges of the DATA region, which belong to other core steps.

    Raises
    ------
    VerifyError   Naming the instruction.
    """
    arch = low.arch
    sizes = {
        "act": arch.act_bytes,
        "weight": arch.weight_bytes,
        "param": arch.param_bytes,
        "table": arch.table_bytes,
        "acc": arch.acc_depth,
        "data": low.scratch.used,
    }
    inputs = [
        (low.io_offsets[name], low.io_offsets[name] + int(np.prod(low.graph.tensors[name].shape)))
        for name in low.graph.inputs
        if name not in low.graph.outputs
    ]
    _require(
        len(low.instrs) == len(low.owners) and low.instrs[-1].mnemonic == "HALT",
        "the stream does not end with HALT",
    )
    for number, instr in enumerate(low.instrs):
        for space, first, end, writes in hulls(instr, arch):
            where = f"instruction {number} ({instr.mnemonic}) touches {space} {first} to {end}"
            _require(first >= 0 and end <= sizes[space], f"{where}, outside its {sizes[space]}")
            if space == "data" and writes:
                _require(
                    all(end <= low_end or first >= high for low_end, high in inputs),
                    f"{where}, an input of the model",
                )
                _require(
                    all(end <= low_end or first >= high for low_end, high in kept),
                    f"{where}, which another core step reads or gives",
                )


def verify_order(low: Lowering, run: Sequence[Instr]) -> None:
    """Tokens changed nothing else, and order every conflict.

    Raises
    ------
    VerifyError   Naming the instructions.
    """
    isa = isa_for(low.arch)
    for number, (before, after) in enumerate(zip(low.instrs, run, strict=True)):
        if isa.by_mnemonic[after.mnemonic].engine is not None:
            after = replace(after, operands={**after.operands, "wait": before.wait, "signal": before.signal})
        _require(before == after, f"instruction {number} changed when tokens were added")
    try:
        check_order(run, low.arch)
    except HazardError as error:
        raise VerifyError(str(error)) from error


def verify_image(image: Image, load: Sequence[Instr], runs: Sequence[Sequence[Instr]]) -> None:
    """The image holds these streams, and their constants lie inside it.

    Raises
    ------
    VerifyError   Naming the stream and the instruction.
    """
    streams = [("load", image.stream("load"), load)]
    streams += [("run", image.stream("run", core), run) for core, run in enumerate(runs)]
    for stream, held, instrs in streams:
        linked = [instr for _, instr in held]
        _require(linked == list(instrs), f"the {stream} stream of the image is not what was compiled")
        for number, instr in enumerate(linked):
            if instr.mnemonic == "LOAD" and instr.region == Region.PROGRAM:
                _require(
                    instr.offset + instr.bytes <= image.load_entry,
                    f"instruction {number} of the {stream} stream loads beyond the constants",
                )


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise VerifyError(what)
