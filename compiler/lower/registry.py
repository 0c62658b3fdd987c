"""One rule per operator of the quantised graph: how its tensors must lie, and how it becomes instructions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from systolith.compiler.base.errors import UnsupportedError
from systolith.compiler.base.layout import channels_last, row_major
from systolith.compiler.lower.context import Chain, Lowering
from systolith.reference.graph import Op, QNode

__all__ = ["LOWERINGS", "Axes", "Order", "Rule", "Temporary", "lowering", "rule_of"]

#: Axes of a tensor, outermost first.
Axes = tuple[int, ...]
#: Ranges of the activation SRAM, (address, bytes), that a rule needs no longer than its node.
Temporary = list[tuple[int, int]]


class Order(Enum):
    """How the first operand and the result of a rule lie in memory."""

    #: The rule decides: it brings its operands and places its result.
    OWN = "own"
    CHANNELS_LAST = "channels last"
    ROW_MAJOR = "row-major"

    def axes(self, shape: tuple[int, ...]) -> Axes | None:
        """The axes of a tensor of this shape in this order; None where the rule decides."""
        if self is Order.OWN:
            return None
        return channels_last(shape) if self is Order.CHANNELS_LAST else row_major(shape)


@dataclass(frozen=True, eq=False, kw_only=True)
class Rule:
    """How one operator is lowered.

    Parameters
    ----------
    emit : function           (Lowering, Op) -> ranges to release after the node, or None
    order : Order             of the first operand and the result
    wants : function          (Op, shape of its operand, order that suits its result) -> the order in which
              its operand costs no copy; None: `order` says it
    streams : bool            its rule works box by box, so that the transfer of a long input or output
              overlaps it
    relabels : bool           its result is its operand's bytes under another name
    flattened : bool          it may read a tensor that lies in a flattened order
    alike : bool              its result lies as its operand does, whatever the order
    chains : bool             its result may go from OUTPUT straight to an operator that joins
    joins : function          (Lowering, Op, name of the other operand, whether operands are exchanged) ->
              Chain, of an operator that may take an operand from OUTPUT
    """

    emit: Callable[[Lowering, Any], Temporary | None]
    order: Order = Order.OWN
    wants: Callable[[Any, tuple[int, ...], Axes], Axes] | None = None
    streams: bool = False
    relabels: bool = False
    flattened: bool = False
    alike: bool = False
    chains: bool = False
    joins: Callable[[Lowering, Any, str, bool], Chain] | None = None


#: Rules by operator; importing the package `lower` fills it.
LOWERINGS: dict[type[Op], Rule] = {}


def lowering(
    *ops: type[Op], **traits: Any
) -> Callable[[Callable[[Lowering, Any], Temporary | None]], Callable[[Lowering, Any], Temporary | None]]:
    """Decorator: the function lowers these operators; `traits` as of `Rule`."""

    def add(emit: Callable[[Lowering, Any], Temporary | None]) -> Callable[[Lowering, Any], Temporary | None]:
        for op in ops:
            LOWERINGS[op] = Rule(emit=emit, **traits)
        return emit

    return add


def rule_of(node: QNode) -> Rule:
    """The rule of a node.

    Raises
    ------
    UnsupportedError   If its operator has none.
    """
    rule = LOWERINGS.get(type(node.op))
    if rule is None:
        raise UnsupportedError(
            "lower",
            node.name,
            f"{node.op_type} has no rule for this core",
            "report this: the front end should have refused it",
        )
    return rule
