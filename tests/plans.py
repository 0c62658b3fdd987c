"""Plans for tests: made of a graph that is cut, changed, and looked at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import helper

from systolith.reference.graph import QGraph, QNode
from systolith.reference.plan import CorePart, Plan
from systolith.spec.image import Image
from systolith.spec.plan import CoreStep, HostNode, HostStep

__all__ = ["by_way_of_the_host", "cut", "cut_evenly", "host_step", "renamed", "sides", "with_core"]


def cut(graph: QGraph, *at: int) -> Plan:
    """The graph as a plan of several core steps, which begin at these nodes; it computes the same."""
    plan = Plan.of(graph)
    bounds = [0, *at, len(graph.nodes)]
    parts = [graph.nodes[first:end] for first, end in zip(bounds, bounds[1:], strict=False)]
    steps = []
    for number, nodes in enumerate(parts):
        made = {node.output for node in nodes}
        later = {name for part in parts[number + 1 :] for node in part for name in node.inputs}
        read = [name for node in nodes for name in node.inputs if name not in made]
        inputs = dict.fromkeys(name for name in read if graph.tensors[name].data is None)
        outputs = tuple(node.output for node in nodes if node.output in later | {*graph.outputs})
        steps.append(CorePart(graph=_part(graph, nodes, tuple(inputs), outputs, f"part{number}")))
    return replace(plan, steps=tuple(steps))


def cut_evenly(graph: QGraph, parts: int) -> Plan:
    """The graph as a plan of so many core steps of about as many nodes each."""
    return cut(graph, *(len(graph.nodes) * part // parts for part in range(1, parts)))


def _part(
    graph: QGraph, nodes: tuple[QNode, ...], inputs: tuple[str, ...], outputs: tuple[str, ...], name: str
) -> QGraph:
    known = {*inputs, *outputs, *(node.output for node in nodes)}.union(*(node.inputs for node in nodes))
    return QGraph(
        name=name,
        tensors={key: tensor for key, tensor in graph.tensors.items() if key in known},
        nodes=nodes,
        inputs=inputs,
        outputs=outputs,
    )


def host_step(graph: QGraph, source: str, result: str, op: str = "Identity") -> HostStep:
    """A host step of one node that takes a tensor of the graph to another of its shape and type."""
    tensor = graph.tensors[source]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    infos = [helper.make_tensor_value_info(name, kind, tensor.shape) for name in (source, result)]
    node = helper.make_node(op, [source], [result], f"at_{source}")
    made = helper.make_graph([node], "part", infos[:1], infos[1:])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    size = int(np.prod(tensor.shape))
    described = HostNode(
        name=node.name,
        op=op,
        reason=f"operator {op} is for the host",
        macs=0,
        elements=size,
        bytes=size,
    )
    return HostStep(model=model.SerializeToString(), inputs=(source,), outputs=(result,), nodes=(described,))


def by_way_of_the_host(plan: Plan, number: int, names: Sequence[str]) -> Plan:
    """The plan with host steps before its step of this number, of which each copies a tensor; the step reads
    the copies instead, so that the plan computes the same."""
    step = plan.steps[number]
    assert isinstance(step, CorePart)
    graph, hosts = step.graph, []
    for name in names:
        hosts.append(host_step(graph, name, f"{name}_host"))
        graph = renamed(graph, {name: f"{name}_host"})
    return replace(
        plan, steps=(*plan.steps[:number], *hosts, CorePart(graph=graph), *plan.steps[number + 1 :])
    )


def renamed(graph: QGraph, names: Mapping[str, str]) -> QGraph:
    """The graph with other names for some of its tensors."""

    def new(given: Iterable[str]) -> tuple[str, ...]:
        return tuple(names.get(name, name) for name in given)

    return replace(
        graph,
        tensors={
            name: replace(tensor, name=name)
            for name, tensor in zip(new(graph.tensors), graph.tensors.values(), strict=True)
        },
        nodes=tuple(
            replace(node, inputs=new(node.inputs), output=names.get(node.output, node.output))
            for node in graph.nodes
        ),
        inputs=new(graph.inputs),
        outputs=new(graph.outputs),
    )


def with_core(image: Image, **changes: Any) -> Image:
    """The image with members of its first core step changed."""
    first = image.cores[0]
    return replace(
        image, steps=tuple(replace(step, **changes) if step is first else step for step in image.steps)
    )


def sides(plan: Plan | Image) -> dict[str, str]:
    """For each node on the host, of a plan with one core step, whether it runs 'before' or 'after' that."""
    at = next(n for n, step in enumerate(plan.steps) if isinstance(step, CorePart | CoreStep))
    return {
        node.name: "before" if number < at else "after"
        for number, step in enumerate(plan.steps)
        if isinstance(step, HostStep)
        for node in step.nodes
    }
