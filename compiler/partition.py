"""From a file to a plan: one import, one run over the samples, and the walk that divides the model between
core and host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx

from systolith.compiler.base.errors import CompileError, InputError, QuantiseError, UnsupportedError
from systolith.compiler.base.formats import Format
from systolith.compiler.base.model import Model, Node
from systolith.compiler.base.proto import serialised
from systolith.compiler.frontend import walk
from systolith.compiler.loading import Given, Loaded, followed, load, retyped
from systolith.compiler.macs import COUNTED, node_macs
from systolith.compiler.oracle import quantised_part
from systolith.compiler.passes.bound_states import BoundStates, bind_states
from systolith.compiler.passes.dress import plain
from systolith.compiler.passes.fold import known_types
from systolith.compiler.passes.fuse_pads import fuse_pads
from systolith.compiler.passes.fuse_tables import fuse_tables
from systolith.compiler.passes.linear_ml import expand_linear_ml
from systolith.compiler.passes.maps import maps_to_arrays
from systolith.compiler.passes.streaming import carry_states
from systolith.compiler.passes.unroll_cells import alike, unroll_cells
from systolith.compiler.quantise import Observed, observe
from systolith.compiler.regions import CoreRegion, HostRegion, Region, schedule
from systolith.compiler.samples import calibration_samples, drawn_samples
from systolith.compiler.walked import Walk
from systolith.compiler.worth import unfitting, unworthy
from systolith.reference.graph import QGraph
from systolith.reference.plan import CorePart, Plan
from systolith.spec.arch import ArchConfig
from systolith.spec.plan import HostNode, HostStep, Port

__all__ = ["Prepared", "import_model", "partition_model", "prepare"]

#: How often regions that are not worth their transfers are looked for again.
_ROUNDS = 6


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """A model that was imported and observed once, for any number of plans.

    Parameters
    ----------
    loaded   : the model as it was loaded, and what was fixed
    whole    : the loaded model in the core's operators, all inputs in place
    model    : the same as it is divided: bound states taken out
    observed : formats, cell states and types
    samples  : that were observed, one dict of inputs each; none for a quantised model that has no samples or
               needs none
    bound    : of a stream
    origins  : node of `model` -> node of the file that it stands for, where the names differ
    """

    loaded: Loaded
    whole: Model
    model: Model
    observed: Observed
    samples: Sequence[dict[str, np.ndarray]]
    bound: BoundStates | None = None
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def in_float(self) -> bool:
        """Whether formats were chosen here, and not by the file."""
        return not self.loaded.quantised

    def plan(
        self,
        arch: ArchConfig | None = None,
        hidden_bits: int | None = None,
        on_host: Mapping[str, str] | None = None,
    ) -> Plan:
        """The model divided for a core.

        Parameters
        ----------
        arch        : whose size and speed decide what fits and what is worth its transfers; None: everything
                      that can run on a core does
        hidden_bits : of hidden states, 8 or 16; None: what the model's metadata says, else 8
        on_host     : nodes of the file that are to run on the host -> why

        Raises
        ------
        CompileError   If a node whose state is bound cannot run on the core.
        """
        return self.divided(arch, hidden_bits, on_host)[1]

    def divided(
        self,
        arch: ArchConfig | None = None,
        hidden_bits: int | None = None,
        on_host: Mapping[str, str] | None = None,
    ) -> tuple[Walk, Plan]:
        """The walk and the plan that follows from it; see `plan`."""
        wanted = on_host or {}
        forced: dict[str, CompileError] = {
            node.name: CompileError("import", node.name, wanted[self.origin(node.name)])
            for node in self.model.nodes
            if self.origin(node.name) in wanted
        }
        walked = self.walked(hidden_bits, forced)
        if arch is not None:
            known: dict[str, CompileError | None] = {}
            for _ in range(_ROUNDS):
                moved = unfitting(walked, arch, known) or unworthy(walked, schedule(walked), arch)
                moved = {name: error for name, error in moved.items() if name not in forced}
                if not moved:
                    break
                forced |= moved
                walked = self.walked(hidden_bits, forced)
        self._check_bound(walked)
        return walked, self._plan(walked)

    def origin(self, name: str) -> str:
        """The node of the file that a node of the model stands for."""
        return self.origins.get(name, name)

    def walked(self, hidden_bits: int | None, forced: Mapping[str, CompileError]) -> Walk:
        """A walk with some nodes on the host."""
        return walk(
            self.model, self.observed, in_float=self.in_float, on_host=forced, hidden_bits=hidden_bits
        )

    def _check_bound(self, walked: Walk) -> None:
        """Refuse bound states of nodes on the host."""
        for source, name in (self.bound.nodes if self.bound is not None else {}).items():
            if name in walked.refused:
                raise UnsupportedError(
                    "import",
                    name,
                    f"its state {source!r} is bound, but it would run on the host: "
                    f"{name!r}: {walked.refused[name].reason}",
                    "leave its states unbound, or change the model there",
                )

    # The plan.

    def _plan(self, walked: Walk) -> Plan:
        regions = schedule(walked)
        wanted = [self._reads(walked, region) for region in regions]
        steps: list[CorePart | HostStep] = []
        outputs = set(self.model.outputs)
        for number, region in enumerate(regions):
            later = outputs.union(*wanted[number + 1 :])
            if isinstance(region, CoreRegion):
                steps.append(self._core_step(walked, region, wanted[number], later))
            else:
                steps.append(self._host_step(walked, region, wanted[number], later))
        given = {name for step in steps for name in step.outputs} | set(self.model.inputs)
        constant = [name for name in self.model.outputs if name not in given]
        if constant:
            steps.append(self._constants(walked, constant))
        bound = self.bound.nodes if self.bound is not None else {}
        return Plan(
            name=self.model.name or "model",
            steps=tuple(steps),
            inputs=tuple(_port(self.model, name) for name in self.loaded.model.inputs if name not in bound),
            outputs=tuple(_port(self.model, name) for name in self.model.outputs),
        )

    def _reads(self, walked: Walk, region: Region) -> set[str]:
        """What a region reads from outside."""
        if isinstance(region, CoreRegion):
            made = {node.output for node in region.nodes}
            read = {name for node in region.nodes for name in node.inputs}
            return {name for name in read - made if walked.tensors[name].data is None}
        inside = (*region.nodes, *region.constant)
        made = {name for node in inside for name in node.outputs}
        return {name for node in inside for name in node.reads} - made - self.model.constants.keys()

    def _core_step(self, walked: Walk, region: CoreRegion, reads: set[str], later: set[str]) -> CorePart:
        order = {name: index for index, name in enumerate((*self.model.inputs, *walked.tensors))}
        outputs = [node.output for node in region.nodes if node.output in later]
        # In the order of the model's outputs, then as they are made.
        place = {name: index for index, name in enumerate(self.model.outputs)}
        outputs.sort(key=lambda name: place.get(name, len(place)))
        inside = {name for node in region.nodes for name in (*node.inputs, node.output)}
        nodes = tuple(
            replace(node, sources=tuple(dict.fromkeys(map(self.origin, node.sources))))
            for node in region.nodes
        )
        graph = QGraph(
            name=self.model.name or "model",
            tensors={name: walked.tensors[name] for name in walked.tensors if name in inside},
            nodes=nodes,
            inputs=tuple(sorted(reads, key=lambda name: order[name])),
            outputs=tuple(outputs),
        )
        graph = fuse_pads(fuse_tables(graph))
        bound = frozenset(self.bound.nodes.values()) if self.bound is not None else frozenset()
        if any(bound.intersection(node.sources) for node in graph.nodes):
            graph = carry_states(graph, bound)
        return CorePart(graph=graph, make_core=lambda: _serialised(quantised_part(walked, graph)))

    def _host_step(self, walked: Walk, region: HostRegion, reads: set[str], later: set[str]) -> HostStep:
        inside = [node for node in self.model.nodes if node in (*region.nodes, *region.constant)]
        outputs = [name for node in inside for name in node.outputs if name in later]
        types = {
            name: replace(self.model.type_of(name), shape=walked.tensors[name].shape)
            for name in reads
            if name in walked.tensors
        }
        order = [*self.model.inputs, *self.model.producer]
        inputs = sorted(reads, key=order.index)
        part = self.model.with_nodes(self.model.nodes, types=types).part(inside, inputs, outputs)
        return HostStep(
            model=_serialised(part),
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            nodes=tuple(self._host_node(walked, node) for node in inside if node in region.nodes),
        )

    def _constants(self, walked: Walk, names: Sequence[str]) -> HostStep:
        """A step that gives outputs that are constant."""
        nodes: dict[str, Node] = {}
        waiting = list(names)
        for name in waiting:
            node = self.model.producer.get(name)
            if node is not None and node.name not in nodes:
                nodes[node.name] = node
                waiting += node.reads
        part = self.model.part(nodes.values(), (), names)
        return HostStep(model=_serialised(part), inputs=(), outputs=tuple(names))

    def _reason(self, walked: Walk, node: Node) -> str:
        """Why a node runs on the host, one clause."""
        if node.name in walked.refused:
            return walked.refused[node.name].reason
        for name in node.reads:
            source = self.model.producer.get(name)
            if source is not None and source.name in self._behind(walked):
                return f"it reads the result of {self.origin(source.name)!r}, which is on the host"
        stated = self.unquantised(walked, node)
        if stated is not None:
            return stated
        hosted = walked.refused.keys() | walked.both
        readers = [
            reader.name
            for name in node.outputs
            for reader in self.model.readers.get(name, ())
            if reader.name in hosted
        ]
        if not readers:
            return "the output is wanted as the model has it"
        return f"{self.origin(readers[0])!r}, which is on the host, needs its result as the model has it"

    def _behind(self, walked: Walk) -> set[str]:
        """Nodes that were refused, and those of the host that read results of such."""
        found = set(walked.refused)
        for node in self.model.nodes:
            sources = (self.model.producer.get(name) for name in node.reads)
            if node.name in walked.both and any(each.name in found for each in sources if each is not None):
                found.add(node.name)
        return found

    def unquantised(self, walked: Walk, node: Node) -> str | None:
        """What keeps a node from the core that the core could run, if its result states no format."""
        if node.name not in walked.both or any(node.name in made.sources for made in walked.nodes):
            return None
        ends = any(name in self.model.outputs for name in node.outputs)
        if not ends and node.op_type not in COUNTED:
            return None
        what = "the output" if ends else "its result"
        unknown = node.op_type in COUNTED and not self.in_float and not self.samples
        return f"{what} is not quantised" + (
            ", and without calibration data its range is not known" if unknown else ""
        )

    def _host_node(self, walked: Walk, node: Node) -> HostNode:
        sizes = [self.model.shape_of(name) for name in node.outputs if name]
        crossing = {name for name in node.reads if name in walked.leaving}
        crossing.update(name for name in node.outputs if name in walked.entering)
        return HostNode(
            name=self.origin(node.name),
            op=node.op_type,
            reason=self._reason(walked, node),
            macs=node_macs(self.model, node),
            elements=None if None in sizes else sum(int(np.prod(shape)) for shape in sizes),
            bytes=sum(
                int(np.prod(walked.tensors[name].shape)) for name in crossing if name in walked.tensors
            ),
        )


def _serialised(model: Model | None) -> bytes:
    return b"" if model is None else serialised(model.to_proto())


def prepare(
    source: str | Path | onnx.ModelProto,
    samples: Mapping[str, np.ndarray] | None = None,
    *,
    given: Given | None = None,
    states: Mapping[str, str] | None = None,
    ranges: str = "minmax",
    percentile: float = 100.0,
    unobserved: bool = False,
) -> Prepared:
    """Import a model once, and observe it once.

    Parameters
    ----------
    source     : path or ModelProto
    samples    : per input, stacked on the first axis; needed for float models. Where states are bound they
                 follow one another in a stream, and the bound inputs need none
    given      : shapes and constants that the caller fixes
    states     : output -> input of the model: state that stays on the core from run to run
    ranges     : how the range of a tensor follows from the samples: 'minmax', 'percentile' or 'mse'
    percentile : of the values of each tensor that 'percentile' covers
    unobserved : draw samples where there are none; then cycles mean something, values do not

    Raises
    ------
    CompileError   One sentence that names the culprit.
    """
    loaded = load(source, given, samples)
    whole, notes, origins = _in_core_operators(loaded.model)
    loaded = replace(loaded, notes=(*loaded.notes, *notes))
    bound = bind_states(whole, states) if states else None
    if not loaded.quantised:
        # The tensors inside a cell of a quantised model would state no format.
        whole, unrolled = unroll_cells(whole, () if bound is None else bound.nodes.values())
        origins |= unrolled
        bound = bind_states(whole, states) if states and unrolled else bound
    divided = whole if bound is None else bound.model
    taken: list[dict[str, np.ndarray]] = []
    if loaded.quantised:
        observed = Observed()
        # Without samples nobody knows the range of what states none: drawn ones would give a wrong one.
        if samples is not None and walk(divided, observed, in_float=False).wanting:
            taken = _samples(whole, samples, bound)
            observed = replace(observe(whole, taken, ranges=ranges, percentile=percentile), cells={})
    else:
        if samples is None and unobserved:
            taken = drawn_samples(whole)
        else:
            taken = _samples(whole, samples, bound)
        _check_weights(whole)
        observed = _united(observe(whole, taken, ranges=ranges, percentile=percentile), alike(whole, origins))
    # The run told shapes that no inference knew, so more is constant now.
    divided = known_types(divided, observed.types)
    return Prepared(
        loaded=loaded,
        whole=whole,
        model=divided,
        observed=observed,
        samples=taken,
        bound=bound,
        origins=origins,
    )


def _in_core_operators(model: Model) -> tuple[Model, tuple[str, ...], dict[str, str]]:
    """The model in operators that have a rule, as far as such exist; what the user should know of it; and for
    new nodes those that they stand for."""
    model, notes = maps_to_arrays(model)
    model, origins = expand_linear_ml(model)
    dressed = plain(model)
    return (model if dressed is model else followed(retyped(dressed))), notes, origins


def _united(observed: Observed, groups: Sequence[Sequence[str]]) -> Observed:
    """One format for all tensors of a group."""
    formats = dict(observed.formats)
    for group in groups:
        known = [formats[name] for name in group if name in formats]
        if known:
            joint = Format.covering(
                min((-128 - each.zero) * each.scale for each in known),
                max((127 - each.zero) * each.scale for each in known),
            )
            formats.update((name, joint) for name in group if name in formats)
    return replace(observed, formats=formats)


def _samples(
    model: Model, samples: Mapping[str, np.ndarray] | None, bound: BoundStates | None
) -> list[dict[str, np.ndarray]]:
    """The user's samples, with the states of a stream before each."""
    if bound is None:
        return calibration_samples(model, samples)
    return bound.samples(calibration_samples(model, samples, bound.nodes))


