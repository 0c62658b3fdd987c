"""One rule per ONNX operator: which attributes it honours, what it asks of a node, and how the node is
imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from systolith.compiler.base.errors import QuantiseError, UnsupportedError
from systolith.compiler.base.model import Node
from systolith.compiler.ops.values import Builder, Const, FloatInput, Func, Pending, Value

__all__ = ["RULES", "NodeView", "Rule", "constant", "operand", "register", "rule_of", "unsupported"]


@dataclass(frozen=True, eq=False, kw_only=True)
class NodeView:
    """One node of the model with its operands' values (None where an optional operand is left out).

    `metadata` is the model's; `used` are those of the node's results that something reads; `scope` holds
    every value known so far, which a body may read by name. `demand` gives operand `index` as a tensor in
    integers, where that has a format: of a float model (`in_float`) all have, chosen by calibration, and a
    quantised model states its own. `noted` is told which integers a constant of a float model became.
    """

    name: str
    op_type: str
    attrs: dict[str, object]
    values: tuple[Value | None, ...]
    outputs: tuple[str, ...]
    opset: int
    proto: onnx.NodeProto
    metadata: dict[str, str] = field(default_factory=dict)
    used: frozenset[str] = frozenset()
    scope: Mapping[str, Value] = field(default_factory=dict)
    demand: Callable[[int], Func | None] | None = None
    in_float: bool = False
    noted: Callable[[int, Const], None] | None = None

    @classmethod
    def of(cls, node: Node, values: tuple[Value | None, ...], opset: int, **more: Any) -> NodeView:
        """A node of a model; `more` are the fields that have a default."""
        return cls(
            name=node.name,
            op_type=node.op_type,
            attrs=node.attrs,
            values=values,
            outputs=node.outputs,
            opset=opset,
            proto=node.proto,
            **more,
        )

    def value(self, index: int) -> Value | None:
        """Operand `index`, or None."""
        return self.values[index] if index < len(self.values) else None

    def note(self, index: int, value: Const) -> None:
        """A constant operand of a float model became integers."""
        if self.noted is not None:
            self.noted(index, value)

    def settled(self) -> NodeView:
        """The node with every operand that waits for a scale quantised, where the model is in float."""
        if self.demand is None or not self.in_float:
            return self
        demand = self.demand
        values = tuple(
            (demand(index) or value) if isinstance(value, Pending | FloatInput) else value
            for index, value in enumerate(self.values)
        )
        return replace(self, values=values)


Constraint = Callable[[NodeView], bool]


@dataclass(frozen=True, eq=False, kw_only=True)
class Rule:
    """How one operator is imported. The docstrings of `constraints` are both messages and documentation.

    `moves` is true of an operator that hands on its operands' integers, so that a scale may be stated behind
    it.
    """

    name: str
    attributes: frozenset[str]
    constraints: tuple[Constraint, ...]
    convert: Callable[[Builder, NodeView], Value | tuple[Value, ...]]
    domain: str = ""
    moves: bool = False

    def check(self, node: NodeView) -> None:
        """Raise `UnsupportedError` for the first attribute or constraint that does not hold."""
        for name in node.attrs:
            if name not in self.attributes:
                raise UnsupportedError(
                    "import",
                    node.name,
                    f"attribute {name!r} of {node.op_type} is not supported",
                    "remove it or replace the operator",
                )
        for constraint in self.constraints:
            if not constraint(node):
                message = " ".join(constraint.__doc__.split()).rstrip(".")
                raise UnsupportedError(
                    "import", node.name, f"{node.op_type}: {message}", "change the model so that this holds"
                )


RULES: dict[str, Rule] = {}


def rule_of(node: onnx.NodeProto) -> Rule | None:
    """The rule of a node's operator and domain, if there is one."""
    rule = RULES.get(node.op_type)
    return rule if rule is not None and rule.domain == node.domain.removeprefix("ai.onnx") else None


def unsupported(node: onnx.NodeProto) -> UnsupportedError:
    """The refusal of a node without a rule."""
    domain = f" of domain {node.domain!r}" if node.domain else ""
    return UnsupportedError(
        "import",
        node.name,
        f"operator {node.op_type}{domain} is not supported",
        "see the page of supported operators, or cut the model before this node",
    )


def register(
    *names: str,
    attributes: tuple[str, ...] = (),
    constraints: tuple[Constraint, ...] = (),
    domain: str = "",
    moves: bool = False,
):
    """Decorator: the function imports these operators."""

    def add(convert: Callable[[Builder, NodeView], Value]):
        for name in names:
            RULES[name] = Rule(
                name=name,
                attributes=frozenset(attributes),
                constraints=constraints,
                convert=convert,
                domain=domain,
                moves=moves,
            )
        return convert

    return add


def operand(node: NodeView, index: int) -> Func:
    """Operand `index` as the dequantised integers of an activation tensor; `QuantiseError` if it is anything
    else."""
    value = node.value(index)
    if isinstance(value, Func) and value.pure:
        return value
    demanded = node.demand(index) if node.demand is not None else None
    if demanded is not None:
        return demanded
    raise QuantiseError(
        "quantise",
        node.name,
        f"operand {index} ({node.proto.input[index]!r}) of {node.op_type} is not quantised",
        "put QuantizeLinear and DequantizeLinear before it",
    )


def constant(node: NodeView, index: int) -> np.ndarray | None:
    """Operand `index` as an array, None where it is left out; `UnsupportedError` if it is computed."""
    value = node.value(index)
    if value is None:
        return None
    if not isinstance(value, Const):
        raise UnsupportedError(
            "import",
            node.name,
            f"operand {index} ({node.proto.input[index]!r}) of {node.op_type} must be constant",
            "make it an initializer",
        )
    return value.array
