"""The quantised graph: what a model means, in integers.

A `QGraph` is the contract between the compiler's front end (which builds it from ONNX), the reference (which
executes it, op by op, in NumPy) and the compiler's back end (which lowers it to instructions). Tensors keep
the model's own axis order; how a tensor lies in memory is the back end's business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

__all__ = ["Op", "QGraph", "QNode", "QTensor", "Requant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QTensor:
    """An int8 activation tensor: real = scale * (q - zero_point).

    Parameters
    ----------
    name : str                 unique in the graph
    shape : tuple of int       every extent positive
    scale : float              positive
    zero_point : int           -128 to 127
    dtype : str                what the model calls it at its boundary: a name of `spec.boundary.BOUNDARY`
            (uint8 is held minus 128)
    data : int8 array or None  contents, if constant
    """

    name: str
    shape: tuple[int, ...]
    scale: float
    zero_point: int
    dtype: str = "int8"
    data: np.ndarray | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requant:
    """From an int32 sum to int8: ``clamp(zero + round_half_even(sum * mult / 2**shift), low, high)``, then
    the table if there is one.

    Parameters
    ----------
    mult, shift : int arrays     one entry per output channel (conv, matmul), else of length 1
    zero, low, high : int        int8
    table : int8 array of 256    indexed by the clamped result read as an unsigned byte; or None
    """

    mult: np.ndarray
    shift: np.ndarray
    zero: int
    low: int = -128
    high: int = 127
    table: np.ndarray | None = None

    def with_table(self, table: np.ndarray) -> Requant:
        """The same, its result looked up once more."""
        return replace(self, table=table if self.table is None else table[self.table.astype(np.uint8)])


class Op:
    """Base class of operators. A subclass is a frozen dataclass of attributes with ``run(*arrays) -> array``.

    What other levels must know of an operator are its traits: the methods and properties below, with what
    holds for most. Where `carried` is set, ``step(*arrays, state) -> (array, state)`` continues from the
    state that the run before left.
    """

    #: Its state continues from run to run.
    carried: bool = False
    #: It may be made to carry a state, by `carrying`.
    stateful: bool = False
    #: Elements only change their places.
    moves_only: bool = False
    #: The output for int8 inputs, exactly; each operator says how many it takes.
    run: Callable[..., np.ndarray]
    #: Output and new state for int8 inputs and the former state, of an operator that is `carried`.
    step: Callable[..., tuple[np.ndarray, object]]

    def macs(self, *shapes: tuple[int, ...]) -> int:
        """Multiply-accumulates for inputs of these shapes."""
        return 0

    @property
    def as_table(self) -> np.ndarray | None:
        """The table of 256 entries, of an operator that is nothing else."""
        return None

    def with_table(self, table: np.ndarray) -> Op | None:
        """The operator with its result looked up in a table; None where it cannot do that."""
        return None

    def axis_after(self, axis: int, shape: tuple[int, ...]) -> int | None:
        """Where an axis of the operand, of this shape, is found whole in the result of an operator that only
        moves elements; None where it is not, or the operator does more."""
        return None

    def only_pads(self, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...] | None:
        """(before, after) of each axis, where all that the operator does with an operand of this shape is to
        put the code `fill` around it; None of any other operator."""
        return None

    #: Code that it puts there.
    fill: int = 0

    def padded(self, pads: tuple[int, int, int, int], fill: int) -> Op | None:
        """The operator with so many more rows and columns (top, left, bottom, right) of `fill` around its
        operand; None where it cannot add them."""
        return None

    def carrying(self) -> Op:
        """The operator with its state carried from run to run.

        Raises
        ------
        ValueError   If it has no state, or cannot carry it; says why.
        """
        raise ValueError("it has no state")

    @property
    def first_bytes(self) -> np.ndarray:
        """int8 state before the first run, of an operator that is `carried`."""
        raise TypeError(f"{type(self).__name__} has no state")

    def ties(self, x: np.ndarray) -> np.ndarray | None:
        """Where the exact result lies between two codes, of an operator that takes the mean of integers and
        gives it in their scale; None of any other operator."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class QNode:
    """One operator application with one output.

    Parameters
    ----------
    name : str              the model's node name (made up from its output where the model gives none); unique
    op : Op                 attributes, weights and requantisation
    inputs : tuple of str   names of activation tensors (constants among them have `data`)
    output : str
    op_type : str           operator as the model calls it, for reports
    sources : tuple of str  all model nodes that this node computes, fused ones included
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    output: str
    op_type: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QGraph:
    """A quantised model: nodes in topological order.

    Parameters
    ----------
    name : str
    tensors : dict of name -> QTensor   every input, constant and result
    nodes : tuple of QNode              topological order
    inputs, outputs : tuple of str      in the model's order; names are the model's
    """

    name: str
    tensors: dict[str, QTensor]
    nodes: tuple[QNode, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def run(
        self, inputs: dict[str, np.ndarray], states: dict[str, object] | None = None
    ) -> dict[str, np.ndarray]:
        """Every tensor of the graph, by name, for int8 inputs by name. This is the `reference` level of the
        ladder.

        `states` holds what nodes carry from run to run, by their names; empty before the first run, and kept
        up to date.
        """
        states = {} if states is None else states
        values = {name: tensor.data for name, tensor in self.tensors.items() if tensor.data is not None}
        values.update({name: np.asarray(inputs[name], dtype=np.int8) for name in self.inputs})
        for node in self.nodes:
            operands = [values[name] for name in node.inputs]
            if node.op.carried:
                result, states[node.name] = node.op.step(*operands, states.get(node.name))
            else:
                result = node.op.run(*operands)
            expected = self.tensors[node.output].shape
            if result.dtype != np.int8 or result.shape != expected:
                raise AssertionError(
                    f"{node.name} gave {result.dtype}{result.shape}, the graph says int8{expected}"
                )
            values[node.output] = result
        return values
