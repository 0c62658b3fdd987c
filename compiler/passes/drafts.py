"""What passes on `Model` share: nodes that take the place of a node, with their constants and types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from systolith.compiler.base.model import Model, Node, TensorType, make_node

__all__ = [
    "FLOAT",
    "MICROSOFT",
    "Draft",
    "Rule",
    "rewrite",
    "sole_reader",
    "transposed",
    "until_same",
]

FLOAT = onnx.TensorProto.FLOAT
#: Domain of ONNX Runtime's own operators.
MICROSOFT = "com.microsoft"


@dataclass
class Draft:
    """Nodes, constants and types that a pass adds to a model.

    Parameters
    ----------
    model  : Model              to be rewritten
    nodes  : list of Node       in the place of the one at hand
    constants, types : dict     of the tensors that the pass adds
    dropped : set of str        names of nodes, elsewhere in the model, that become part of the new ones
    domains : dict              domain -> version of operators that the model did not use before
    """

    model: Model
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    types: dict[str, TensorType] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    domains: dict[str, int] = field(default_factory=dict)

    def array(self, name: str) -> np.ndarray | None:
        """The constant of that name, of the model or of the draft; None where the tensor is computed."""
        return self.constants.get(name, self.model.constants.get(name))

    def type_of(self, name: str) -> TensorType:
        """What is known of a tensor of the model or of the draft."""
        return self.types[name] if name in self.types else self.model.type_of(name)

    def constant(self, array: np.ndarray, label: str) -> str:
        """A new constant; its name is `label`, with a number where that is taken."""
        name = self.model.fresh(label, self.types)
        self.constants[name] = array
        self.types[name] = TensorType(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        return name

    def emit(
        self,
        op_type: str,
        inputs: Iterable[str],
        label: str,
        *,
        element: int = FLOAT,
        shape: tuple[int | None, ...] | None = None,
        output: str = "",
        name: str = "",
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """A new node of one result; returns the result's name.

        Parameters
        ----------
        label          : name of the result, and of the node where `name` is not given; made unique
        element, shape : of the result
        output         : existing name that the result bears instead of `label`
        attributes     : values; those of None are left out
        """
        result = output or self.model.fresh(label, self.types)
        known = self.model.type_of(result)
        self.types[result] = known if output and known.element else TensorType(element, shape)
        if domain and domain not in self.model.opsets:
            self.domains[domain] = 1
        self.nodes.append(make_node(op_type, inputs, [result], name or label, domain, **attributes))
        return result


#: Writes what takes a node's place into the draft; False where the node stays as it is.
Rule = Callable[[Draft, Node], bool]


def rewrite(model: Model, rules: Mapping[tuple[str, str], Rule]) -> Model:
    """The model with the nodes that `rules`, by domain and operator, replaces; what nothing needs any more is
    gone, if anything was replaced."""
    if not any((node.domain, node.op_type) in rules for node in model.nodes):
        return model
    draft, nodes, changed = Draft(model), [], False
    for node in model.nodes:
        rule = rules.get((node.domain, node.op_type))
        if rule is not None and node.name not in draft.dropped and rule(draft, node):
            changed = True
            nodes.extend(draft.nodes)
        else:
            nodes.append(node)
        draft.nodes = []
    if not changed:
        return model
    # A new node may bear the name of one that is dropped.
    old = {id(node) for node in model.nodes if node.name in draft.dropped}
    kept = [node for node in nodes if id(node) not in old]
    result = model.with_nodes(_uniquely_named(kept), draft.constants, draft.types)
    return replace(result, opsets={**result.opsets, **draft.domains}).without_dead_nodes()


def until_same(model: Model, step: Callable[[Model], Model]) -> Model:
    """The model after as many steps as change it."""
    while (result := step(model)) is not model:
        model = result
    return model


def _uniquely_named(nodes: list[Node]) -> list[Node]:
    """Nodes with names of their own: the first keeps the name that two want."""
    seen: set[str] = set()
    result = []
    for node in nodes:
        name, number = node.name, 1
        while name in seen:
            name, number = f"{node.name}_{number}", number + 1
        seen.add(name)
        result.append(node if name == node.name else replace(node, name=name))
    return result


def sole_reader(model: Model, name: str) -> Node | None:
    """The only node that reads a tensor, where that is no output of the model and no subgraph takes it."""
    readers = model.readers.get(name, ())
    if len(readers) != 1 or name in model.outputs or name in model.captured:
        return None
    return readers[0]


def transposed(shape: tuple[int | None, ...] | None, perm: Iterable[int]) -> tuple[int | None, ...] | None:
    """A shape with its axes in another order."""
    return None if shape is None else tuple(shape[axis] for axis in perm)
