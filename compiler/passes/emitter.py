"""Nodes, constants and types of a model's next level, written one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from systolith.compiler.base.model import Model, Node, TensorType, make_node

__all__ = ["Emitter"]


class Emitter:
    """What a pass that replaces single nodes by several writes; names derive from the node replaced.

    Parameters
    ----------
    model : the level before

    Members
    -------
    origins : per new node the name of the node that it replaces
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.origins: dict[str, str] = {}
        self._nodes: list[Node] = []
        self._constants: dict[str, np.ndarray] = {}
        self._types: dict[str, TensorType] = {}
        self._tensors: set[str] = set()
        self._names = set(model.by_name)
        self._origin = ""
        self._element = 0

    def keep(self, node: Node) -> None:
        """The node as it is."""
        self._nodes.append(node)

    def replace(self, node: Node, element: int) -> None:
        """What follows replaces this node; `element` is the type of its results unless another is said."""
        self._origin, self._element = node.name, element

    def type_of(self, name: str) -> TensorType:
        """What is known of a tensor, of the level before or of this one."""
        return self._types.get(name) or self.model.type_of(name)

    def constant(self, label: str, array: np.ndarray) -> str:
        """A constant; returns its name."""
        name = self._fresh(label)
        self._constants[name] = array
        return name

    def add(
        self,
        op_type: str,
        inputs: Sequence[str],
        label: str,
        shape: tuple[int | None, ...],
        output: str = "",
        element: int = 0,
        **attributes: Any,
    ) -> str:
        """A node with one result.

        Parameters
        ----------
        label   : what the names of node and result end in, behind that of the node replaced
        shape   : of the result
        output  : name of the result, where it has one already
        element : type of the result, where it is another than `replace` said

        Returns
        -------
        name of the result
        """
        name = output or self._fresh(label)
        if not self.type_of(name).element:
            self._types[name] = TensorType(element or self._element, shape)
        self._append(op_type, inputs, (name,), label, **attributes)
        return name

    def split(
        self, source: str, sizes: Sequence[int], axis: int, label: str, shape: tuple[int, ...]
    ) -> tuple[str, ...]:
        """A Split of a tensor of that shape; `source` itself where there is one part."""
        if len(sizes) == 1:
            return (source,)
        outputs = []
        for index, size in enumerate(sizes):
            outputs.append(self._fresh(f"{label}{index}"))
            self._types[outputs[-1]] = TensorType(self._element, (*shape[:axis], size, *shape[axis + 1 :]))
        if self.model.opset < 13:
            self._append("Split", (source,), outputs, label, axis=axis, split=list(sizes))
        else:
            parts = self.constant(f"{label}_sizes", np.array(sizes, np.int64))
            self._append("Split", (source, parts), outputs, label, axis=axis)
        return tuple(outputs)

    def reshape(self, source: str, shape: tuple[int, ...], label: str, output: str = "") -> str:
        """A Reshape."""
        extents = self.constant(f"{label}_shape", np.array(shape, np.int64))
        return self.add("Reshape", (source, extents), label, shape, output)

    def clip(self, source: str, low: float, high: float, label: str, shape: tuple[int, ...]) -> str:
        """A Clip, its bounds as the model's opset has them."""
        if self.model.opset < 11:
            return self.add("Clip", (source,), label, shape, min=low, max=high)
        dtype = TensorType(self._element).dtype
        bounds = [
            self.constant(f"{label}_{name}", np.array(bound, dtype))
            for name, bound in (("min", low), ("max", high))
        ]
        return self.add("Clip", (source, *bounds), label, shape)

    def result(self) -> Model:
        """The level that was written."""
        return self.model.with_nodes(self._nodes, self._constants, self._types)

    def _append(
        self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], label: str, **attributes: Any
    ) -> None:
        wanted = name = f"{self._origin}/{label}"
        number = 1
        while name in self._names:
            name, number = f"{wanted}_{number}", number + 1
        self._names.add(name)
        self.origins[name] = self._origin
        self._nodes.append(make_node(op_type, inputs, outputs, name, **attributes))

    def _fresh(self, label: str) -> str:
        name = self.model.fresh(f"{self._origin}/{label}", self._tensors)
        self._tensors.add(name)
        return name
