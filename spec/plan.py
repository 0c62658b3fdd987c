"""A plan: how an inference of a whole model runs, as steps of which each is a program of the core or a part
for the host. Standard library only.

Steps run in order. Tensors go between them by name: a step reads inputs of the model and results of earlier
steps. What core steps read and write lies in the DATA region; the host's own tensors lie in its memory, in
the model's types. The model of a host step is serialised ONNX: for this module, plain bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from systolith.spec.manifest import LayerInfo

__all__ = [
    "CoreStep",
    "HostNode",
    "HostStep",
    "Port",
    "Step",
    "Transfer",
    "host_step",
    "step_name",
    "transfers",
]


class Step(Protocol):
    """What every step says: names of the tensors that it reads and of those that it gives."""

    @property
    def inputs(self) -> tuple[str, ...]: ...

    @property
    def outputs(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An input or output of the whole model.

    Parameters
    ----------
    name  : the model's own
    shape : () for a scalar; ``None`` where it is known only once the model runs, as that of a sequence is
    dtype : a NumPy name, 'object' for texts; 'sequence' for an output that is a sequence of tensors
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostNode:
    """A node of the model that runs on the host.

    Parameters
    ----------
    name, op : the model's own
    reason   : why it is not on the core, one clause
    macs     : multiply-accumulates of one inference; ``None`` where a shape that they follow from is known
               only once the model runs
    elements : number of elements of its results; ``None`` where their shape is known only once the model runs
    bytes    : int8 bytes that it takes from the core or gives to it
    """

    name: str
    op: str
    reason: str
    macs: int | None
    elements: int | None
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStep:
    """A part of the model that the host runs, in ONNX Runtime.

    Parameters
    ----------
    model           : ONNX; it names its inputs and outputs as the whole model does
    inputs, outputs : those names
    nodes           : in execution order
    """

    model: bytes = field(repr=False)
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[HostNode, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreStep:
    """A run stream of the core.

    Parameters
    ----------
    entry, count    : offset of its first instruction in the PROGRAM region, and number of instructions
    cycles          : the cycle model's estimate
    inputs, outputs : names of tensors in the DATA region
    layers          : in execution order
    owners          : for each instruction the index of its layer, or -1 (transfers of inputs and outputs,
                      HALT)
    """

    entry: int
    count: int
    cycles: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[LayerInfo, ...]
    owners: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What the host moves for one core step: what it writes before, and what it reads after."""

    write: tuple[str, ...]
    read: tuple[str, ...]


def transfers(steps: Sequence[Step], outputs: Iterable[str]) -> tuple[Transfer, ...]:
    """The transfers of each core step of a plan, in order; `outputs` are those of the model.

    The host writes a tensor for the first core step that reads it; what a core step gives stays on the
    device, and is read where a host step or the model's outputs need it.
    """
    wanted = set(outputs)
    for step in steps:
        if isinstance(step, HostStep):
            wanted.update(step.inputs)
    there: set[str] = set()
    found = []
    for step in steps:
        if not isinstance(step, HostStep):
            write = tuple(name for name in step.inputs if name not in there)
            found.append(Transfer(write=write, read=tuple(name for name in step.outputs if name in wanted)))
            there.update(step.inputs, step.outputs)
    return tuple(found)


def step_name(number: int, step: Step) -> str:
    """What messages call a step, counted from 1."""
    if isinstance(step, HostStep):
        return host_step(number, [node.name for node in step.nodes])
    return f"the core's step {number}"


def host_step(number: int, nodes: Sequence[str]) -> str:
    """What messages call a step of the host: "the host's step 1 (nodes 'a' to 'b')"."""
    if not nodes:
        return f"the host's step {number}"
    names = f"node {nodes[0]!r}" if len(nodes) == 1 else f"nodes {nodes[0]!r} to {nodes[-1]!r}"
    return f"the host's step {number} ({names})"
