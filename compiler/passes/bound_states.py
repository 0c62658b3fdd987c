"""State that a model carries through its own inputs and outputs: `h` in, `hn` out, to be given as `h`
again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from systolith.compiler.base.boundary import told
from systolith.compiler.base.errors import QuantiseError, StateError
from systolith.compiler.base.runtime import session
from systolith.compiler.ops.recurrent import OPERATORS

__all__ = ["BoundStates", "bind_states"]

#: Operators through which a state may pass between the model's boundary and its node.
_MOVERS = ("Identity", "Reshape", "Squeeze", "Unsqueeze")
#: Per operand of a recurrent node that holds a state, the result that holds the next one, and its name in
#: ONNX.
_RESULT_OF = {5: (1, "initial_h", "Y_h"), 6: (2, "initial_c", "Y_c")}


@dataclass(frozen=True, eq=False)
class BoundStates:
    """The states of a model that stay on the core.

    Parameters
    ----------
    model  : ModelProto           without the outputs that are bound
    inputs : output -> input      as the user bound them
    nodes  : operand -> names     of the recurrent nodes, by input
    whole  : ModelProto           the model as it was
    """

    model: onnx.ModelProto
    inputs: dict[str, str]
    nodes: dict[str, str]
    whole: onnx.ModelProto

    def samples(self, samples: Sequence[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """Calibration samples, which follow one another in a stream, with the state before each; zero before
        the first.

        Raises
        ------
        QuantiseError   If ONNX Runtime cannot run the model on them.
        """
        state = {}
        for value in self.whole.graph.input:
            if value.name in self.nodes:
                kind = value.type.tensor_type
                state[value.name] = np.zeros(
                    [dim.dim_value for dim in kind.shape.dim],
                    onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type),
                )
        found = []
        names = list(self.inputs)
        with told(
            QuantiseError,
            "quantise",
            "",
            "ONNX Runtime could not run the model",
            "check that it runs the model on the calibration data",
        ):
            whole = session(self.whole)
            for sample in samples:
                found.append({**sample, **state})
                state = dict(zip(self.inputs.values(), whole.run(names, found[-1]), strict=True))
        return found

    def cut_off(self, core: onnx.ModelProto) -> onnx.ModelProto:
        """The core's part of the model without the bound inputs: its recurrent nodes begin with zeros."""
        result = onnx.ModelProto()
        result.CopyFrom(core)
        nodes = {node.name: node for node in result.graph.node}
        for name in self.nodes.values():
            node = nodes[name]
            for operand in _RESULT_OF:
                if operand < len(node.input):
                    node.input[operand] = ""
        kept = [value for value in result.graph.input if value.name not in self.nodes]
        del result.graph.input[:]
        result.graph.input.extend(kept)
        read = {name for node in result.graph.node for name in node.input}
        live = [
            node
            for node in result.graph.node
            if node.op_type not in _MOVERS
            or read.intersection(node.output)
            or {v.name for v in result.graph.output}.intersection(node.output)
        ]
        del result.graph.node[:]
        result.graph.node.extend(live)
        return result


def bind_states(model: onnx.ModelProto, states: Mapping[str, str]) -> BoundStates:
    """Bind outputs to the inputs that they are to be given as in the next run.

    Parameters
    ----------
    model  : ModelProto        with static shapes and named nodes
    states : output -> input

    Raises
    ------
    StateError   Naming the output or input that is not what it must be.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in constants}
    outputs = [value.name for value in graph.output]
    producer = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in filter(None, node.input):
            readers.setdefault(name, []).append(node)
    owners: dict[str, str] = {}
    operands: dict[str, set[int]] = {}
    for output, source in states.items():
        if output not in outputs:
            raise StateError(
                "import",
                output,
                "no output of the model has this name, so no state can be bound to it",
                f"the outputs are {', '.join(outputs)}",
            )
        if source not in inputs:
            raise StateError(
                "import",
                source,
                f"no input of the model has this name, so output {output!r} cannot be bound to it",
                f"the inputs are {', '.join(inputs)}",
            )
        if source in owners:
            raise StateError("import", source, "two outputs are bound to this input", "bind each input once")
        name = source
        while (
            len(readers.get(name, ())) == 1
            and readers[name][0].op_type in _MOVERS
            and readers[name][0].input[0] == name
        ):
            name = readers[name][0].output[0]
        node = readers[name][0] if len(readers.get(name, ())) == 1 else None
        operand = list(node.input).index(name) if node is not None else -1
        if node is None or node.op_type not in OPERATORS or operand not in _RESULT_OF:
            raise StateError(
                "import",
                source,
                f"output {output!r} is bound to it, but it is not the initial state of one LSTM, GRU or RNN "
                f"alone",
                "bind only the states of recurrent operators",
            )
        index, role, result = _RESULT_OF[operand]
        name = output
        while name in producer and producer[name].op_type in _MOVERS:
            name = producer[name].input[0]
        if index >= len(node.output) or node.output[index] != name:
            raise StateError(
                "import",
                output,
                f"it is bound to {source!r}, {role} of {node.name!r}, but it is not {result} of that node",
                f"bind the output that holds {result}",
            )
        owners[source] = node.name
        operands.setdefault(node.name, set()).add(operand)
    nodes = {node.name: node for node in graph.node}
    for name, found in operands.items():
        for operand, (_, role, _) in _RESULT_OF.items():
            node = nodes[name]
            if operand not in found and operand < len(node.input) and node.input[operand]:
                raise StateError(
                    "import",
                    node.input[operand],
                    f"it is {role} of {name!r}, whose other state is bound",
                    "bind both states of the node",
                )
    kept = onnx.ModelProto()
    kept.CopyFrom(model)
    del kept.graph.output[:]
    kept.graph.output.extend(value for value in graph.output if value.name not in states)
    if not kept.graph.output:
        raise StateError(
            "import",
            next(iter(states)),
            "every output of the model is bound as a state",
            "leave one output that is a result",
        )
    return BoundStates(model=kept, inputs=dict(states), nodes=owners, whole=model)
