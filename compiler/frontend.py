"""ONNX to the quantised graph: one walk over the model in topological order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from systolith.compiler.base.errors import InputError, ModelError, QuantiseError, UnsupportedError
from systolith.compiler.base.proto import opset_of
from systolith.compiler.importer import is_quantised, load_model, name_nodes
from systolith.compiler.ops import RULES
from systolith.compiler.ops.lookup import evaluate
from systolith.compiler.ops.registry import NodeView, Rule, rule_of, unsupported
from systolith.compiler.ops.values import Builder, Const, FloatInput, Func, Quant, Value, dequantised
from systolith.compiler.passes.batch_norm import fold_batch_norm
from systolith.compiler.passes.fuse_pads import fuse_pads
from systolith.compiler.passes.fuse_tables import fuse_tables
from systolith.compiler.passes.qlinear import expand_qlinear
from systolith.compiler.quantise import calibration_samples, quantise_model
from systolith.reference.graph import QGraph, QTensor

__all__ = ["import_model", "import_quantised", "supported_operators", "supported_ops_markdown"]

_DTYPES = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.INT8: "int8", onnx.TensorProto.UINT8: "uint8"}
#: Above it, products with the steps between two codes of int8 pass float32.
_LARGEST_SCALE = np.finfo(np.float32).max / 512


def import_model(
    source: str | Path | onnx.ModelProto, calibration: dict[str, np.ndarray] | None = None
) -> QGraph:
    """The quantised graph of a model that the core runs as a whole; `partition.partition_model` divides any
    other.

    Parameters
    ----------
    source : path or ModelProto
    calibration : dict of input name -> samples stacked on the first axis; needed for float models

    Raises
    ------
    CompileError   One sentence that names the node, attribute or value and what to do.
    """
    model = load_model(source)
    model = fold_batch_norm(model)
    if not is_quantised(model):
        model = quantise_model(model, calibration_samples(model, calibration))
    return import_quantised(model)


def import_quantised(model: onnx.ModelProto) -> QGraph:
    """The quantised graph of a loaded model that holds integers.

    Raises
    ------
    CompileError   As `import_model`.
    """
    model = expand_qlinear(model)
    name_nodes(model)
    return fuse_pads(fuse_tables(_Importer(model).run()))


def supported_operators() -> list:
    """What the supported-operators page states, one row per operator."""
    shared = [
        _Row(name, "", (doc,))
        for name, doc in (
            ("QuantizeLinear", "the scale must be one positive number, the type int8 or uint8"),
            (
                "DequantizeLinear",
                "an activation's scale must be one number; weights may have one per output channel",
            ),
            (
                "QLinearConv, QLinearMatMul",
                "as the float operator between DequantizeLinear and QuantizeLinear",
            ),
        )
    ]
    shared.append(
        _Row(
            "QLinearAdd, QLinearMul, QLinearConcat, QLinearAveragePool, QLinearGlobalAveragePool, "
            "QLinearSigmoid, QLinearLeakyRelu, QGemm",
            "com.microsoft",
            ("as the float operator; channels_last must be 0",),
        )
    )
    return [*(_row(RULES[name]) for name in sorted(RULES)), *shared]


def supported_ops_markdown() -> str:
    """The same as a Markdown table."""
    lines = ["| operator | domain | constraints |", "|---|---|---|"]
    lines += [
        f"| {row.name} | {row.domain or 'ai.onnx'} | {'; '.join(row.constraints) or '-'} |"
        for row in supported_operators()
    ]
    return "\n".join(lines) + "\n"


class _Row:
    def __init__(self, name: str, domain: str, constraints: tuple[str, ...]) -> None:
        self.name, self.domain, self.constraints = name, domain, constraints


def _row(rule: Rule) -> _Row:
    texts = [" ".join(constraint.__doc__.split()).rstrip(".") for constraint in rule.constraints]
    if rule.attributes:
        texts.append("attributes: " + ", ".join(sorted(rule.attributes)))
    return _Row(rule.name, rule.domain, tuple(texts))


class _Importer:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self.opset = opset_of(model)
        self.builder = Builder()
        self.values: dict[str, Value] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        self.results = {value.name for value in self.graph.output}
        for node in self.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def run(self) -> QGraph:
        for tensor in self.graph.initializer:
            self.values[tensor.name] = Const(numpy_helper.to_array(tensor))
        inputs = [value for value in self.graph.input if value.name not in self.values]
        for value in inputs:
            self._input(value)
        for node in self.graph.node:
            self._node(node)
        outputs = [self._output(value.name) for value in self.graph.output]
        for value in inputs:
            if value.name not in self.builder.tensors:
                raise QuantiseError(
                    "quantise",
                    value.name,
                    "the float input is never quantised",
                    "put a QuantizeLinear behind it, or remove it",
                )
        return self._graph(tuple(value.name for value in inputs), outputs)

    # Boundary.

    def _input(self, value: onnx.ValueInfoProto) -> None:
        kind = value.type.tensor_type
        shape = tuple(dim.dim_value for dim in kind.shape.dim)
        dtype = _DTYPES.get(kind.elem_type)
        if dtype is None:
            raise InputError(
                "import",
                value.name,
                f"the input has type {onnx.TensorProto.DataType.Name(kind.elem_type)}",
                "only float, int8 and uint8 inputs are supported",
            )
        if dtype == "float32":
            self.builder.shapes[value.name] = shape
            self.values[value.name] = FloatInput(value.name, shape)
            return
        scale, zero = self._stated_scale(value.name, dtype)
        self.builder.tensors[value.name] = QTensor(
            name=value.name, shape=shape, scale=scale, zero_point=zero, dtype=dtype
        )
        self.values[value.name] = Quant(value.name, shape, dtype == "uint8")

    def _stated_scale(self, name: str, dtype: str) -> tuple[float, int]:
        """Scale and zero point of an integer input: those of the first DequantizeLinear behind it."""
        waiting = [name]
        for current in waiting:
            for node in self.readers.get(current, ()):
                if node.op_type == "DequantizeLinear" and node.input[0] == current:
                    scale, zero, _ = self._parameters(node, dtype == "uint8")
                    return scale.item(), int(zero.item())
                rule = rule_of(node)
                if rule is not None and rule.moves:
                    waiting.append(node.output[0])
        return 1.0, -128 if dtype == "uint8" else 0

    def _output(self, name: str) -> str:
        value = self.values.get(name)
        if isinstance(value, Quant) or (isinstance(value, Func) and value.pure):
            return self.builder.alias(value.tensor, name)
        if isinstance(value, Const):
            raise UnsupportedError(
                "import", name, "the output is constant", "remove it from the model's outputs"
            )
        raise QuantiseError(
            "quantise",
            name,
            "the output is not quantised",
            "put QuantizeLinear and DequantizeLinear before it",
        )

    def _graph(self, inputs: tuple[str, ...], outputs: list[str]) -> QGraph:
        builder = self.builder
        new = {old: name for old, name in builder.renamed.items() if old != name}
        # A tensor that already bears an output's name without being it gives way.
        for name in list(new.values()):
            if name in builder.tensors and name not in new:
                new[name] = builder.fresh(f"{name}_before")

        def final(name: str) -> str:
            return new.get(name, name)

        dtypes = {
            value.name: _DTYPES.get(value.type.tensor_type.elem_type, "int8") for value in self.graph.output
        }
        tensors = {}
        for old, tensor in builder.tensors.items():
            dtype = dtypes.get(final(old), tensor.dtype) if old not in inputs else tensor.dtype
            tensors[final(old)] = replace(tensor, name=final(old), dtype=dtype)
        nodes = tuple(
            replace(node, inputs=tuple(map(final, node.inputs)), output=final(node.output))
            for node in builder.nodes
        )
        live = set(map(final, outputs))
        kept = []
        for node in reversed(nodes):
            if node.output in live:
                live.update(node.inputs)
                kept.append(node)
        tensors = {name: tensor for name, tensor in tensors.items() if name in live or name in inputs}
        return QGraph(
            name=self.graph.name or "model",
            tensors=tensors,
            nodes=tuple(kept[::-1]),
            inputs=inputs,
            outputs=tuple(map(final, outputs)),
        )

    # Nodes.

    def _node(self, node: onnx.NodeProto) -> None:
        values = tuple(self.values[name] if name else None for name in node.input)
        own = node.domain in ("", "ai.onnx")
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and (own or node.domain == "com.microsoft"):
            if not 2 <= len(node.input) <= 3 or not all(node.input[:2]) or len(node.output) != 1:
                raise ModelError(
                    "import",
                    node.name,
                    f"{node.op_type} takes a tensor, a scale and a zero point",
                    "correct its operands",
                )
            convert = self._quantise if node.op_type == "QuantizeLinear" else self._dequantise
            self.values[node.output[0]] = convert(node, values[0])
            return
        if node.op_type == "Constant" and own:
            self.values[node.output[0]] = Const(evaluate(node, self.opset, [])[0])
            return
        if node.op_type == "Shape" and own and not isinstance(values[0], Const):
            values = (Const(np.zeros(values[0].shape, np.int8)),)
        random = node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial")
        if all(value is None or isinstance(value, Const) for value in values) and own and not random:
            self._fold(node, values)
            return
        rule = rule_of(node)
        if rule is None:
            raise unsupported(node)
        attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        view = NodeView(
            name=node.name,
            op_type=node.op_type,
            attrs=attrs,
            values=values,
            outputs=tuple(node.output),
            opset=self.opset,
            proto=node,
            metadata={entry.key: entry.value for entry in self.model.metadata_props},
            used=frozenset(name for name in node.output if name in self.readers or name in self.results),
            scope=self.values,
        )
        rule.check(view)
        values = rule.convert(self.builder, view)
        if not isinstance(values, tuple):
            values = (values,)
        self.values.update((name, value) for name, value in zip(node.output, values, strict=False) if name)

    def _fold(self, node: onnx.NodeProto, values: tuple[Const | None, ...]) -> None:
        """A node of constants alone is computed; quantised weights keep their integers through a Transpose or
        Identity."""
        results = evaluate(node, self.opset, [None if value is None else value.array for value in values])
        for name, array in zip(node.output, results, strict=False):
            self.values[name] = Const(array)
        first = values[0] if values else None
        if first is not None and first.ints is not None:
            if node.op_type == "Identity":
                self.values[node.output[0]] = first
            elif node.op_type == "Transpose":
                perm = next(
                    (list(a.ints) for a in node.attribute if a.name == "perm"),
                    list(range(first.array.ndim))[::-1],
                )
                self.values[node.output[0]] = replace(
                    first,
                    array=results[0],
                    ints=first.ints.transpose(perm),
                    axis=perm.index(first.axis % first.array.ndim),
                )
            elif node.op_type in ("Reshape", "Flatten", "Squeeze", "Unsqueeze") and first.scale.size == 1:
                self.values[node.output[0]] = replace(
                    first, array=results[0], ints=first.ints.reshape(results[0].shape)
                )

    def _parameters(self, node: onnx.NodeProto, unsigned: bool) -> tuple[np.ndarray, np.ndarray, int]:
        """(scale in float64, zero point held as int8, axis) of a QuantizeLinear or DequantizeLinear."""
        for attribute in node.attribute:
            if attribute.name in ("axis", "saturate") or (
                attribute.name in ("block_size", "output_dtype", "precision") and not attribute.i
            ):
                continue
            if attribute.name == "output_dtype" and attribute.i in (
                onnx.TensorProto.INT8,
                onnx.TensorProto.UINT8,
                onnx.TensorProto.FLOAT,
            ):
                continue
            raise UnsupportedError(
                "import",
                node.name,
                f"attribute {attribute.name!r} of {node.op_type} is not supported",
                "remove it",
            )
        known = [self.values.get(name) for name in node.input[1:] if name]
        if not all(isinstance(value, Const) for value in known):
            raise QuantiseError(
                "quantise",
                node.name,
                f"scale and zero point of {node.op_type} must be constant",
                "make them initializers",
            )
        scale = known[0].array.astype(np.float64)
        if known[0].array.dtype != np.float32:
            raise QuantiseError(
                "quantise", node.name, f"the scale has type {known[0].array.dtype}", "use float32"
            )
        if not np.all(np.isfinite(scale)) or np.any(scale < 0):
            raise QuantiseError(
                "quantise",
                node.name,
                f"scale {scale.reshape(-1)[0]:g} must be positive and finite",
                "calibrate again",
            )
        if scale.size and scale.max() > _LARGEST_SCALE:
            raise QuantiseError(
                "quantise",
                node.name,
                f"with scale {scale.max():g} the values of int8 pass float32",
                "calibrate again",
            )
        zero = known[1].array.astype(np.int64) if len(known) > 1 else np.zeros(scale.shape, np.int64)
        if scale.size != zero.size or (scale.size != 1 and scale.shape != zero.shape):
            raise ModelError(
                "import",
                node.name,
                f"{node.op_type} has a scale of shape {list(scale.shape)} and a zero point of shape "
                f"{list(zero.shape)}",
                "give both the same shape",
            )
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        if scale.size == 1:
            scale, zero = scale.reshape(()), zero.reshape(())
        return scale, zero - (128 if unsigned else 0), axis

    def _scalar(self, node: onnx.NodeProto, unsigned: bool) -> tuple[float, int]:
        scale, zero, _ = self._parameters(node, unsigned)
        if scale.size != 1 or scale.item() <= 0:
            raise QuantiseError(
                "quantise",
                node.name,
                f"{node.op_type} of an activation needs one positive scale, not {scale.tolist()}",
                "quantise activations per tensor",
            )
        return scale.item(), int(zero.item())

    def _quantise(self, node: onnx.NodeProto, value: Value) -> Value:
        zero_name = node.input[2] if len(node.input) > 2 else ""
        dtype = (
            self.values[zero_name].array.dtype
            if zero_name and isinstance(self.values.get(zero_name), Const)
            else np.dtype(np.uint8)
        )
        stated = next((a.i for a in node.attribute if a.name == "output_dtype"), 0)
        if stated and not zero_name:
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(stated))
        if isinstance(value, Const):
            return Const(
                evaluate(
                    node,
                    self.opset,
                    [value.array, *(self.values[name].array if name else None for name in node.input[1:])],
                )[0]
            )
        if dtype not in (np.dtype(np.int8), np.dtype(np.uint8)):
            raise QuantiseError(
                "quantise",
                node.name,
                f"activations of type {dtype} are not supported",
                "quantise to int8 or uint8",
            )
        scale, zero = self._scalar(node, dtype == np.uint8)
        tensor = self.builder.quantise(value, node.name, node.output[0], scale, zero)
        shape = self.builder.tensors[tensor].shape
        return Quant(tensor, shape, unsigned=dtype == np.uint8)

    def _dequantise(self, node: onnx.NodeProto, value: Value) -> Value:
        if isinstance(value, Const):
            return self._dequantise_constant(node, value)
        if not isinstance(value, Quant):
            raise QuantiseError(
                "quantise",
                node.name,
                "DequantizeLinear of a value that is not quantised",
                "correct the model",
            )
        scale, zero = self._scalar(node, value.unsigned)
        tensor = self.builder.tensors[value.tensor]
        pure = (tensor.scale, tensor.zero_point) == (scale, zero)
        return Func(value.tensor, value.shape, dequantised(scale, zero), pure)

    def _dequantise_constant(self, node: onnx.NodeProto, value: Const) -> Const:
        ints = value.array
        scale, zero, axis = self._parameters(node, ints.dtype == np.uint8)
        if ints.dtype not in (np.int8, np.uint8, np.int32):
            raise QuantiseError(
                "quantise",
                node.name,
                f"constants of type {ints.dtype} are not supported",
                "quantise to int8, uint8 or int32",
            )
        along = [1] * ints.ndim
        if scale.size > 1:
            if scale.ndim != 1 or not -ints.ndim <= axis < ints.ndim or ints.shape[axis] != scale.size:
                raise QuantiseError(
                    "quantise",
                    node.name,
                    f"{scale.size} scales do not fit axis {axis} of shape {ints.shape}",
                    "correct the axis",
                )
            along[axis] = -1
        elif not ints.ndim:
            along = []
        held = (ints.astype(np.int16) - 128).astype(np.int8) if ints.dtype == np.uint8 else ints
        steps = (held.astype(np.int64) - zero.reshape(along)).astype(np.float32)
        with np.errstate(over="ignore"):
            array = steps * scale.astype(np.float32).reshape(along)
        if not np.all(np.isfinite(array)):
            raise QuantiseError(
                "quantise",
                node.name,
                "the constant's values pass float32",
                "quantise it with a smaller scale",
            )
        return Const(array, held, scale.reshape(-1), np.broadcast_to(zero, scale.shape).reshape(-1), axis)
