"""From a quantised graph to an image: lower twice (dry, then real), add tokens, link; each level is checked
before the next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from systolith.compiler.base.constants import Constants
from systolith.compiler.base.layout import Layout
from systolith.compiler.cycles import Timing, estimate, transfer_cycles
from systolith.compiler.lower import lower_graph
from systolith.compiler.lower.context import Lowering, Residence
from systolith.compiler.tokens import add_tokens
from systolith.compiler.verify import verify_graph, verify_image, verify_lowering, verify_order
from systolith.reference.graph import QGraph, QTensor
from systolith.spec.arch import ArchConfig
from systolith.spec.costs import busy_cycles
from systolith.spec.image import Image
from systolith.spec.isa import Engine, Instr, Region, isa_for
from systolith.spec.manifest import IoTensor, LayerInfo, StateInfo
from systolith.spec.memory import FULL_RATE, MemoryTiming

__all__ = ["Compilation", "compile_graph", "compile_levels", "residences"]

_LIMITS = {
    Engine.LOAD: "memory",
    Engine.STORE: "memory",
    Engine.MATRIX: "array",
    Engine.OUTPUT: "vector",
    Engine.VECTOR: "vector",
}


@dataclass(frozen=True, kw_only=True)
class Compilation:
    """Every level of one compilation, for dumps and checks.

    Parameters
    ----------
    graph : QGraph
    lowering : Lowering          instructions of the run stream without tokens, and the node of each
    load, run : list of Instr    the streams as they are linked
    timings : list of Timing     of the run stream, by the cycle model
    image : Image
    """

    graph: QGraph
    lowering: Lowering
    load: list[Instr]
    run: list[Instr]
    timings: list[Timing]
    image: Image


def compile_graph(graph: QGraph, arch: ArchConfig, memory: MemoryTiming = FULL_RATE) -> Image:
    """Compile a graph for a core and its external memory; the program runs with any other memory too.

    Raises
    ------
    CompileError   Naming the node and what does not fit or is not supported.
    """
    return compile_levels(graph, arch, memory).image


def compile_levels(graph: QGraph, arch: ArchConfig, memory: MemoryTiming = FULL_RATE) -> Compilation:
    """Compile, and keep what each level gave; every level is verified (`compiler.verify`).

    Raises
    ------
    CompileError   Naming the node and what does not fit or is not supported.
    VerifyError    If a level breaks its own rules: an error of the compiler.
    """
    isa = isa_for(arch)
    verify_graph(graph)
    offsets, end = {}, 0
    for name in dict.fromkeys((*graph.inputs, *graph.outputs)):
        offsets[name] = end
        end = _aligned(end + _size(graph.tensors[name]))
    states = {}
    for node in graph.nodes:
        if node.op.carried:
            states[node.name] = end
            end = _aligned(end + node.op.first_bytes.size)

    constants = Constants(arch)
    dry, _ = lower_graph(graph, arch, constants, offsets, end, memory=memory, states=states)
    resident = constants.plan()
    low, layouts = lower_graph(graph, arch, constants, offsets, end, dry.external, memory, states)
    verify_lowering(low)

    load = [*(constants.load(space, entry, address) for space, entry, address in resident), isa.make("HALT")]
    run = add_tokens(low.instrs, arch)
    verify_order(low, run)
    blob = bytes(constants.blob)
    load_entry = len(blob)
    run_entry = load_entry + len(load) * isa.word_bytes
    program = blob + b"".join(map(isa.encode, load)) + b"".join(map(isa.encode, run))
    timings = estimate(run, arch, memory)
    layers, owners = _layers(low, run, timings, memory)
    image = Image(
        arch=arch,
        model=graph.name,
        program=program,
        load_entry=load_entry,
        load_count=len(load),
        run_entry=run_entry,
        run_count=len(run),
        data_bytes=_aligned(max(low.scratch.used, 16)),
        inputs=tuple(_io(graph.tensors[name], offsets[name], layouts[name]) for name in graph.inputs),
        outputs=tuple(_io(graph.tensors[name], offsets[name], layouts[name]) for name in graph.outputs),
        layers=layers,
        owners=owners,
        cycles=timings[-1].end,
        states=tuple(
            StateInfo(name=node.name, offset=states[node.name], initial=node.op.first_bytes.tobytes().hex())
            for node in graph.nodes
            if node.op.carried
        ),
    )
    verify_image(image, load, run)
    return Compilation(graph=graph, lowering=low, load=load, run=run, timings=timings, image=image)


def residences(graph: QGraph, arch: ArchConfig) -> tuple[Residence, ...]:
    """Where each computed tensor lies in the activation SRAM, and during which instructions of the run
    stream.

    Raises
    ------
    CompileError   As `compile_graph`.
    """
    return tuple(compile_levels(graph, arch).lowering.residences)


def _aligned(size: int) -> int:
    return size + -size % 16


def _size(tensor: QTensor) -> int:
    return int(np.prod(tensor.shape, dtype=np.int64))


def _io(tensor: QTensor, offset: int, layout: Layout) -> IoTensor:
    return IoTensor(
        name=tensor.name,
        shape=tensor.shape,
        dtype=tensor.dtype,
        scale=float(tensor.scale),
        zero_point=int(tensor.zero_point),
        offset=offset,
        order=layout.order,
    )


def _layers(
    low: Lowering, run: list[Instr], timings: list[Timing], memory: MemoryTiming
) -> tuple[tuple[LayerInfo, ...], tuple[int, ...]]:
    """The layers that have instructions, and the layer of each instruction.

    A layer's cycles are those by which it moves the end of the program: work hidden behind an earlier layer
    is free.
    """
    graph, arch = low.graph, low.arch
    isa = isa_for(arch)
    busy: dict[int, dict[Engine, int]] = {}
    weight_bound: dict[int, bool] = {}
    streamed: dict[int, dict[int, int]] = {}
    ends: dict[int, int] = {}
    fetched: dict[int, int] = {}
    for instr, node, timing in zip(run, low.owners, timings, strict=True):
        engine = isa.by_mnemonic[instr.mnemonic].engine
        if node >= 0 and engine is not None:
            ends[node] = max(ends.get(node, 0), timing.end)
            engines = busy.setdefault(node, dict.fromkeys(Engine, 0))
            fetched[node] = fetched.get(node, 0) + -(-isa.word_bytes // memory.rate(arch))
            engines[engine] += (
                transfer_cycles(instr, arch, memory)
                if engine in (Engine.LOAD, Engine.STORE)
                else busy_cycles(instr, arch)
            )
            if instr.mnemonic == "MATMUL" and instr.oy * instr.ox <= arch.weight_load_cycles:
                weight_bound[node] = True
            if instr.mnemonic == "LOAD" and instr.region == Region.PROGRAM:
                streamed.setdefault(node, {})[instr.offset] = instr.bytes
    layers, index, reached = [], {-1: -1}, 0
    for number, engines in busy.items():
        node = graph.nodes[number]
        macs = node.op.macs(*(graph.tensors[name].shape for name in node.inputs))
        outside = {*node.inputs, node.output} & {*graph.inputs, *graph.outputs, *low.external}
        compulsory = sum(_size(graph.tensors[name]) for name in outside) + sum(
            streamed.get(number, {}).values()
        )
        slowest = max(engines, key=engines.get)
        if fetched[number] > engines[slowest]:
            # The instructions themselves are what memory cannot deliver fast enough.
            limit = "memory"
        else:
            limit = "weights" if slowest is Engine.MATRIX and weight_bound.get(number) else _LIMITS[slowest]
        index[number] = len(layers)
        skipped = low.skipped_macs.get(number, 0)
        roofline = max(-(-(macs - skipped) // arch.macs_per_cycle), -(-compulsory // memory.rate(arch)))
        layers.append(
            LayerInfo(
                name=node.name,
                op=node.op_type,
                nodes=node.sources,
                tensor=node.output,
                macs=macs,
                cycles=max(0, ends[number] - reached),
                roofline_cycles=roofline,
                limit=limit,
                skipped_tiles=sum(low.skipped.get(number, {}).values()),
                skipped_macs=skipped,
            )
        )
        reached = max(reached, ends[number])
    return tuple(layers), tuple(index[node] for node in low.owners)
