"""State that a model carries through its own inputs and outputs: `h` in, `hn` out, to be given as `h`
again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from systolith.compiler.base.boundary import told
from systolith.compiler.base.errors import QuantiseError, StateError
from systolith.compiler.base.model import Model
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
    model  : Model                without the bound outputs and inputs; its recurrent nodes begin with zeros
    inputs : output -> input      as the user bound them
    nodes  : operand -> names     of the recurrent nodes, by input
    whole  : Model                the model as it was
    """

    model: Model
    inputs: dict[str, str]
    nodes: dict[str, str]
    whole: Model

    def samples(self, samples: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """Calibration samples, which follow one another in a stream, with the state before each; zero before
        the first.

        Raises
        ------
        QuantiseError   If ONNX Runtime cannot run the model on them.
        """
        state = {
            name: np.zeros(self.whole.shape_of(name), self.whole.type_of(name).dtype) for name in self.nodes
        }
        found = []
        names = list(self.inputs)
        with told(
            QuantiseError,
            "quantise",
            "",
            "ONNX Runtime could not run the model",
            "check that it runs the model on the calibration data",
        ):
            whole = session(self.whole.to_proto())
            for sample in samples:
                found.append({**sample, **state})
                state = dict(zip(self.inputs.values(), whole.run(names, found[-1]), strict=True))
        return found


def bind_states(model: Model, states: Mapping[str, str]) -> BoundStates:
    """Bind outputs to the inputs that they are to be given as in the next run.

    Parameters
    ----------
    model  : Model             with static shapes
    states : output -> input

    Raises
    ------
    StateError   Naming the output or input that is not what it must be.
    """
    inputs, outputs, producer, readers = model.inputs, model.outputs, model.producer, model.readers
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
            and readers[name][0].inputs[0] == name
        ):
            name = readers[name][0].outputs[0]
        node = readers[name][0] if len(readers.get(name, ())) == 1 else None
        operand = node.inputs.index(name) if node is not None and name in node.inputs else -1
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
            name = producer[name].inputs[0]
        if index >= len(node.outputs) or node.outputs[index] != name:
            raise StateError(
                "import",
                output,
                f"it is bound to {source!r}, {role} of {node.name!r}, but it is not {result} of that node",
                f"bind the output that holds {result}",
            )
        owners[source] = node.name
        operands.setdefault(node.name, set()).add(operand)
    nodes = model.by_name
    for name, found in operands.items():
        for operand, (_, role, _) in _RESULT_OF.items():
            node = nodes[name]
            if operand not in found and operand < len(node.inputs) and node.inputs[operand]:
                raise StateError(
                    "import",
                    node.inputs[operand],
                    f"it is {role} of {name!r}, whose other state is bound",
                    "bind both states of the node",
                )
    outputs = tuple(name for name in outputs if name not in states)
    if not outputs:
        raise StateError(
            "import",
            next(iter(states)),
            "every output of the model is bound as a state",
            "leave one output that is a result",
        )
    return BoundStates(
        model=_cut_off(replace(model, outputs=outputs), owners),
        inputs=dict(states),
        nodes=owners,
        whole=model,
    )


def _cut_off(model: Model, owners: Mapping[str, str]) -> Model:
    """The model without the bound inputs: their recurrent nodes begin with zeros."""
    bound = set(owners.values())
    nodes = [
        replace(
            node,
            inputs=tuple("" if at in _RESULT_OF else name for at, name in enumerate(node.inputs)),
        )
        if node.name in bound
        else node
        for node in model.nodes
    ]
    inputs = tuple(name for name in model.inputs if name not in owners)
    return replace(model, inputs=inputs).with_nodes(nodes).without_dead_nodes()
