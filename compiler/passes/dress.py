"""Every way of writing a quantised or fused operator as plain ONNX: one list of passes."""

from __future__ import annotations

from collections.abc import Callable

from systolith.compiler.base.model import Model
from systolith.compiler.passes.clips import clip_before_quantising
from systolith.compiler.passes.constants import fold_constants
from systolith.compiler.passes.conv1d import unwrap_convolutions
from systolith.compiler.passes.dynamic import expand_dynamic, expand_integer_products
from systolith.compiler.passes.einsum import expand_einsum
from systolith.compiler.passes.fused import own_domain, split_fused
from systolith.compiler.passes.norms import fold_norms
from systolith.compiler.passes.qoperators import expand_qoperators
from systolith.compiler.passes.weights import (
    dequantise_weights,
    move_weights,
    narrow_weights,
    weights_only,
)
from systolith.compiler.passes.zero_points import symmetric_weights

__all__ = ["PASSES", "plain", "weights_only"]

#: In this order; each states what it requires and ensures.
PASSES: tuple[Callable[[Model], Model], ...] = (
    fold_constants,
    own_domain,
    expand_dynamic,
    expand_integer_products,
    expand_qoperators,
    split_fused,
    expand_einsum,
    unwrap_convolutions,
    narrow_weights,
    move_weights,
    clip_before_quantising,
)


def plain(model: Model) -> Model:
    """The model in ONNX's own operators: float ones, between QuantizeLinear and DequantizeLinear where it is
    quantised.

    Requires the types of its tensors, as far as they can be inferred. Ensures that a model of which
    `weights_only` holds is in float; that the weights of any other have zero point 0 (uint8: 128); and that
    operators without such a form stay as they are, for the host.

    Raises
    ------
    ModelError, QuantiseError   Where a quantised operator contradicts itself, or statistics are no numbers.
    """
    for step in PASSES:
        model = step(model)
    model = dequantise_weights(model) if weights_only(model) else symmetric_weights(model)
    return fold_norms(model)
