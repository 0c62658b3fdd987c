"""Divide a model into what the host runs first, what the core runs, and what the host runs last.

The importer alone knows what the core can run. So it is asked: while it refuses a node, that node goes to the
host and the rest is tried again. A refused node before all layers of the core takes along what it reads, one
behind them all takes along what reads it; one between them does either, so that the core keeps as much of the
work as it can.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from systolith.compiler.base.errors import CompileError, InputError, ModelError, UnsupportedError
from systolith.compiler.base.proto import serialised
from systolith.compiler.checks.shapes import typed_values
from systolith.compiler.frontend import import_quantised
from systolith.compiler.importer import is_quantised, load_model
from systolith.compiler.passes.batch_norm import fold_batch_norm
from systolith.compiler.passes.bound_states import BoundStates, bind_states
from systolith.compiler.passes.streaming import carry_states
from systolith.compiler.quantise import (
    calibration_samples,
    quantise_model,
    segment_samples,
    unsupported_nodes,
)
from systolith.compiler.recurrent import set_hidden_bits
from systolith.compiler.segments import Topology, extract, host_nodes, node_macs
from systolith.reference.graph import QGraph
from systolith.reference.plan import CorePart, Plan
from systolith.spec.plan import HostStep, Port

__all__ = ["partition_model"]

#: Operators that compute nothing: no reason to start the core for them alone.
_MOVING = frozenset(
    "Cast Concat DequantizeLinear Dropout Flatten Identity QuantizeLinear Reshape Squeeze Transpose "
    "Unsqueeze".split()
)
#: What ONNX Runtime's quantiser appends to the name of a tensor.
_QUANTISER_SUFFIXES = ("_QuantizeLinear", "_DequantizeLinear", "_quantized")


@dataclass(frozen=True, eq=False, kw_only=True)
class _Cut:
    """Node names of the two segments. `heads` are those nodes of `before` that the core cannot run; the core
    repeats the others where it needs them, so that it starts as early as it can.
    """

    before: frozenset[str]
    after: frozenset[str]
    heads: frozenset[str]


def partition_model(
    source: str | Path | onnx.ModelProto,
    calibration: dict[str, np.ndarray] | None = None,
    states: Mapping[str, str] | None = None,
    hidden_bits: int | None = None,
    percentile: float = 100.0,
) -> Plan:
    """A model as a plan of at most three steps: of the host, of the core, of the host.

    Parameters
    ----------
    source      : path or ModelProto
    calibration : dict of input of the model -> samples stacked on the first axis; needed for float models.
                  Where states are bound the samples follow one another in a stream, and the bound inputs need
                  none
    states      : output -> input of the model: state that stays on the core from run to run
    hidden_bits : of the hidden states of recurrent layers, 8 or 16; None: what the model's metadata says,
                  else 8
    percentile  : of the values of each tensor on the calibration data that int8 covers

    Raises
    ------
    CompileError   If a node between layers of the core cannot run there, or none can; one sentence that names
                   it.
    """
    model = fold_batch_norm(load_model(source))
    bound = bind_states(model, states) if states else None
    model = _without_dead_nodes(model if bound is None else bound.model)
    quantised = is_quantised(model)
    samples = (
        [] if quantised else calibration_samples(model, calibration, bound.nodes if bound is not None else ())
    )
    if bound is not None:
        samples = bound.samples(samples)
    topology, values = Topology(model), typed_values(model)
    blocked = {error.node: error for error in unsupported_nodes(model) if error.node in topology.above}
    while True:
        parts = (
            _Parts(model, topology, values, _cut(topology, values, blocked, not quantised))
            if blocked
            else None
        )
        core = model if parts is None else parts.core
        if bound is not None:
            _check_bound(bound, core, blocked)
        try:
            integers = core
            if not quantised:
                integers = quantise_model(
                    core, samples if parts is None else parts.core_samples(samples), percentile
                )
            if bound is not None:
                integers = bound.cut_off(integers)
            if hidden_bits is not None:
                set_hidden_bits(integers, hidden_bits)
            # Before the import, which rewrites it.
            core_bytes = integers.SerializeToString(deterministic=True)
            graph = import_quantised(integers)
            if bound is not None:
                graph = carry_states(graph, frozenset(bound.nodes.values()))
        except CompileError as error:
            found = _culprits(topology, core, error) - blocked.keys()
            if not found:
                raise
            blocked.update(dict.fromkeys(found, error))
            continue
        if parts is None:
            return Plan.of(graph, core_bytes)
        return parts.finish(
            CorePart(graph=graph, core=core_bytes), blocked, bound.nodes if bound is not None else ()
        )


def _check_bound(bound: BoundStates, core: onnx.ModelProto, blocked: dict[str, CompileError]) -> None:
    """Refuse bound states of nodes on the host."""
    names = {node.name for node in core.graph.node}
    for source, name in bound.nodes.items():
        if name not in names:
            reasons = [blocked[name]] if name in blocked else list(blocked.values())
            raise UnsupportedError(
                "import",
                name,
                f"its state {source!r} is bound, but it would run on the host: "
                + "; ".join(f"{error.node!r}: {error.reason}" for error in reasons),
                "leave its states unbound, or change the model there",
            )


def _without_dead_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without nodes that no output needs: nobody has to run them."""
    live, _ = extract(Topology(model), (value.name for value in model.graph.output), lambda name: False)
    kept = [node for node in model.graph.node if node.name in live]
    if len(kept) == len(model.graph.node):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(kept)
    return result


