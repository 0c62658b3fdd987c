"""What a name of the ONNX graph stands for while it is imported, and the graph that grows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from systolith.compiler.base.errors import QuantiseError, UnsupportedError
from systolith.reference.graph import Op, QNode, QTensor
from systolith.reference.lookup import Lookup
from systolith.reference.reshape import Reshape

__all__ = [
    "Builder",
    "Const",
    "FloatInput",
    "Func",
    "Opaque",
    "Pending",
    "Quant",
    "Value",
    "dequantised",
    "quantised",
]


def dequantised(scale: float, zero: int) -> np.ndarray:
    """float32 values of the 256 int8 codes, in table order (0..127, then -128..-1), as DequantizeLinear gives
    them."""
    codes = np.arange(256).astype(np.uint8).view(np.int8).astype(np.int32)
    return (codes - zero).astype(np.float32) * np.float32(scale)


def quantised(values: np.ndarray, scale: float, zero: int) -> np.ndarray:
    """int8 codes of float32 values, as QuantizeLinear gives them; NaN, which ONNX leaves undefined, counts as
    zero."""
    with np.errstate(all="ignore"):
        steps = np.rint(np.asarray(values, np.float32) / np.float32(scale)).astype(np.float64)
    return np.clip(np.nan_to_num(steps, nan=0.0, posinf=1e9, neginf=-1e9) + zero, -128, 127).astype(np.int8)


@dataclass(frozen=True, eq=False)
class Const:
    """A constant; one that came through DequantizeLinear keeps its integers.

    Parameters
    ----------
    array : array            as ONNX would compute it
    ints : int array         int8 (uint8 shifted by 128) or int32, or None
    scale : float64 array    of one entry, or one per index of `axis`
    zero : int array         like `scale`; shifted with `ints`
    axis : int
    """

    array: np.ndarray
    ints: np.ndarray | None = None
    scale: np.ndarray | None = None
    zero: np.ndarray | None = None
    axis: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def real(self) -> np.ndarray:
        """The values in float64: exact where integers are known."""
        if self.ints is None:
            return self.array.astype(np.float64)
        along = [1] * self.array.ndim
        if self.scale.size > 1:
            along[self.axis] = -1
        return (self.ints.astype(np.float64) - self.zero.reshape(along)) * self.scale.reshape(along)


@dataclass(frozen=True, eq=False)
class FloatInput:
    """A float tensor of the host that waits for its QuantizeLinear; `then` as in `Pending`, each with its
    node's name in front; `dtype` is NumPy's name of the host's type."""

    name: str
    shape: tuple[int, ...]
    then: tuple[tuple[str, Op, tuple[int, ...], str], ...] = ()
    dtype: str = "float32"


@dataclass(frozen=True, eq=False)
class Opaque:
    """A tensor on the host that the core cannot read; `reason` says why, and begins with its name."""

    name: str
    reason: str
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Quant:
    """The integers of an activation tensor; `unsigned` where the model holds them as uint8."""

    tensor: str
    shape: tuple[int, ...]
    unsigned: bool = False


@dataclass(frozen=True, eq=False)
class Func:
    """A float value that is a function of one int8 tensor, element by element: ``values[q & 255]``.

    Parameters
    ----------
    tensor, shape, values
    pure : bool              true where the function is the tensor's own dequantisation
    sources : tuple of str   model nodes that the function is made of
    op_type : str            the last of them
    """

    tensor: str
    shape: tuple[int, ...]
    values: np.ndarray
    pure: bool = False
    sources: tuple[str, ...] = ()
    op_type: str = "QuantizeLinear"


