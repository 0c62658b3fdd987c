"""From a quantised graph to an image: lower twice (dry, then real), add tokens, link."""

from __future__ import annotations

import numpy as np

from systolith.compiler.constants import Constants
from systolith.compiler.costs import busy_cycles
from systolith.compiler.cycles import Timing, estimate
from systolith.compiler.layout import Layout
from systolith.compiler.lower import lower_graph
from systolith.compiler.lower.context import Residence
from systolith.compiler.tokens import add_tokens
from systolith.reference.graph import QGraph, QTensor
from systolith.spec.arch import ArchConfig
from systolith.spec.image import Image, IoTensor, LayerInfo
from systolith.spec.isa import Engine, Instr, isa_for

__all__ = ["compile_graph", "residences"]

_LIMITS = {Engine.LOAD: "memory", Engine.STORE: "memory", Engine.MATRIX: "array", Engine.OUTPUT: "vector", Engine.VECTOR: "vector"}


def compile_graph(graph: QGraph, arch: ArchConfig) -> Image:
    """Compile.

    Raises
    ------
    CompileError   Naming the node and what does not fit or is not supported.
    """
    isa = isa_for(arch)
    constants, resident, low, layouts, offsets, end = _lower(graph, arch)
    load = [*(constants.load(space, entry, address) for space, entry, address in resident), isa.make("HALT")]
    run = add_tokens(low.instrs, arch)
    blob = bytes(constants.blob)
    load_entry = len(blob)
    run_entry = load_entry + len(load) * isa.word_bytes
    program = blob + b"".join(map(isa.encode, load)) + b"".join(map(isa.encode, run))
    timings = estimate(run, arch)
    layers, owners = _layers(graph, arch, run, low.owners, timings)
    return Image(
        arch=arch, model=graph.name, program=program, load_entry=load_entry, load_count=len(load), run_entry=run_entry, run_count=len(run),
        data_bytes=_aligned(max(low.scratch_bytes, end, 16)),
        inputs=tuple(_io(graph.tensors[name], offsets[name], layouts[name]) for name in graph.inputs),
        outputs=tuple(_io(graph.tensors[name], offsets[name], layouts[name]) for name in graph.outputs),
        layers=layers, owners=owners, cycles=timings[-1].end,
    )


def residences(graph: QGraph, arch: ArchConfig) -> tuple[Residence, ...]:
    """Where each computed tensor lies in the activation SRAM, and during which instructions of the run stream.

    Raises
    ------
    CompileError   As `compile_graph`.
    """
    return tuple(_lower(graph, arch)[2].residences)


def _lower(graph: QGraph, arch: ArchConfig) -> tuple:
    """Constants, those of them that are resident, the lowered run stream, layouts and offsets of inputs and outputs, and
    the end of these in the DATA region."""
    offsets, end = {}, 0
    for name in dict.fromkeys((*graph.inputs, *graph.outputs)):
        offsets[name] = end
        end = _aligned(end + _size(graph.tensors[name]))
    constants = Constants(arch)
    lower_graph(graph, arch, constants, offsets, end)
    resident = constants.plan()
    low, layouts = lower_graph(graph, arch, constants, offsets, end)
    return constants, resident, low, layouts, offsets, end


def _aligned(size: int) -> int:
    return size + -size % 16


def _size(tensor: QTensor) -> int:
    return int(np.prod(tensor.shape, dtype=np.int64))


def _io(tensor: QTensor, offset: int, layout: Layout) -> IoTensor:
    return IoTensor(name=tensor.name, shape=tensor.shape, dtype=tensor.dtype, scale=float(tensor.scale), zero_point=int(tensor.zero_point),
                    offset=offset, order=layout.order)


def _layers(graph: QGraph, arch: ArchConfig, run: list[Instr], node_of: list[int],
            timings: list[Timing]) -> tuple[tuple[LayerInfo, ...], tuple[int, ...]]:
    """The layers that have instructions, and the layer of each instruction.

    A layer's cycles are those by which it moves the end of the program: work hidden behind an earlier layer is free.
    """
    isa = isa_for(arch)
    busy: dict[int, dict[Engine, int]] = {}
    weight_bound: dict[int, bool] = {}
    ends: dict[int, int] = {}
    for instr, node, timing in zip(run, node_of, timings, strict=True):
        engine = isa.by_mnemonic[instr.mnemonic].engine
        if node >= 0 and engine is not None:
            ends[node] = max(ends.get(node, 0), timing.end)
            engines = busy.setdefault(node, dict.fromkeys(Engine, 0))
            engines[engine] += busy_cycles(instr, arch)
            if instr.mnemonic == "MATMUL" and instr.oy * instr.ox <= arch.weight_load_cycles:
                weight_bound[node] = True
    layers, index, reached = [], {-1: -1}, 0
    for number, engines in busy.items():
        node = graph.nodes[number]
        macs = node.op.macs(*(graph.tensors[name].shape for name in node.inputs))
        transferred = sum(_size(graph.tensors[name]) for name in {*node.inputs, node.output} if name in (*graph.inputs, *graph.outputs))
        slowest = max(engines, key=engines.get)
        limit = "weights" if slowest is Engine.MATRIX and weight_bound.get(number) else _LIMITS[slowest]
        index[number] = len(layers)
        roofline = max(-(-macs // arch.macs_per_cycle), -(-transferred // arch.bus_bytes))
        layers.append(LayerInfo(
            name=node.name, op=node.op_type, nodes=node.sources, tensor=node.output, macs=macs, cycles=max(0, ends[number] - reached),
            roofline_cycles=roofline, limit=limit))
        reached = max(reached, ends[number])
    return tuple(layers), tuple(index[node] for node in node_of)