def _culprits(topology: Topology, core: onnx.ModelProto, error: CompileError) -> set[str]:
    """The nodes of the model to blame for an error that names a node or a tensor; none where moving nodes is
    no help."""
    wrong = isinstance(error, ModelError) or (isinstance(error, InputError) and error.stage != "import")
    if not error.node or wrong:
        return set()
    names = [error.node]
    names += [error.node.removesuffix(end) for end in _QUANTISER_SUFFIXES if error.node.endswith(end)]
    names += [name for name in topology.nodes if error.node.startswith(name + "/")]
    for name in names:
        if name in topology.above:
            return {name}
        # An input of the core that it cannot take: its readers move to the host.
        if any(name == value.name for value in core.graph.input):
            return {node.name for node in core.graph.node if name in topology.reads[node.name]}
        if topology.producer.get(name) in topology.above:
            return {topology.producer[name]}
    return set()


def _cut(
    topology: Topology,
    values: dict[str, onnx.ValueInfoProto],
    blocked: dict[str, CompileError],
    in_float: bool,
) -> _Cut:
    """Where to cut, so that every blocked node is on the host and the layers of the core stay together.

    A blocked node between layers puts those before it on the host, or those behind it: of all such cuts the
    one that leaves the most multiply-accumulates to the core.
    """
    free = [name for name in topology.above if name not in blocked]
    layers = {name for name in free if topology.has_weights(name)}
    weighted = bool(layers)
    if not weighted:
        layers = {name for name in free if topology.nodes[name].op_type not in _MOVING}
    heads, tails, between = set(), set(), []
    for name in topology.above:
        if name not in blocked:
            continue
        above = bool(topology.above[name] & layers)
        below = any(name in topology.above[layer] for layer in layers)
        if weighted and above and below:
            between.append(name)
        else:
            (heads if below and not above else tails).add(name)

    def divided(first: int) -> tuple[_Cut, set[str]]:
        """With the first of those between layers before the core, the others behind it; and the layers that
        stay."""
        fronts, backs = heads.union(between[:first]), tails.union(between[first:])
        after = backs | {name for name in free if topology.above[name] & backs}
        before = fronts.union(*(topology.above[name] for name in fronts))
        kept = layers - before - after
        if in_float:
            fronts = fronts | _in_front(topology, before, kept)
            before = before.union(fronts, *(topology.above[name] for name in fronts))
        return _Cut(before=frozenset(before), after=frozenset(after), heads=frozenset(fronts)), kept

    # In the order of the graph no node of a front lies behind one of a back.
    cut, kept = max(
        (divided(first) for first in range(len(between), -1, -1)),
        key=lambda found: (sum(node_macs(topology.nodes[name], values) for name in found[1]), len(found[1])),
    )
    if not kept:
        raise _nothing(next(iter(blocked.items())))
    return cut


def _in_front(topology: Topology, before: set[str], layers: set[str]) -> set[str]:
    """What computes between the host's first segment and the core's first layers: in float it costs no
    accuracy, and no program."""
    return {
        name
        for name, above in topology.above.items()
        if above & before
        and name not in layers
        and not above & layers
        and topology.nodes[name].op_type not in _MOVING
        and any(name in topology.above[layer] for layer in layers)
    }


def _nothing(blocked: tuple[str, CompileError]) -> CompileError:
    name, error = blocked
    return type(error)(
        error.stage, name, f"{error.reason}, and no other node of the model can run on the core", error.hint
    )


