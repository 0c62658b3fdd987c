"""A model divided between core and host: what the front end of the compiler hands on."""

from __future__ import annotations

from dataclasses import dataclass

from systolith.reference.graph import QGraph
from systolith.spec.segments import HostPart

__all__ = ["Partition"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A model as it will run.

    Parameters
    ----------
    graph : QGraph            the core's part; its inputs and outputs are the model's own where no segment
            lies between
    host  : HostPart or None  what runs before and after it
    core  : bytes             the core's part as a quantised ONNX model; empty where the graph did not come
            from ONNX
    """

    graph: QGraph
    host: HostPart | None = None
    core: bytes = b""
