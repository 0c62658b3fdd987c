"""Functions that a file defines for itself, as the nodes that they stand for."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx.inliner import inline_local_functions

from systolith.compiler.base.boundary import told
from systolith.compiler.base.errors import ModelError, UnsupportedError
from systolith.compiler.base.proto import graphs_of, subgraphs

__all__ = ["inline_functions"]

#: Nodes that a model may have once its functions are written out: a few lines can ask for any number.
_MOST = 200_000
_Key = tuple[str, str]


def inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without functions of its own.

    Raises
    ------
    ModelError         If a function calls itself, or onnx cannot inline one.
    UnsupportedError   If the model would have more than `_MOST` nodes.
    """
    if not model.functions:
        return model
    bodies: dict[_Key, list[_Key]] = {
        (function.domain, function.name): [(node.domain, node.op_type) for node in _inside(function.node)]
        for function in model.functions
    }
    sizes: dict[_Key, int] = {}
    calls = [(node.domain, node.op_type) for graph in graphs_of(model.graph) for node in graph.node]
    if sum(_size(call, bodies, sizes, ()) for call in calls) > _MOST:
        raise UnsupportedError(
            "import",
            model.functions[0].name,
            f"with its functions written out the model has more than {_MOST:,} nodes",
            "export a smaller model",
        )
    with told(ModelError, "import", "", "onnx cannot inline its functions", "export the model without them"):
        return inline_local_functions(model)


def _inside(nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Nodes, and those of their subgraphs at any depth."""
    found = []
    for node in nodes:
        found.append(node)
        for graph in subgraphs(node):
            found += _inside(graph.node)
    return found


def _size(key: _Key, bodies: dict[_Key, list[_Key]], sizes: dict[_Key, int], above: tuple[_Key, ...]) -> int:
    """Nodes that one call becomes."""
    if key not in bodies:
        return 1
    if key in above:
        raise ModelError("import", key[1], "this function calls itself", "export the model again")
    if key not in sizes:
        inside = (_size(call, bodies, sizes, (*above, key)) for call in bodies[key])
        sizes[key] = min(sum(inside), _MOST + 1)
    return sizes[key]
