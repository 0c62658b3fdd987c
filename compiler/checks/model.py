"""All checks of a model, in the order in which each may rely on those before it."""

from __future__ import annotations

from pathlib import Path

import onnx

from systolith.compiler.checks.constants import check_constants, load_external
from systolith.compiler.checks.file import read_file
from systolith.compiler.checks.names import check_names, drop_repeated_outputs
from systolith.compiler.checks.structure import check_structure
from systolith.compiler.passes.functions import inline_functions
from systolith.compiler.passes.upgrade import upgrade

__all__ = ["read_model"]


def read_model(source: str | Path | onnx.ModelProto) -> onnx.ModelProto:
    """A model from a file, or a copy of one, of which all is checked that needs no shapes.

    `check_shapes` follows once its shapes are static.

    Raises
    ------
    CompileError   One sentence that names the culprit.
    """
    if isinstance(source, onnx.ModelProto):
        model = onnx.ModelProto()
        model.CopyFrom(source)
        check_names(model)
    else:
        path = Path(source)
        model = read_file(path)
        check_names(model)
        load_external(model, path.parent)
    check_constants(model)
    model = upgrade(inline_functions(model))
    drop_repeated_outputs(model)
    check_structure(model)
    return model
