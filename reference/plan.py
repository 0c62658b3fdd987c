"""A model divided between core and host: what the front end of the compiler hands on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from systolith.reference.graph import QGraph, QTensor
from systolith.spec.plan import HostNode, HostStep, Port
from systolith.spec.printable import excerpt

__all__ = ["CorePart", "Plan", "ReferenceCores"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CorePart:
    """A step that the core runs.

    Parameters
    ----------
    graph     : QGraph    its inputs and outputs have the names of the whole model's tensors
    make_core : function  that gives `core`
    """

    graph: QGraph
    make_core: Callable[[], bytes] = field(default=bytes, repr=False, compare=False)

    @property
    def core(self) -> bytes:
        """The part as a quantised ONNX model; empty where the graph did not come from ONNX, or reads what
        ONNX has no name for."""
        return self.make_core()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that it reads."""
        return self.graph.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the tensors that it gives."""
        return self.graph.outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A model as it will run: steps in order, with named tensors between them (see `spec.plan`).

    Parameters
    ----------
    name            : name of the model
    steps           : in execution order
    inputs, outputs : those of the whole model, in its order
    """

    name: str
    steps: tuple[CorePart | HostStep, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def __repr__(self) -> str:
        return (
            f"<Plan {excerpt(self.name)}: {len(self.steps)} steps, {len(self.cores)} of the core, "
            f"{len(self.host_nodes)} nodes on the host>"
        )

    @classmethod
    def of(cls, model: Plan | QGraph) -> Plan:
        """A quantised graph as a plan of one step; a plan as it is."""
        if isinstance(model, Plan):
            return model
        inputs, outputs = (
            tuple(
                Port(name=name, shape=model.tensors[name].shape, dtype=model.tensors[name].dtype)
                for name in names
            )
            for names in (model.inputs, model.outputs)
        )
        return cls(name=model.name, steps=(CorePart(graph=model),), inputs=inputs, outputs=outputs)

    @property
    def cores(self) -> tuple[CorePart, ...]:
        """The steps that the core runs."""
        return tuple(step for step in self.steps if isinstance(step, CorePart))

    @property
    def core(self) -> CorePart:
        """The step of the core, of a plan that has exactly one.

        Raises
        ------
        ValueError   If it has none, or several.
        """
        (part,) = self.cores
        return part

    @property
    def graph(self) -> QGraph:
        """The graph of `core`."""
        return self.core.graph

    @property
    def host_nodes(self) -> tuple[HostNode, ...]:
        """The nodes of all steps on the host, in execution order."""
        return tuple(node for step in self.steps if isinstance(step, HostStep) for node in step.nodes)

    @property
    def formats(self) -> dict[str, QTensor]:
        """Every tensor that a step of the core reads or gives."""
        return {
            name: part.graph.tensors[name] for part in self.cores for name in (*part.inputs, *part.outputs)
        }


class ReferenceCores:
    """The core steps of a plan in NumPy: the `reference` level of the ladder, as `host.runner` calls it.

    Parameters
    ----------
    plan : Plan

    Members
    -------
    values  : the int8 tensors that the steps read and gave, by name
    tensors : per core step that ran, every int8 tensor of its graph
    states  : what nodes carry from run to run, by their names; empty before the first run
    """

    def __init__(self, plan: Plan) -> None:
        self._graphs = [part.graph for part in plan.cores]
        self.values: dict[str, np.ndarray] = {}
        self.tensors: list[dict[str, np.ndarray]] = [{} for _ in self._graphs]
        self.states: dict[str, object] = {}

    def __call__(
        self, number: int, given: Mapping[str, np.ndarray], read: Collection[str]
    ) -> dict[str, np.ndarray]:
        """Run the core step of this number, counted from 0; `given` is what the host writes before it."""
        self.values.update(given)
        graph = self._graphs[number]
        found = graph.run({name: self.values[name] for name in graph.inputs}, self.states)
        self.tensors[number] = found
        self.values.update((name, found[name]) for name in graph.outputs)
        return {name: self.values[name] for name in read}
