"""Einsum as MatMul, Mul, ReduceSum, Transpose and Reshape."""

from __future__ import annotations

import string
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from systolith.compiler.base.model import Model, Node
from systolith.compiler.passes.drafts import FLOAT, Draft, rewrite

__all__ = ["expand_einsum"]


def expand_einsum(model: Model) -> Model:
    """The model without Einsum.

    Requires the shapes of its operands. Ensures that operands are joined one after the other, each pair by
    one MatMul, or by one Mul where nothing is summed. An Einsum with a repeated label in one operand stays.
    """
    return rewrite(model, {("", "Einsum"): _expand})


@dataclass
class _Term:
    """A tensor with a letter for each axis."""

    name: str
    labels: str
    extents: dict[str, int] = field(repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.extents[label] for label in self.labels)


def _parse(node: Node, shapes: list[tuple[int, ...]]) -> tuple[list[str], str] | None:
    """Labels of the operands and of the result, the ellipsis as capital letters that the equation has not."""
    equation = node.attrs.get("equation", b"").decode().replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(shapes):
        return None
    spare = [letter for letter in string.ascii_letters if letter not in equation]
    hidden = [
        len(shape) - len(term.replace("...", "")) if "..." in term else 0
        for term, shape in zip(terms, shapes, strict=True)
    ]
    most = max(hidden)
    if min(hidden) < 0 or most > len(spare):
        return None
    stand = "".join(spare[:most])
    terms = [term.replace("...", stand[most - count :]) for term, count in zip(terms, hidden, strict=True)]
    if arrow:
        result = right.replace("...", stand)
    else:
        once = sorted({label for label in left if label.isalpha() and left.count(label) == 1})
        result = stand + "".join(once)
    return terms, result


def _expand(draft: Draft, node: Node) -> bool:
    shapes = [draft.type_of(name).extents for name in node.inputs]
    known = [shape for shape in shapes if shape is not None]
    if len(known) != len(shapes) or not known:
        return False
    parsed = _parse(node, known)
    if parsed is None:
        return False
    labels, result = parsed
    extents: dict[str, int] = {}
    for term, shape in zip(labels, known, strict=True):
        if len(term) != len(shape) or len(set(term)) != len(term):
            return False
        for label, extent in zip(term, shape, strict=True):
            if extents.setdefault(label, extent) != extent:
                # An extent of 1 that broadcasts.
                return False
    if any(label not in extents for label in result):
        return False
    maker = _Maker(draft, node, draft.type_of(node.inputs[0]).element or FLOAT)
    terms = [_Term(name, term, extents) for name, term in zip(node.inputs, labels, strict=True)]
    first = terms.pop(0)
    while terms:
        second = terms.pop(0)
        kept = set(result).union(*(term.labels for term in terms))
        first = maker.join(first, second, kept)
    first = maker.summed(first, [label for label in first.labels if label not in result])
    first = maker.ordered(first, result)
    maker.finish(first)
    return True


class _Maker:
    """Writes the operators of one Einsum."""

    def __init__(self, draft: Draft, node: Node, element: int) -> None:
        self.draft, self.node, self.element = draft, node, element

    def emit(self, op_type: str, inputs: Iterable[str], shape: tuple[int, ...], **attributes: Any) -> str:
        label = f"{self.node.name}/{op_type.lower()}"
        return self.draft.emit(
            op_type, inputs, label, element=self.element, shape=shape, name=label, **attributes
        )

    def ordered(self, term: _Term, labels: str) -> _Term:
        """Its axes in this order."""
        if term.labels == labels:
            return term
        perm = [term.labels.index(label) for label in labels]
        made = _Term("", labels, term.extents)
        made.name = self.emit("Transpose", [term.name], made.shape, perm=perm)
        return made

    def reshaped(self, name: str, old: tuple[int, ...], new: tuple[int, ...]) -> str:
        if old == new:
            return name
        wanted = self.draft.constant(np.array(new, np.int64), f"{self.node.name}/shape")
        return self.emit("Reshape", [name, wanted], new)

    def summed(self, term: _Term, labels: Iterable[str]) -> _Term:
        """Without these axes."""
        gone = set(labels)
        if not gone:
            return term
        axes = [at for at, label in enumerate(term.labels) if label in gone]
        made = _Term("", "".join(label for label in term.labels if label not in gone), term.extents)
        if self.draft.model.opset >= 13:
            named = self.draft.constant(np.array(axes, np.int64), f"{self.node.name}/axes")
            made.name = self.emit("ReduceSum", [term.name, named], made.shape, keepdims=0)
        else:
            made.name = self.emit("ReduceSum", [term.name], made.shape, axes=axes, keepdims=0)
        return made

    def join(self, a: _Term, b: _Term, kept: set[str]) -> _Term:
        """The product of two terms, summed over what nothing else needs."""
        a = self.summed(a, [label for label in a.labels if label not in kept and label not in b.labels])
        b = self.summed(b, [label for label in b.labels if label not in kept and label not in a.labels])
        both = [label for label in a.labels if label in b.labels]
        summed = [label for label in both if label not in kept]
        if not summed:
            return self.multiplied(a, b)
        batch = "".join(label for label in both if label in kept)
        rows = "".join(label for label in a.labels if label not in b.labels)
        columns = "".join(label for label in b.labels if label not in a.labels)
        inner = "".join(summed)
        extents = a.extents

        def size(labels: str) -> int:
            return prod(extents[label] for label in labels)

        lead = tuple(extents[label] for label in batch)
        a = self.ordered(a, batch + rows + inner)
        b = self.ordered(b, batch + inner + columns)
        # Without a batch MatMul takes any number of rows' axes.
        height = tuple(extents[label] for label in rows) if not batch and rows else (size(rows),)
        left = self.reshaped(a.name, a.shape, (*lead, *height, size(inner)))
        right = self.reshaped(b.name, b.shape, (*lead, size(inner), size(columns)))
        shape = (*lead, *height, size(columns))
        made = _Term("", batch + rows + columns, extents)
        made.name = self.reshaped(self.emit("MatMul", [left, right], shape), shape, made.shape)
        return made

    def multiplied(self, a: _Term, b: _Term) -> _Term:
        """Nothing is summed: each operand gets axes of extent 1 for the other's."""
        labels = a.labels + "".join(label for label in b.labels if label not in a.labels)
        names = []
        for term in (a, b):
            present = "".join(label for label in labels if label in term.labels)
            moved = self.ordered(term, present)
            shape = tuple(term.extents[label] if label in present else 1 for label in labels)
            names.append(self.reshaped(moved.name, moved.shape, shape))
        made = _Term("", labels, a.extents)
        made.name = self.emit("Mul", names, made.shape)
        return made

    def finish(self, term: _Term) -> None:
        """The last operator gives the Einsum's result, and the one that computes has its name."""
        draft, output = self.draft, self.node.outputs[0]
        if not draft.nodes:
            draft.emit(
                "Identity",
                [term.name],
                output,
                element=self.element,
                shape=term.shape,
                output=output,
                name=self.node.name,
            )
            return
        last = draft.nodes[-1]
        draft.nodes[-1] = Node(last.name, last.op_type, last.inputs, (output,), "", last.attributes)
        draft.types[output] = draft.types.pop(last.outputs[0])
        work = ("MatMul", "Mul", "ReduceSum", "Transpose", "Reshape")
        best = min(draft.nodes, key=lambda node: work.index(node.op_type))
        draft.nodes[draft.nodes.index(best)] = Node(
            self.node.name, best.op_type, best.inputs, best.outputs, "", best.attributes
        )
