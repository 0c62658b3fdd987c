"""From a plan to an image: lower the graph of each core step twice (dry, then real), add tokens, link; each
level is checked before the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from systolith.compiler.base.constants import Constants
from systolith.compiler.base.layout import Layout
from systolith.compiler.cycles import Timing, estimate, transfer_cycles
from systolith.compiler.lower import lower_graph
from systolith.compiler.lower.context import Lowering, Residence
from systolith.compiler.tokens import add_tokens
from systolith.compiler.verify import verify_image, verify_lowering, verify_order, verify_plan
from systolith.reference.graph import QGraph, QTensor
from systolith.reference.plan import Plan
from systolith.spec.arch import ArchConfig
from systolith.spec.costs import busy_cycles
from systolith.spec.image import Image
from systolith.spec.isa import Engine, Instr, Region, isa_for
from systolith.spec.manifest import IoTensor, LayerInfo, StateInfo
from systolith.spec.memory import FULL_RATE, MemoryTiming
from systolith.spec.plan import CoreStep, HostStep

__all__ = ["Compilation", "CorePartLevels", "compile_graph", "compile_levels", "residences"]

_LIMITS = {
    Engine.LOAD: "memory",
    Engine.STORE: "memory",
    Engine.MATRIX: "array",
    Engine.OUTPUT: "vector",
    Engine.VECTOR: "vector",
}


@dataclass(frozen=True, kw_only=True)
class CorePartLevels:
    """What each level gave for one core step.

    Parameters
    ----------
    graph : QGraph
    lowering : Lowering        instructions of the run stream without tokens, and the node of each
    run : list of Instr        the stream as it is linked
    timings : list of Timing   by the cycle model
    """

    graph: QGraph
    lowering: Lowering
    run: list[Instr]
    timings: list[Timing]


@dataclass(frozen=True, kw_only=True)
class Compilation:
    """Every level of one compilation, for dumps and checks.

    Parameters
    ----------
    plan : Plan
    parts : tuple of CorePartLevels   one for each core step
    constants : Constants             of all of them
    load : list of Instr              the load stream
    image : Image
    """

    plan: Plan
    parts: tuple[CorePartLevels, ...]
    constants: Constants
    load: list[Instr]
    image: Image

    @property
    def part(self) -> CorePartLevels:
        """The only core step.

        Raises
        ------
        ValueError   If there is none, or several.
        """
        (part,) = self.parts
        return part


@dataclass(frozen=True, kw_only=True)
class _Data:
    """The DATA region.

    Parameters
    ----------
    tensors : every tensor that a core step reads or gives
    offsets : where each of them stands; they do not overlap, as any may be needed by a later step
    states  : by node, where what it leaves for the next run stands, and its bytes
    end     : where scratch begins; all core steps share it
    """

    tensors: dict[str, QTensor]
    offsets: dict[str, int]
    states: dict[str, tuple[int, int]]
    end: int

    def others(self, graph: QGraph) -> list[tuple[int, int]]:
        """First byte and end of what the step with this graph does not touch."""
        own = {*graph.inputs, *graph.outputs}
        nodes = {node.name for node in graph.nodes}
        return [
            *(
                (offset, offset + _size(self.tensors[name]))
                for name, offset in self.offsets.items()
                if name not in own
            ),
            *((first, first + size) for name, (first, size) in self.states.items() if name not in nodes),
        ]


def compile_graph(model: QGraph | Plan, arch: ArchConfig, memory: MemoryTiming = FULL_RATE) -> Image:
    """Compile for a core and its external memory; the program runs with any other memory too.

    Raises
    ------
    CompileError   Naming the node and what does not fit or is not supported.
    """
    return compile_levels(model, arch, memory).image


def compile_levels(model: QGraph | Plan, arch: ArchConfig, memory: MemoryTiming = FULL_RATE) -> Compilation:
    """Compile, and keep what each level gave; every level is verified (`compiler.verify`).

    All core steps share one program: constants of all, one load stream for what stays on chip, and a run
    stream each.

    Raises
    ------
    CompileError   Naming the node and what does not fit or is not supported.
    VerifyError    If a level breaks its own rules: an error of the compiler.
    """
    plan, isa = Plan.of(model), isa_for(arch)
    verify_plan(plan)
    data, constants = _data(plan), Constants(arch)
    dry, _ = _lowered(plan, arch, constants, data, memory, [frozenset()] * len(plan.cores))
    resident = constants.plan()
    lows, layouts = _lowered(plan, arch, constants, data, memory, [low.external for low in dry])
    load = [*(constants.load(space, entry, address) for space, entry, address in resident), isa.make("HALT")]
    parts = []
    for low in lows:
        verify_lowering(low, data.others(low.graph))
        run = add_tokens(low.instrs, arch)
        verify_order(low, run)
        parts.append(
            CorePartLevels(graph=low.graph, lowering=low, run=run, timings=estimate(run, arch, memory))
        )
    blob = bytes(constants.blob)
    program = blob + b"".join(map(isa.encode, load))
    steps: list[CoreStep | HostStep] = []
    following = iter(parts)
    for step in plan.steps:
        if isinstance(step, HostStep):
            steps.append(step)
            continue
        part = next(following)
        layers, owners = _layers(part.lowering, part.run, part.timings, memory)
        steps.append(
            CoreStep(
                entry=len(program),
                count=len(part.run),
                cycles=part.timings[-1].end,
                inputs=part.graph.inputs,
                outputs=part.graph.outputs,
                layers=layers,
                owners=owners,
            )
        )
        program += b"".join(map(isa.encode, part.run))
    image = Image(
        arch=arch,
        model=plan.name,
        program=program,
        load_entry=len(blob),
        load_count=len(load),
        data_bytes=_aligned(max(16, data.end, *(low.scratch.used for low in lows))),
        inputs=plan.inputs,
        outputs=plan.outputs,
        tensors=tuple(_io(data.tensors[name], data.offsets[name], layouts[name]) for name in data.tensors),
        steps=tuple(steps),
        states=tuple(
            StateInfo(
                name=node.name,
                offset=data.states[node.name][0],
                initial=node.op.first_bytes.tobytes().hex(),
            )
            for part in plan.cores
            for node in part.graph.nodes
            if node.op.carried
        ),
    )
    verify_image(image, load, [part.run for part in parts])
    return Compilation(plan=plan, parts=tuple(parts), constants=constants, load=load, image=image)


def residences(model: QGraph | Plan, arch: ArchConfig) -> tuple[tuple[Residence, ...], ...]:
    """For each core step, where each computed tensor lies in the activation SRAM, and during which
    instructions of its run stream.

    Raises
    ------
    CompileError   As `compile_graph`.
    """
    return tuple(tuple(part.lowering.residences) for part in compile_levels(model, arch).parts)


def _data(plan: Plan) -> _Data:
    tensors: dict[str, QTensor] = {}
    offsets: dict[str, int] = {}
    states: dict[str, tuple[int, int]] = {}
    end = 0
    for part in plan.cores:
        for name in (*part.inputs, *part.outputs):
            if name not in tensors:
                tensors[name], offsets[name] = part.graph.tensors[name], end
                end = _aligned(end + _size(tensors[name]))
    for part in plan.cores:
        for node in part.graph.nodes:
            if node.op.carried:
                states[node.name] = end, node.op.first_bytes.size
                end = _aligned(end + node.op.first_bytes.size)
    return _Data(tensors=tensors, offsets=offsets, states=states, end=end)


def _lowered(
    plan: Plan,
    arch: ArchConfig,
    constants: Constants,
    data: _Data,
    memory: MemoryTiming,
    external: Sequence[frozenset[str]],
) -> tuple[list[Lowering], dict[str, Layout]]:
    """Each core step lowered, in order; a tensor lies as the first step that reads or gives it wants."""
    lows: list[Lowering] = []
    layouts: dict[str, Layout] = {}
    for number, part in enumerate(plan.cores):
        low, own = lower_graph(
            part.graph,
            arch,
            constants,
            data.offsets,
            data.end,
            external[number],
            memory,
            {name: first for name, (first, _) in data.states.items()},
            part=number,
            given=layouts,
        )
        lows.append(low)
        layouts |= own
    return lows, layouts


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
        # A transposed convolution's phases also multiply where the operator gives no result, and counts none.
        skipped = min(low.skipped_macs.get(number, 0), macs)
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
