"""What a walk over a model finds: nodes of the core, nodes of the host, and what goes between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from systolith.compiler.base.errors import CompileError
from systolith.compiler.base.formats import Format
from systolith.compiler.base.model import Model
from systolith.compiler.ops.values import Const
from systolith.reference.graph import QNode, QTensor

__all__ = ["Marks", "Walk"]


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What the walk quantised of a float model, for a model in ONNX that means the same.

    Parameters
    ----------
    formats : of tensors of the model that became integers
    weights : integers of constants, by node and operand
    """

    formats: Mapping[str, Format]
    weights: Mapping[tuple[str, int], Const]


@dataclass(frozen=True, kw_only=True)
class Walk:
    """What a walk found.

    Parameters
    ----------
    model    : the model that was walked
    tensors  : of the core, by name: entering, constant and computed ones
    nodes    : of the core, in topological order
    entering : tensors that the core reads: inputs of the model and results of nodes on the host
    leaving  : tensors that the core gives to the host or as outputs of the model
    refused  : node that cannot run on the core -> why
    both     : nodes that run on the host too, because the host needs their results as the model has them
    held     : tensors that are constants, or functions of constants alone
    wanting  : tensors of a quantised model that the core would need as integers, and that state no format
    marks    : of a float model
    """

    model: Model
    tensors: Mapping[str, QTensor]
    nodes: tuple[QNode, ...]
    entering: tuple[str, ...]
    leaving: tuple[str, ...]
    refused: Mapping[str, CompileError]
    both: frozenset[str]
    held: frozenset[str]
    wanting: frozenset[str] = frozenset()
    marks: Marks = field(default_factory=lambda: Marks(formats={}, weights={}))
