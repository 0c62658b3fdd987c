"""What a model has beside the core: nodes before and after it that run on the host. Standard library only.

The models of the two segments are serialised ONNX: for this module, and for the image file that carries them,
plain bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HostNode", "HostPart", "Port"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An input or output of the whole model; a `shape` of ``None`` is known only once the model runs."""

    name: str
    shape: tuple[int, ...] | None
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HostNode:
    """A node of the model that runs on the host.

    Parameters
    ----------
    name, op : the model's own
    segment  : 'before' or 'after' the core
    reason   : why it is not on the core, one clause
    macs     : multiply-accumulates of one inference
    elements : of its results; ``None`` where their shape is known only once the model runs
    bytes    : int8 bytes that it takes from the core or gives to it
    """

    name: str
    op: str
    segment: str
    reason: str
    macs: int
    elements: int | None
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPart:
    """Everything of a model that is not on the core.

    Parameters
    ----------
    before, after   : ONNX models of the two segments; empty bytes where there is none. Each names its inputs
                      and outputs as the model does: `before` reads inputs of the model, `after` reads those,
                      results of `before` and of the core
    inputs, outputs : of the whole model, in its order
    nodes           : in execution order
    """

    before: bytes
    after: bytes
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    nodes: tuple[HostNode, ...]