@dataclass(frozen=True, eq=False)
class Pending:
    """A float result that becomes a node once its QuantizeLinear says scale and zero point.

    Parameters
    ----------
    node, op_type : str           as the model calls it
    shape : tuple of int
    build : function              (scale, zero, low, high) -> Op; None for a value that other operands define
    inputs : tuple of str         tensors
    sources : tuple of str        model nodes so far
    clamps : tuple of (low, high) float limits applied to the result, in order
    then : tuple of (Op, shape, op_type)  operators that move or select elements, applied to the quantised
           result
    linear : object               the weighted sum behind it (`weighted.Linear`), which constants may still be
             folded into
    parts : tuple of values       operands to be quantised like the result (Concat); replaces `inputs`
    made : tuple of int           shape before `then`, where that is not empty
    compose : function            (builder, name, scale, zero, low, high) -> tensor, of a result that takes
              several operators: it appends them, the last to give `name`, and replaces `build`
    """

    node: str
    op_type: str
    shape: tuple[int, ...]
    build: Callable[[float, int, int, int], Op] | None
    inputs: tuple[str, ...]
    sources: tuple[str, ...]
    clamps: tuple[tuple[float, float], ...] = ()
    then: tuple[tuple[Op, tuple[int, ...], str], ...] = ()
    linear: object | None = None
    parts: tuple[object, ...] = ()
    made: tuple[int, ...] = ()
    compose: Callable[[Builder, str, float, int, int, int], str] | None = None


Value = Const | FloatInput | Opaque | Quant | Func | Pending


