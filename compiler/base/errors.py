"""Everything that the compiler refuses, as one clear sentence."""

from __future__ import annotations

from systolith.spec.errors import SystolithError

__all__ = [
    "AllocationError",
    "CompileError",
    "InputError",
    "ModelError",
    "QuantiseError",
    "StateError",
    "TensorError",
    "UnsupportedError",
]


class CompileError(SystolithError):
    """A model that cannot be compiled.

    Parameters
    ----------
    stage : str    'import', 'quantise', 'lower', 'allocate', ...
    node : str     the node or tensor at fault, or '' where it is the whole model
    reason : str   what is wrong
    hint : str     what to do about it
    """

    #: What `node` names.
    kind = "node"

    def __init__(self, stage: str, node: str, reason: str, hint: str = "") -> None:
        self.stage, self.node, self.reason, self.hint = stage, node, reason, hint
        where = f"{stage}: {self.kind} {node!r}: " if node else f"{stage}: "
        super().__init__(where + reason + (f"; {hint}" if hint else ""))


class ModelError(CompileError):
    """A model that contradicts itself or ONNX, or is too large, at one of its nodes."""


class TensorError(ModelError):
    """The same at one of its tensors."""

    kind = "tensor"


class UnsupportedError(CompileError):
    """An operator, attribute or data type outside what the core and the compiler know."""


class QuantiseError(CompileError):
    """A scale, zero point or range that integers cannot carry."""


class AllocationError(CompileError):
    """Something that does not fit the architecture's memories."""


class InputError(CompileError):
    """A file, name, shape or value given by the user that cannot be used."""

    kind = "input"


class StateError(InputError):
    """An output or input of the model that cannot be bound as state."""

    kind = "state"
