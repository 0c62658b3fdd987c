"""Recurrent nodes with the batch first (layout = 1), which ONNX Runtime does not run: the same between
Transposes, with the time first."""

from __future__ import annotations

import onnx

__all__ = ["put_time_first"]

#: Operand -> permutation to time first; initial states lose and get their batch where directions and batch
#: change places.
_OPERANDS = {0: (1, 0, 2), 5: (1, 0, 2), 6: (1, 0, 2)}
#: Result -> permutation back to batch first.
_RESULTS = {0: (2, 0, 1, 3), 1: (1, 0, 2), 2: (1, 0, 2)}


def put_time_first(model: onnx.ModelProto) -> None:
    """Rewrite the model's recurrent nodes of layout 1; elements move, and none changes."""
    graph = model.graph
    for node in list(graph.node):
        layout = next((a for a in node.attribute if a.name == "layout"), None)
        if (
            node.op_type not in ("LSTM", "GRU", "RNN")
            or node.domain not in ("", "ai.onnx")
            or layout is None
            or not layout.i
        ):
            continue
        layout.i = 0
        position = list(graph.node).index(node)
        for index, perm in _RESULTS.items():
            if index < len(node.output) and node.output[index]:
                name, node.output[index] = node.output[index], f"{node.output[index]}_time_first"
                graph.node.insert(
                    position + 1,
                    onnx.helper.make_node(
                        "Transpose",
                        [node.output[index]],
                        [name],
                        name=f"{node.name}_batch_first{index}",
                        perm=perm,
                    ),
                )
        for index, perm in _OPERANDS.items():
            if index < len(node.input) and node.input[index]:
                name, node.input[index] = node.input[index], f"{node.name}_time_first{index}"
                graph.node.insert(
                    position,
                    onnx.helper.make_node(
                        "Transpose",
                        [name],
                        [node.input[index]],
                        name=f"{node.name}_time_first{index}",
                        perm=perm,
                    ),
                )