@dataclass
class Builder:
    """The quantised graph under construction.

    Parameters
    ----------
    tensors, nodes             so far
    renamed : dict             names that tensors get at the end: the model's outputs
    shapes : dict              of the float inputs
    known : dict               (identity of a value, scale, zero) -> the value and its tensor: exporters
            quantise once per reader
    """

    tensors: dict[str, QTensor] = field(default_factory=dict)
    nodes: list[QNode] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    known: dict[tuple[int, float, int], tuple[Value, str]] = field(default_factory=dict)

    def fresh(self, name: str) -> str:
        """`name`, with a number behind it if it is taken."""
        unique, number = name, 1
        while unique in self.tensors:
            unique, number = f"{name}_{number}", number + 1
        return unique

    def append(
        self,
        node: str,
        op: Op,
        inputs: tuple[str, ...],
        name: str,
        shape: tuple[int, ...],
        scale: float,
        zero: int,
        op_type: str,
        sources: tuple[str, ...],
    ) -> str:
        """Add a node and the tensor it gives; returns the tensor's name."""
        name = self.fresh(name)
        taken = {existing.name for existing in self.nodes}
        unique, number = node, 1
        while unique in taken:
            unique, number = f"{node}_{number}", number + 1
        self.tensors[name] = QTensor(
            name=name, shape=tuple(map(int, shape)), scale=float(scale), zero_point=int(zero)
        )
        self.nodes.append(
            QNode(
                name=unique,
                op=op,
                inputs=inputs,
                output=name,
                op_type=op_type,
                sources=tuple(dict.fromkeys(sources)),
            )
        )
        return name

    def constant(self, name: str, data: np.ndarray, scale: float, zero: int) -> str:
        """Add a constant int8 tensor."""
        name = self.fresh(name)
        data = np.ascontiguousarray(data, np.int8)
        self.tensors[name] = QTensor(
            name=name, shape=data.shape, scale=float(scale), zero_point=int(zero), data=data
        )
        return name

    def move(self, value: Value, node: str, op_type: str, op: Op, shape: tuple[int, ...], name: str) -> Value:
        """Apply an operator that only moves or selects elements."""
        if isinstance(value, Pending):
            linear = value.linear
            if linear is not None:
                axis = op.axis_after(linear.out_axis % len(value.shape), value.shape)
                linear = None if axis is None else replace(linear, out_axis=axis)
            return replace(
                value,
                shape=shape,
                made=value.made or value.shape,
                then=(*value.then, (op, shape, op_type)),
                sources=(*value.sources, node),
                linear=linear,
            )
        if isinstance(value, FloatInput):
            return replace(value, shape=shape, then=(*value.then, (node, op, shape, op_type)))
        tensor = self.tensors[value.tensor]
        moved = self.append(
            node, op, (value.tensor,), name, shape, tensor.scale, tensor.zero_point, op_type, (node,)
        )
        return replace(value, tensor=moved, shape=shape)

    def quantise(self, value: Value, node: str, name: str, scale: float, zero: int) -> str:
        """The tensor (`name`, if it is new) that holds `value` with this scale and zero point; QuantizeLinear
        `node` asks for it."""
        key = (id(value), float(scale), zero)
        if key not in self.known:
            self.known[key] = value, self._quantise(value, node, name, scale, zero)
        return self.known[key][1]

    def _quantise(self, value: Value, node: str, name: str, scale: float, zero: int) -> str:
        if isinstance(value, Func):
            return self._tabulate(value, node, name, scale, zero)
        if isinstance(value, Const):
            if value.array.size == 0:
                raise UnsupportedError("import", node, "the constant operand is empty")
            return self.constant(name, quantised(value.array, scale, zero), scale, zero)
        if isinstance(value, FloatInput):
            return self._input(value, node, name, scale, zero)
        if not isinstance(value, Pending):
            raise QuantiseError(
                "quantise",
                node,
                "its input is already quantised",
                "remove one of the two QuantizeLinear nodes",
            )
        return self._finish(value, node, name, scale, zero)

    def _input(self, value: FloatInput, node: str, name: str, scale: float, zero: int) -> str:
        """Quantisation commutes with moving elements: the input comes first, then what the model does to
        it."""
        known = self.tensors.get(value.name)
        if known is None:
            self.tensors[value.name] = QTensor(
                name=value.name,
                shape=self.shapes[value.name],
                scale=float(scale),
                zero_point=zero,
                dtype=value.dtype,
            )
        elif (known.scale, known.zero_point) != (float(scale), zero):
            raise QuantiseError(
                "quantise",
                node,
                f"input {value.name!r} is quantised twice, with different scales or zero points",
                "use one QuantizeLinear for all its readers",
            )
        result = value.name
        for index, (label, op, shape, op_type) in enumerate(value.then):
            output = name if index == len(value.then) - 1 else f"{name}_{index}"
            result = self.append(label, op, (result,), output, shape, scale, zero, op_type, (label, node))
        return result

    def _tabulate(self, value: Func, node: str, name: str, scale: float, zero: int) -> str:
        table = quantised(value.values, scale, zero)
        tensor = self.tensors[value.tensor]
        if value.pure and tensor.scale == float(scale) and tensor.zero_point == zero:
            return value.tensor
        sources = (*value.sources, node)
        label = value.sources[-1] if value.sources else node
        return self.append(
            label,
            Lookup(table=table),
            (value.tensor,),
            name,
            value.shape,
            scale,
            zero,
            value.op_type,
            sources,
        )

    def _finish(self, value: Pending, node: str, name: str, scale: float, zero: int) -> str:
        low, high = -np.inf, np.inf
        for lower, upper in value.clamps:
            low, high = np.clip([low, high], lower, max(lower, upper)) if lower <= upper else (upper, upper)
        low, high = (int(q) for q in quantised(np.array([low, high]), scale, zero))
        inputs = value.inputs
        sources = (*value.sources, node)
        if value.parts:
            inputs = tuple(
                self._part(part, value, f"{name}_part{index}", scale, zero)
                for index, part in enumerate(value.parts)
            )
        steps = list(value.then)
        if value.compose is not None:
            made = value.compose(self, f"{name}_made" if steps else name, scale, zero, low, high)
            if not steps:
                return made
            inputs = (made,)
        else:
            op = value.build(scale, zero, low, high)
            steps.insert(0, (op, value.made or value.shape, value.op_type))
        for index, (step, shape, op_type) in enumerate(steps):
            last = index == len(steps) - 1
            label = value.node if index == 0 and value.compose is None else f"{value.node}_{op_type}"
            output = name if last else f"{name}_{index}"
            inputs = (
                self.append(
                    label,
                    step,
                    inputs,
                    output,
                    shape,
                    scale,
                    zero,
                    op_type,
                    sources if last else value.sources,
                ),
            )
        return inputs[0]

    def _part(self, part: Value, value: Pending, name: str, scale: float, zero: int) -> str:
        if value.clamps:
            raise UnsupportedError(
                "import",
                value.node,
                "a limit follows Concat without QuantizeLinear between",
                "quantise the joined tensor",
            )
        return self.quantise(part, value.node, name, scale, zero)

    def alias(self, old: str, new: str) -> str:
        """Another name for a tensor: its own, if it may be renamed, else a copy."""
        tensor = self.tensors[old]
        made = any(node.output == old for node in self.nodes)
        if made and old not in self.renamed:
            self.renamed[old] = new
            return old
        copy = self.append(
            f"copy_{new}",
            Reshape(shape=tensor.shape),
            (old,),
            new,
            tensor.shape,
            tensor.scale,
            tensor.zero_point,
            "Identity",
            (new,),
        )
        self.renamed[copy] = new
        return copy
