"""Activation functions of recurrent cells, as ONNX names them, as nodes of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from systolith.compiler.passes.emitter import Emitter

__all__ = ["GateFunction", "apply_function", "gate_functions"]


@dataclass(frozen=True, slots=True)
class _Kind:
    """A function: its parameters with ONNX's default each, None where there is none; `operator` is the
    operator of ONNX that computes it, which takes them as attributes, or ''."""

    operator: str = ""
    alpha: bool = False
    beta: bool = False
    defaults: tuple[float | None, float | None] = (None, None)


_KINDS = {
    "sigmoid": _Kind("Sigmoid"),
    "tanh": _Kind("Tanh"),
    "relu": _Kind("Relu"),
    "softsign": _Kind("Softsign"),
    "softplus": _Kind("Softplus"),
    "leakyrelu": _Kind("LeakyRelu", alpha=True, defaults=(0.01, None)),
    "elu": _Kind("Elu", alpha=True, defaults=(1.0, None)),
    # ONNX says 1 where alpha is left out, and ONNX Runtime takes 0: such a node has no meaning to keep.
    "thresholdedrelu": _Kind("ThresholdedRelu", alpha=True),
    "hardsigmoid": _Kind("HardSigmoid", alpha=True, beta=True, defaults=(0.2, 0.5)),
    "affine": _Kind(alpha=True, beta=True),
    "scaledtanh": _Kind(alpha=True, beta=True),
}
#: The first version of ONNX's operators that has ThresholdedRelu.
_THRESHOLDED = 10


@dataclass(frozen=True, slots=True)
class GateFunction:
    """A function with its parameters, None where it has none."""

    kind: str
    alpha: float | None = None
    beta: float | None = None

    @property
    def nodes(self) -> int:
        """How many nodes compute it."""
        return {"affine": 2, "scaledtanh": 3}.get(self.kind, 1)


def gate_functions(
    attrs: Mapping[str, Any], standard: tuple[str, ...], directions: int, opset: int
) -> list[tuple[GateFunction, ...]] | None:
    """The functions of each direction of a recurrent node; None where one is unknown, or lacks a parameter
    that has no default.

    Parameters
    ----------
    attrs    : of the node
    standard : names of the operator's own functions, for one direction
    opset    : version of ONNX's operators
    """
    names = [name.decode().lower() for name in attrs.get("activations", ())]
    names = names or [name.lower() for name in standard] * directions
    if len(names) != len(standard) * directions:
        return None
    alphas, betas = (iter(attrs.get(f"activation_{key}", ())) for key in ("alpha", "beta"))
    found = []
    for name in names:
        kind = _KINDS.get(name)
        if kind is None or (name == "thresholdedrelu" and opset < _THRESHOLDED):
            return None
        # Values stand in the order of the functions that have such a parameter.
        alpha = next(alphas, kind.defaults[0]) if kind.alpha else None
        beta = next(betas, kind.defaults[1]) if kind.beta else None
        if (kind.alpha and alpha is None) or (kind.beta and beta is None):
            return None
        found.append(GateFunction(name, alpha, beta))
    size = len(standard)
    return [tuple(found[size * d : size * (d + 1)]) for d in range(directions)]


def apply_function(
    emitter: Emitter, function: GateFunction, x: str, label: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> str:
    """Nodes that compute the function of `x`; the name of their result."""
    operator = _KINDS[function.kind].operator
    if operator:
        return emitter.add(operator, (x,), label, shape, alpha=function.alpha, beta=function.beta)
    alpha, beta = (
        emitter.constant(f"{label}_{key}", np.array(value, dtype))
        for key, value in (("alpha", function.alpha), ("beta", function.beta))
    )
    if function.kind == "affine":
        return emitter.add(
            "Add", (emitter.add("Mul", (x, alpha), f"{label}_product", shape), beta), label, shape
        )
    inner = emitter.add("Mul", (x, beta), f"{label}_inner", shape)
    return emitter.add("Mul", (emitter.add("Tanh", (inner,), f"{label}_tanh", shape), alpha), label, shape)