class _Parts:
    """The parts of a cut."""

    def __init__(
        self, model: onnx.ModelProto, topology: Topology, values: dict[str, onnx.ValueInfoProto], cut: _Cut
    ) -> None:
        self.model, self.topology, self.values, self.cut = model, topology, values, cut
        producer = topology.producer
        outputs = [value.name for value in model.graph.output]
        inputs = [value.name for value in topology.inputs]

        def made_by(names: frozenset[str]) -> Callable[[str], bool]:
            return lambda tensor: producer.get(tensor) in names

        in_before, in_after, in_heads = made_by(cut.before), made_by(cut.after), made_by(cut.heads)
        self.after_outputs = [name for name in outputs if in_after(name)]
        # Everything that flows into the last segment from outside of it.
        self.after_nodes, self.after_inputs = extract(
            topology,
            self.after_outputs,
            lambda name: producer.get(name) in topology.above and not in_after(name),
        )
        wanted = [*outputs, *self.after_inputs]
        self.core_outputs = _unique(
            name for name in wanted if name not in inputs and not in_before(name) and not in_after(name)
        )
        self.core_nodes, self.core_inputs = extract(topology, self.core_outputs, in_heads)
        self.before_outputs = _unique(
            name for name in (*self.core_inputs, *wanted) if name not in inputs and in_before(name)
        )
        self.before_nodes, self.before_inputs = extract(topology, self.before_outputs, lambda name: False)

    @property
    def core(self) -> onnx.ModelProto:
        """The core's part as a model of its own."""
        return self._submodel(
            self.core_nodes, [self._value(name) for name in self.core_inputs], self.core_outputs
        )

    def core_samples(self, samples: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """Calibration samples of the core's inputs, from those of the model's."""
        if self.before_outputs:
            samples = segment_samples(self._before(), self.before_inputs, self.before_outputs, samples)
        return [{name: sample[name] for name in self.core_inputs} for sample in samples]

    def finish(self, core: CorePart, blocked: dict[str, CompileError], bound: Collection[str]) -> Plan:
        """The plan, once the core's graph says how its results look; `bound` are inputs that stay on the
        core."""
        reasons = {name: error.reason for name, error in blocked.items()}
        steps: list[CorePart | HostStep] = [core]
        if self.before_outputs:
            crossing = {*self.core_inputs} & {*self.before_outputs}
            steps.insert(
                0,
                HostStep(
                    model=serialised(self._before()),
                    inputs=tuple(self.before_inputs),
                    outputs=tuple(self.before_outputs),
                    nodes=host_nodes(
                        self.topology, self.values, reasons, self.cut.before, crossing, first=True
                    ),
                ),
            )
        if self.after_outputs:
            crossing = {*self.core_outputs} & {*self.after_inputs}
            steps.append(
                HostStep(
                    model=serialised(self._after(core.graph)),
                    inputs=tuple(self.after_inputs),
                    outputs=tuple(self.after_outputs),
                    nodes=host_nodes(
                        self.topology, self.values, reasons, self.cut.after, crossing, first=False
                    ),
                )
            )
        return Plan(
            name=core.graph.name,
            steps=tuple(steps),
            inputs=tuple(_port(value) for value in self.topology.inputs if value.name not in bound),
            outputs=tuple(_port(self.values.get(value.name, value)) for value in self.model.graph.output),
        )

    def _after(self, graph: QGraph) -> onnx.ModelProto:
        given = {
            name: onnx.helper.make_tensor_value_info(
                name,
                onnx.helper.np_dtype_to_tensor_dtype(np.dtype(graph.tensors[name].dtype)),
                graph.tensors[name].shape,
            )
            for name in graph.outputs
        }
        inputs = [
            given.get(name) or self.values.get(name, onnx.ValueInfoProto(name=name))
            for name in self.after_inputs
        ]
        return self._submodel(self.after_nodes, inputs, self.after_outputs)

    def _before(self) -> onnx.ModelProto:
        return self._submodel(
            self.before_nodes, [self._value(name) for name in self.before_inputs], self.before_outputs
        )

    def _submodel(
        self, nodes: set[str], inputs: list[onnx.ValueInfoProto], outputs: list[str]
    ) -> onnx.ModelProto:
        kept = [node for node in self.model.graph.node if node.name in nodes]
        read = {name for node in kept for name in self.topology.reads[node.name]}
        graph = onnx.helper.make_graph(
            kept,
            self.model.graph.name or "model",
            inputs,
            [self.values.get(name, onnx.ValueInfoProto(name=name)) for name in outputs],
            [tensor for tensor in self.model.graph.initializer if tensor.name in read],
        )
        return onnx.helper.make_model(
            graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version
        )

    def _value(self, name: str) -> onnx.ValueInfoProto:
        """Name, type and shape of a tensor that enters a segment or the core."""
        value = self.values.get(name)
        kind = None if value is None else value.type.tensor_type
        if kind is None or not kind.HasField("shape") or any(dim.dim_value <= 0 for dim in kind.shape.dim):
            raise UnsupportedError(
                "import",
                self.topology.producer.get(name, name),
                f"its result {name!r}, which the core would read, has no shape that is known before the "
                f"model runs",
                "export the model with static shapes",
            )
        return value


def _unique(names: object) -> list[str]:
    return list(dict.fromkeys(names))


def _port(value: onnx.ValueInfoProto) -> Port:
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type) if kind.elem_type else np.dtype(np.float32)
    if dtype.kind not in "fiub":
        raise InputError(
            "import",
            value.name,
            f"it has type {onnx.TensorProto.DataType.Name(kind.elem_type)}",
            "only numbers are supported at the inputs and outputs of a model",
        )
    extents = tuple(dim.dim_value for dim in kind.shape.dim)
    known = kind.HasField("shape") and all(extent > 0 for extent in extents)
    return Port(name=value.name, shape=extents if known else None, dtype=dtype.name)
