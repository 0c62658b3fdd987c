"""Scan over a leaky tanh cell, as echo state networks are: h' = (1 - alpha) * h + alpha * tanh(W @ x + U @ h
+ b).

How the body writes this does not matter: whatever is linear in state and input is evaluated once per unit and
input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from systolith.compiler.base.errors import UnsupportedError
from systolith.compiler.ops.recurrent import HIDDEN_SCALE, hidden_is_wide, quantised_layer
from systolith.compiler.ops.registry import NodeView, constant, operand, register
from systolith.compiler.ops.values import Builder, Const, Func, Value, dequantised
from systolith.reference.reshape import Reshape
from systolith.reference.take import Take
from systolith.spec import cells
from systolith.spec.isa import Cell

__all__ = ["LeakyCell", "convert_scan", "leaky_cell"]

#: Linear in their operands, of which at most one may be computed in a product.
_SUMS = (
    "Add",
    "Sub",
    "Neg",
    "Identity",
    "Concat",
    "Split",
    "Slice",
    "Squeeze",
    "Unsqueeze",
    "Reshape",
    "Flatten",
    "Transpose",
)
_PRODUCTS = ("MatMul", "Gemm", "Mul")
#: How far the body may be from the cell, relative to its largest value: rounding of float32.
_NEAR = 1e-4


@dataclass(frozen=True, eq=False)
class LeakyCell:
    """float64 W [H, I], U [H, H], b [H], and the leak."""

    weights: np.ndarray
    recurrent: np.ndarray
    bias: np.ndarray
    alpha: float


class _Body:
    """A part of the body as a function of some of its tensors."""

    def __init__(
        self,
        node: NodeView,
        nodes: list[onnx.NodeProto],
        constants: dict[str, np.ndarray],
        variables: dict[str, tuple[int, ...]],
        result: str,
    ) -> None:
        self.variables = variables
        made = {name: inner for inner in nodes for name in inner.output}
        needed, waiting, self.used = [], [result], set()
        for name in waiting:
            if name in variables:
                self.used.add(name)
            elif name in made and made[name] not in needed:
                needed.append(made[name])
                waiting += [operand for operand in made[name].input if operand]
            elif name not in made and name not in constants:
                raise _refusal(node, f"its body reads {name!r}, which is computed outside of it")
        kept = [inner for inner in nodes if inner in needed]
        self._check_linear(node, kept)
        graph = onnx.helper.make_graph(
            kept,
            "part",
            [
                onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
                for name in sorted(self.used)
            ],
            [onnx.helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, None)],
            [
                onnx.numpy_helper.from_array(constants[name], name)
                for name in sorted({name for inner in kept for name in inner.input} & constants.keys())
            ],
        )
        self._run = ReferenceEvaluator(
            onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", node.opset)])
        )

    def _check_linear(self, node: NodeView, nodes: list[onnx.NodeProto]) -> None:
        computed = set(self.variables)
        for inner in nodes:
            depends = [name in computed for name in inner.input]
            if not any(depends):
                continue
            if not (
                inner.op_type in _SUMS
                or (inner.op_type in _PRODUCTS and sum(depends[:2]) == 1)
                or (inner.op_type == "Div" and not depends[1])
            ):
                raise _refusal(node, f"{inner.op_type} of its body is not linear in the state and the input")
            computed.update(inner.output)

    def __call__(self, **values: np.ndarray) -> np.ndarray:
        given = {
            name: np.broadcast_to(values.get(name, np.zeros(shape)), shape).astype(np.float32)
            for name, shape in self.variables.items()
            if name in self.used
        }
        return np.asarray(self._run.run(None, given)[0], np.float64)


def _refusal(node: NodeView, reason: str) -> UnsupportedError:
    return UnsupportedError(
        "import",
        node.name,
        f"Scan runs on the core as a leaky tanh cell alone, and {reason}",
        "see docs/recurrent.md for the form",
    )


def leaky_cell(node: NodeView, state: tuple[int, ...], frame: tuple[int, ...]) -> LeakyCell:
    """The cell that the body of a Scan computes; `state` and `frame` are the shapes of its state and of its
    input, units and features last.

    Raises
    ------
    UnsupportedError   If it is none.
    """
    body = node.attrs["body"]
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in body.initializer}
    constants |= {
        name: value.array
        for name, value in node.scope.items()
        if isinstance(value, Const) and name not in constants
    }
    nodes = list(body.node)
    tanhs = [inner for inner in nodes if inner.op_type == "Tanh"]
    if len(tanhs) != 1:
        raise _refusal(node, f"its body has {len(tanhs)} Tanh")
    h, x = (value.name for value in body.input)
    (sum_name,), (tanh,) = tanhs[0].input, tanhs[0].output
    nodes.remove(tanhs[0])
    before = _Body(node, nodes, constants, {h: state, x: frame}, sum_name)
    after = _Body(node, nodes, constants, {h: state, x: frame, tanh: state}, body.output[0].name)
    if x in after.used:
        raise _refusal(node, "its state depends on the input behind the Tanh too")
    units, inputs = state[-1], frame[-1]
    bias = before()

    def columns(name: str, count: int) -> np.ndarray:
        return np.stack(
            [(before(**{name: unit}) - bias).reshape(-1, units)[0] for unit in np.eye(count)], axis=1
        )

    cell = LeakyCell(
        columns(x, inputs),
        columns(h, units),
        bias.reshape(-1, units)[0],
        float(after(**{tanh: np.ones(1)}).ravel()[0]),
    )
    rng = np.random.default_rng(0)
    for _ in range(3):
        given = {h: rng.uniform(-1, 1, state), x: rng.uniform(-1, 1, frame), tanh: rng.uniform(-1, 1, state)}
        total = given[x] @ cell.weights.T + given[h] @ cell.recurrent.T + cell.bias
        if not np.allclose(before(**given), total, rtol=0, atol=_NEAR * max(1.0, np.abs(total).max())):
            raise _refusal(node, "the elements of its batch are not independent")
        if (
            not np.allclose(
                after(**given), given[h] + cell.alpha * (given[tanh] - given[h]), rtol=0, atol=_NEAR
            )
            or not 0 < cell.alpha <= 1
        ):
            raise _refusal(
                node, "its state is not h + alpha * (tanh - h) with one alpha from 0 to 1 for all units"
            )
    return cell


def one_state_and_one_sequence(node: NodeView) -> bool:
    """it must have one state and one sequence, both with the features last, and give the state alone."""
    body = node.attrs["body"]
    if len(node.values) != 2 or node.attrs["num_scan_inputs"] != 1 or len(body.output) > 2:
        return False
    if not 1 <= len(node.value(0).shape) <= 2 or len(node.value(1).shape) != len(node.value(0).shape) + 1:
        return False
    names, same = (
        {inner.output[0]: inner.input[0] for inner in body.node if inner.op_type == "Identity"},
        [value.name for value in body.output],
    )
    for index, name in enumerate(same):
        while name in names:
            name = names[name]
        same[index] = name
    return len(set(same)) == 1


def state_is_constant(node: NodeView) -> bool:
    """the initial state must be constant, and the sequence computed."""
    return isinstance(node.value(0), Const) and not isinstance(node.value(1), Const)


def steps_are_the_first_axis(node: NodeView) -> bool:
    """the sequence and its result must have the time on their first axis, and run the same way."""
    axes = [*node.attrs.get("scan_input_axes", ()), *node.attrs.get("scan_output_axes", ())]
    return not any(axes) and (
        len(node.outputs) < 2
        or list(node.attrs.get("scan_input_directions", [0]))
        == list(node.attrs.get("scan_output_directions", [0]))
    )


@register(
    "Scan",
    attributes=(
        "body",
        "num_scan_inputs",
        "scan_input_axes",
        "scan_input_directions",
        "scan_output_axes",
        "scan_output_directions",
    ),
    constraints=(state_is_constant, one_state_and_one_sequence, steps_are_the_first_axis),
)
def convert_scan(builder: Builder, node: NodeView) -> tuple[Value, ...]:
    """The last state, and all of them: an RNN with a leak."""
    x, initial = operand(node, 1), constant(node, 0)
    source = builder.tensors[x.tensor]
    cell = leaky_cell(node, initial.shape, x.shape[1:])
    steps, units = x.shape[0], initial.shape[-1]
    hidden = initial.reshape(-1, units)
    reverse = bool(next(iter(node.attrs.get("scan_input_directions", [0]))))
    op = quantised_layer(
        node.name,
        Cell.RNN,
        (cell.weights[None], cell.recurrent[None], cell.bias[None]),
        source.scale,
        source.zero_point,
        reverse=reverse,
        batch=len(hidden),
        hidden=hidden,
        alpha=round(cell.alpha * (1 << cells.UNIT_FRAC)),
        wide=hidden_is_wide(node),
    )
    sources = (*x.sources, node.name)

    def shaped(name: str, tensor: str, shape: tuple[int, ...], scale: float, zero: int, label: str) -> str:
        if builder.tensors[tensor].shape == shape:
            return tensor
        return builder.append(
            f"{node.name}_{label}",
            Reshape(shape=shape),
            (tensor,),
            name,
            shape,
            scale,
            zero,
            "Reshape",
            (node.name,),
        )

    sequence = shaped(
        f"{node.name}_x",
        x.tensor,
        (steps, *hidden.shape[:1], x.shape[-1]),
        source.scale,
        source.zero_point,
        "frames",
    )
    last, every = (
        node.outputs[index] if index < len(node.outputs) and node.outputs[index] else f"{node.name}_{index}"
        for index in (0, 1)
    )
    layer = builder.append(
        node.name,
        op,
        (sequence,),
        f"{every}_states",
        (steps, 1, *hidden.shape),
        HIDDEN_SCALE,
        0,
        node.op_type,
        sources,
    )
    taken = builder.append(
        f"{node.name}_last",
        Take(axis=0, index=0 if reverse else steps - 1),
        (layer,),
        f"{last}_taken",
        (1, *hidden.shape),
        HIDDEN_SCALE,
        0,
        "Gather",
        (node.name,),
    )
    results = (
        shaped(last, taken, initial.shape, HIDDEN_SCALE, 0, "last_state"),
        shaped(every, layer, (steps, *initial.shape), HIDDEN_SCALE, 0, "states"),
    )
    return tuple(
        Func(tensor, builder.tensors[tensor].shape, dequantised(HIDDEN_SCALE, 0), pure=True)
        for tensor in results
    )