def _check_weights(model: Model) -> None:
    """Refuse weights that hold NaN or infinity."""
    for name, array in model.constants.items():
        if array.dtype.kind == "f" and array.size > 1 and not np.all(np.isfinite(array)):
            products = [node for node in model.readers.get(name, ()) if node_macs(model, node) != 0]
            if products:
                raise InputError(
                    "quantise", name, "the weights hold NaN or infinity", "train or export the model again"
                )


def partition_model(
    source: str | Path | onnx.ModelProto,
    calibration: Mapping[str, np.ndarray] | None = None,
    states: Mapping[str, str] | None = None,
    hidden_bits: int | None = None,
    percentile: float = 100.0,
    *,
    given: Given | None = None,
    ranges: str | None = None,
    arch: ArchConfig | None = None,
    unobserved: bool = False,
    on_host: Mapping[str, str] | None = None,
) -> Plan:
    """A model as a plan; see `prepare` and `Prepared.plan`."""
    chosen = ranges or ("minmax" if percentile == 100 else "percentile")
    prepared = prepare(
        source,
        calibration,
        given=given,
        states=states,
        ranges=chosen,
        percentile=percentile,
        unobserved=unobserved,
    )
    return prepared.plan(arch, hidden_bits, on_host)


def import_model(
    source: str | Path | onnx.ModelProto, calibration: Mapping[str, np.ndarray] | None = None
) -> QGraph:
    """The quantised graph of a model that the core runs as a whole.

    Raises
    ------
    CompileError   Of the first node that would run on the host, and as `prepare`.
    """
    prepared = prepare(source, calibration)
    walked, plan = prepared.divided()
    for error in walked.refused.values():
        raise error
    for node in prepared.model.nodes:
        reason = prepared.unquantised(walked, node)
        if reason is not None:
            remedy = "put QuantizeLinear and DequantizeLinear behind it"
            raise QuantiseError("quantise", prepared.origin(node.name), reason, remedy)
    if len(plan.steps) != 1 or not plan.cores:
        raise UnsupportedError("import", "", "a part of the model runs on the host", "use partition_model")
    return plan.graph


def _port(model: Model, name: str) -> Port:
    known = model.type_of(name)
    if name in model.odd:
        return Port(name=name, shape=None, dtype="sequence")
    dtype = known.dtype or np.dtype(np.float32)
    return Port(name=name, shape=known.extents, dtype=dtype.name)
