"""What an image says of its program: tensors that the host gives and takes, state between runs, layers.
Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["IoTensor", "LayerInfo", "StateInfo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IoTensor:
    """An input, output or state tensor as the host sees it.

    Parameters
    ----------
    name, dtype, shape : the model's own; dtype is a name of `boundary.BOUNDARY`
    scale, zero_point  : those of the int8 value on the core: real = scale * (q - zero_point)
    offset             : first byte in the DATA region
    order              : memory order of the axes, outermost first; the tensor is stored densely as int8 in
                         that order. A uint8 value is stored minus 128; a float32 value is quantised by the
                         host.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int
    offset: int
    order: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Bytes that the tensor occupies in the DATA region."""
        size = 1
        for extent in self.shape:
            size *= extent
        return size


@dataclass(frozen=True, slots=True, kw_only=True)
class StateInfo:
    """State that a run leaves for the next one, in the DATA region.

    Parameters
    ----------
    name    : name of the node that keeps it
    offset  : place of its first byte in the DATA region
    initial : its bytes before the first run, in hexadecimal
    """

    name: str
    offset: int
    initial: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInfo:
    """One layer of the program: which instructions of the run stream it owns, and what it costs at least.

    Parameters
    ----------
    name, op : the node's name and operator in the model (the first of those fused into it)
    nodes    : all nodes of the model that this layer computes
    tensor   : name of its result in the quantised graph
    macs     : multiply-accumulates of one inference, as the model states them
    roofline_cycles : the larger of (macs - skipped_macs) / (R*C) and compulsory bytes / bus bytes
    limit    : 'array', 'weights', 'memory' or 'vector': what the cycle model says holds it up
    cycles   : the cycle model's estimate
    skipped_tiles, skipped_macs : tiles of the weights that are all zero and left out, and their share of
                                  `macs`
    """

    name: str
    op: str
    nodes: tuple[str, ...]
    tensor: str
    macs: int
    cycles: int
    roofline_cycles: int
    limit: str
    skipped_tiles: int = 0
    skipped_macs: int = 0
