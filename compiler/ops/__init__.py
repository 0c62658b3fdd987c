"""One file per operator family; importing this package fills `registry.RULES`."""

from systolith.compiler.ops import (
    add,
    average_pool,
    concat,
    conv,
    lookup,
    matmul,
    max_pool,
    mul,
    recurrent,
    scan,
    shape,
)
from systolith.compiler.ops.registry import RULES

__all__ = [
    "RULES",
    "add",
    "average_pool",
    "concat",
    "conv",
    "lookup",
    "matmul",
    "max_pool",
    "mul",
    "recurrent",
    "scan",
    "shape",
]
