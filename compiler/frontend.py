"""The walk: a typed model in topological order becomes quantised nodes of the core and nodes of the host.

Nothing stops the walk. What a rule refuses goes to the host, where it stands, with the rule's sentence as the
reason; its results enter the core again where the core reads them. A float model is quantised while it is
walked: a value becomes integers when a reader asks for them, in the format that the observation chose for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from systolith.compiler import qdq
from systolith.compiler.base.errors import CompileError, ModelError, QuantiseError, UnsupportedError
from systolith.compiler.base.formats import Format
from systolith.compiler.base.model import Model, Node
from systolith.compiler.base.randoms import RANDOM
from systolith.compiler.macs import COUNTED
from systolith.compiler.ops.lookup import evaluate
from systolith.compiler.ops.recurrent import CELL_RANGE, HIDDEN_BITS
from systolith.compiler.ops.registry import NodeView, rule_of, unsupported
from systolith.compiler.ops.values import (
    Builder,
    Const,
    FloatInput,
    Func,
    Opaque,
    Pending,
    Quant,
    Value,
    dequantised,
)
from systolith.compiler.quantise import Observed
from systolith.compiler.walked import Marks, Walk
from systolith.reference.graph import QTensor
from systolith.spec.boundary import BOUNDARY

__all__ = ["walk"]

#: How much finer a part of an input may be than the whole, before it enters the core as a tensor of its own.
_FINER = 1.25
_INTEGERS = {np.dtype(np.int8): "int8", np.dtype(np.uint8): "uint8"}


def walk(
    model: Model,
    observed: Observed,
    *,
    in_float: bool,
    on_host: Mapping[str, CompileError] | None = None,
    hidden_bits: int | None = None,
) -> Walk:
    """Walk a model.

    Parameters
    ----------
    model       : static, with unique node names, its constants folded
    observed    : formats of a float model's tensors; of a quantised model those that it does not state
    in_float    : whether the model is in float
    on_host     : nodes that are to run on the host, and why
    hidden_bits : of hidden states, 8 or 16; None: what the model's metadata says, else 8

    Raises
    ------
    ModelError   If the model contradicts itself at a node.
    """
    return _Walker(model, observed, in_float, dict(on_host or {}), hidden_bits).run()


class _Walker:
    def __init__(
        self,
        model: Model,
        observed: Observed,
        in_float: bool,
        on_host: dict[str, CompileError],
        hidden_bits: int | None,
    ) -> None:
        self.model, self.observed, self.in_float, self.on_host = model, observed, in_float, on_host
        self.metadata = dict(model.metadata)
        for name, reached in observed.cells.items():
            self.metadata[f"{CELL_RANGE}{name}"] = " ".join(f"{value:.9g}" for value in reached)
        if hidden_bits is not None:
            self.metadata[HIDDEN_BITS] = str(hidden_bits)
        self._begin()

    def _begin(self) -> None:
        self.builder = Builder()
        self.values: dict[str, Value] = {name: Const(array) for name, array in self.model.constants.items()}
        self.refused: dict[str, CompileError] = {}
        self.both: set[str] = set()
        self.leaving: dict[str, str] = {}
        self.wanting: set[str] = set()
        self.formats: dict[str, Format] = {}
        self.weights: dict[tuple[str, int], Const] = {}
        #: Values that the node at hand made integers of, as they were.
        self.journal: dict[str, Value] = {}

    def run(self) -> Walk:
        while not self._walked():
            self._begin()
        return self._result()

    def _walked(self) -> bool:
        """Walk all nodes; False where a node showed too late that it cannot run on the core: begin again."""
        for name in self.model.inputs:
            self._enter(name, "the input")
        for node in self.model.nodes:
            if not self._node(node):
                return False
        for name in self.model.outputs:
            node = self.model.producer.get(name)
            if not self._tried(lambda name=name: self._leave(name, output=True), node):
                return False
        return True

    def _tried(self, attempt, node: Node | None) -> bool:
        """Run what may find that an earlier node, whose result is made only now, cannot run on the core."""
        try:
            attempt()
        except ModelError:
            raise
        except CompileError as error:
            culprit = error.node if error.node in self.model.by_name else None
            if culprit is None and node is not None:
                culprit = node.name
            if culprit is None or culprit in self.on_host:
                raise
            self.on_host[culprit] = error
            return False
        return True

    # Boundary.

    def _enter(self, name: str, what: str) -> None:
        """A tensor that the host has: an input, or a result of one of its nodes."""
        known = self.model.type_of(name)
        shape, dtype = known.extents, known.dtype
        if dtype is None:
            self.values[name] = Opaque(name, f"{what} {name!r} is no tensor of numbers", shape)
        elif shape is None:
            self.values[name] = Opaque(name, f"the shape of {name!r} is known only once the model runs")
        elif 0 in shape:
            self.values[name] = Opaque(name, f"{name!r} has no elements", shape)
        elif dtype in _INTEGERS:
            self._enter_integers(name, shape, _INTEGERS[dtype])
        elif dtype.kind == "f":
            self.builder.shapes[name] = shape
            self.values[name] = FloatInput(name, shape, dtype=dtype.name)
        else:
            self.values[name] = Opaque(
                name, f"{what} {name!r} has type {dtype.name}, which the core does not read", shape
            )

    def _enter_integers(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        try:
            scale, zero = self._stated_format(name, dtype)
        except CompileError as error:
            self.values[name] = Opaque(name, f"{name!r} has no format of int8: {error.reason}", shape)
            return
        self.builder.tensors[name] = QTensor(
            name=name, shape=shape, scale=scale, zero_point=zero, dtype=dtype
        )
        self.values[name] = Quant(name, shape, dtype == "uint8")

    def _stated_format(self, name: str, dtype: str) -> tuple[float, int]:
        """Scale and zero point of integers that enter: those of the first DequantizeLinear behind them."""
        waiting = [name]
        for current in waiting:
            for node in self.model.readers.get(current, ()):
                if node.op_type == "DequantizeLinear" and node.inputs[0] == current:
                    return qdq.format_of(node, self.values, dtype == "uint8")
                rule = rule_of(node)
                if rule is not None and rule.moves and node.outputs[0] not in waiting:
                    waiting.append(node.outputs[0])
        return 1.0, -128 if dtype == "uint8" else 0

    def _leave(self, name: str, output: bool = False) -> None:
        """The host reads a tensor, or it is an output of the model: the core gives it, if it makes it, or if
        it has to copy an input for an output."""
        value = self.values.get(name)
        if name in self.leaving or value is None or isinstance(value, Const | Opaque):
            return
        if name in self.model.inputs or self._made_by_host(name):
            return
        if isinstance(value, FloatInput):
            self._on_both(name)
            return
        if not isinstance(value, Quant) and not (isinstance(value, Func) and value.pure):
            chosen = self._chosen(name, value)
            if chosen is None:
                self._on_both(name)
                return
            value = self._settle(name, value, chosen)
        made = any(node.output == value.tensor for node in self.builder.nodes)
        if made or (output and value.tensor in self.model.inputs):
            self.leaving[name] = self.builder.alias(value.tensor, name)
        else:
            # The host has it, in another dress.
            self._on_both(name)

    def _made_by_host(self, name: str) -> bool:
        producer = self.model.producer.get(name)
        return producer is not None and (producer.name in self.refused or producer.name in self.both)

    def _on_both(self, name: str) -> None:
        """The node that gives a tensor runs on the host too, on what the core gives or on what the host
        has."""
        node = self.model.producer[name]
        self.both.add(node.name)
        for read in node.reads:
            self._leave(read)

    # Formats.

    def _chosen(self, name: str, value: Value) -> Format | None:
        """The format in which a value becomes integers; None where the model is quantised and states
        none."""
        if self.in_float:
            return self.observed.formats.get(name)
        if not isinstance(value, Pending) or value.linear is None:
            return None
        # A sum of products whose QuantizeLinear an exporter left out: what the core is for. Anything else
        # that states no format stays in float, on the host.
        if name not in self.observed.formats:
            self.wanting.add(name)
        return self.observed.formats.get(name)

    def _settle(self, name: str, value: Value, chosen: Format) -> Func:
        """A value as integers, from now on."""
        if self.in_float and isinstance(value, FloatInput) and value.then:
            whole = self.observed.formats.get(value.name, chosen)
            if whole.scale > _FINER * chosen.scale:
                # The host moves its elements: as a tensor of its own it has a finer format.
                self._on_both(name)
                self._enter(name, "the result")
                value = self.values[name]
            else:
                chosen = whole
        label = (
            value.node if isinstance(value, Pending) else getattr(self.model.producer.get(name), "name", "")
        )
        tensor = self.builder.quantise(value, label, name, chosen.scale, chosen.zero)
        made = Func(
            tensor,
            self.builder.tensors[tensor].shape,
            dequantised(chosen.scale, chosen.zero),
            pure=True,
        )
        self.journal.setdefault(name, self.values[name])
        self.values[name] = made
        self.formats[name] = chosen
        return made

    # Nodes.

    def _node(self, node: Node) -> bool:
        own = node.domain == ""
        values = tuple(self.values[name] if name else None for name in node.inputs)
        constant = all(value is None or isinstance(value, Const) for value in values)
        captured = all(isinstance(self.values.get(name), Const) for name in node.captured)
        if own and constant and captured and node.op_type not in RANDOM:
            if self._folded(node, values):
                return True
        if node.name in self.on_host:
            return self._tried(lambda: self._to_host(node, self.on_host[node.name]), node)
        state = len(self.builder.nodes), len(self.builder.tensors), len(self.builder.known)
        self.journal = {}
        if self.in_float and self._better_in_float(node, values):
            error = UnsupportedError(
                "import",
                node.name,
                "it computes from results of the host alone, where in float it costs no accuracy",
            )
            return self._tried(lambda: self._to_host(node, error), node)
        try:
            results = self._on_core(node, values)
        except ModelError:
            raise
        except CompileError as error:
            earlier = error.node != node.name and error.node in self.model.by_name
            if earlier and error.node not in self.on_host and error.node not in self.refused:
                self.on_host[error.node] = error
                return False
            self._roll_back(*state)
            return self._tried(lambda error=error: self._to_host(node, error), node)
        for name, value in zip(node.outputs, results, strict=False):
            if name and value is not None:
                self.values[name] = value
        self.journal = {}
        for name in node.outputs:
            if self.in_float and name and self.model.reader_count(name) > 1:
                if not self._tried(lambda name=name: self._share(name), node):
                    return False
        return True

    def _better_in_float(self, node: Node, values: tuple[Value | None, ...]) -> bool:
        """Whether a node without products reads nothing but results of the host."""
        rule = rule_of(node)
        moves = rule is not None and rule.moves and node.op_type != "Concat"
        if rule is None or moves or node.op_type in COUNTED or node.op_type == "Scan":
            return False
        computed = [value for value in values if value is not None and not isinstance(value, Const)]
        return bool(computed) and all(
            isinstance(value, FloatInput) and value.name not in self.model.inputs for value in computed
        )

    def _share(self, name: str) -> None:
        """What several read becomes integers once, for all of them."""
        value = self.values[name]
        if isinstance(value, Pending) and (chosen := self._chosen(name, value)) is not None:
            self._settle(name, value, chosen)

    def _roll_back(self, nodes: int, tensors: int, known: int) -> None:
        """Forget what a node made before it was refused."""
        del self.builder.nodes[nodes:]
        for table, size in ((self.builder.tensors, tensors), (self.builder.known, known)):
            while len(table) > size:
                table.popitem()
        for name, value in self.journal.items():
            self.values[name] = value
            self.formats.pop(name, None)

    def _to_host(self, node: Node, error: CompileError) -> None:
        self.refused[node.name] = error
        for name in node.reads:
            self._leave(name)
        for name in node.outputs:
            if name:
                self._enter(name, "the result")

    def _on_core(self, node: Node, values: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.domain == "":
            qdq.check_operands(node)
            convert = self._quantise if node.op_type == "QuantizeLinear" else self._dequantise
            return (convert(node, values[0]),)
        rule = rule_of(node)
        if rule is None:
            raise unsupported(node)
        for value in values:
            if isinstance(value, Opaque):
                raise UnsupportedError("import", node.name, value.reason, "it runs on the host")
        view = NodeView.of(
            node,
            values,
            self.model.opset,
            metadata=self.metadata,
            used=frozenset(
                name for name in node.outputs if name in self.model.readers or name in self.model.outputs
            ),
            scope=self.values,
            demand=lambda index: self._demand(node, index),
            in_float=self.in_float,
            noted=lambda index, value: self.weights.__setitem__((node.name, index), value),
        )
        rule.check(view)
        results = rule.convert(self.builder, view)
        return results if isinstance(results, tuple) else (results,)

    def _demand(self, node: Node, index: int) -> Func | None:
        """Operand `index` as integers, in the format chosen for it; None where it has none."""
        name = node.inputs[index]
        value = self.values[name]
        if isinstance(value, Const | Opaque | Quant):
            return None
        if isinstance(value, Func) and value.pure:
            return value
        chosen = self._chosen(name, value)
        return None if chosen is None else self._settle(name, value, chosen)

    def _folded(self, node: Node, values: tuple[Const | None, ...]) -> bool:
        """Compute a node of constants alone; quantised weights keep their integers where elements only move.

        False where it cannot be computed: then the host does it.
        """
        if node.op_type == "DequantizeLinear":
            try:
                qdq.check_operands(node)
                self.values[node.outputs[0]] = qdq.dequantised_constant(node, self.values, values[0])
                return True
            except ModelError:
                raise
            except CompileError:
                # It is a constant all the same, in float.
                pass
        try:
            results = evaluate(
                node.proto, self.model.opset, [None if value is None else value.array for value in values]
            )
        except CompileError:
            return False
        for name, array in zip(node.outputs, results, strict=False):
            if name:
                self.values[name] = Const(array)
        first = values[0] if values else None
        if first is not None and first.ints is not None:
            self._keep_integers(node, first, results[0])
        return True

    def _keep_integers(self, node: Node, first: Const, result: np.ndarray) -> None:
        if node.op_type == "Identity":
            self.values[node.outputs[0]] = first
        elif node.op_type == "Transpose":
            perm = node.attrs.get("perm", list(range(first.array.ndim))[::-1])
            self.values[node.outputs[0]] = replace(
                first,
                array=result,
                ints=first.ints.transpose(perm),
                axis=list(perm).index(first.axis % first.array.ndim),
            )
        elif node.op_type in ("Reshape", "Flatten", "Squeeze", "Unsqueeze") and first.scale.size == 1:
            self.values[node.outputs[0]] = replace(first, array=result, ints=first.ints.reshape(result.shape))

    def _quantise(self, node: Node, value: Value) -> Value:
        dtype = qdq.quantised_type(node, self.values)
        if dtype not in _INTEGERS:
            raise QuantiseError(
                "quantise",
                node.name,
                f"activations of type {dtype} are not supported",
                "quantise to int8 or uint8",
            )
        if isinstance(value, Opaque):
            raise UnsupportedError("import", node.name, value.reason, "it runs on the host")
        scale, zero = qdq.format_of(node, self.values, dtype == np.uint8)
        tensor = self.builder.quantise(value, node.name, node.outputs[0], scale, zero)
        return Quant(tensor, self.builder.tensors[tensor].shape, unsigned=dtype == np.uint8)

    def _dequantise(self, node: Node, value: Value) -> Value:
        if isinstance(value, Opaque):
            raise UnsupportedError("import", node.name, value.reason, "it runs on the host")
        if not isinstance(value, Quant):
            raise ModelError(
                "quantise",
                node.name,
                "DequantizeLinear of a value that is not quantised",
                "correct the model",
            )
        scale, zero = qdq.format_of(node, self.values, value.unsigned)
        tensor = self.builder.tensors[value.tensor]
        pure = (tensor.scale, tensor.zero_point) == (scale, zero)
        return Func(value.tensor, value.shape, dequantised(scale, zero), pure)

    # The result.

    def _result(self) -> Walk:
        builder, model = self.builder, self.model
        hosted = {
            name
            for node in model.nodes
            if node.name in self.refused or node.name in self.both
            for name in node.outputs
        }
        made = {node.output for node in builder.nodes}
        new = {tensor: name for name, tensor in self.leaving.items() if tensor != name}
        final = set(self.leaving)
        # A tensor that already bears the name of one that leaves, or of one of the host's, without being it
        # gives way.
        for name in made:
            if name not in new and (name in hosted or name in final) and self.leaving.get(name) != name:
                new[name] = builder.fresh(f"{name}_on_core" if name in hosted else f"{name}_before")

        def named(name: str) -> str:
            return new.get(name, name)

        outside = {tensor: name for name, tensor in self.leaving.items()}
        tensors = {}
        for old, tensor in builder.tensors.items():
            dtype = tensor.dtype
            if old in outside:
                dtype = self._type_outside(outside[old])
            tensors[named(old)] = replace(tensor, name=named(old), dtype=dtype)
        nodes = [
            replace(node, inputs=tuple(map(named, node.inputs)), output=named(node.output))
            for node in builder.nodes
        ]
        live, kept = set(self.leaving), []
        for node in reversed(nodes):
            if node.output in live:
                live.update(node.inputs)
                kept.append(node)
        kept.reverse()
        made = {node.output for node in kept}
        read = {name for node in kept for name in node.inputs}
        entering = [
            name for name in tensors if name in read and name not in made and tensors[name].data is None
        ]
        return Walk(
            model=model,
            tensors={name: tensor for name, tensor in tensors.items() if name in made or name in read},
            nodes=tuple(kept),
            entering=tuple(entering),
            leaving=tuple(self.leaving),
            refused=self.refused,
            both=frozenset(self.both),
            held=frozenset(name for name, value in self.values.items() if isinstance(value, Const)),
            wanting=frozenset(self.wanting),
            marks=Marks(formats=self.formats, weights=self.weights),
        )

    def _type_outside(self, name: str) -> str:
        known = self.model.type_of(name).dtype
        return known.name if known is not None and known.name in BOUNDARY else "float32"
