"""Matrix products with constant weights on the array."""

from __future__ import annotations

import numpy as np

from systolith.compiler.lower.array import Layer, emit_rectangle
from systolith.compiler.lower.context import Lowering
from systolith.compiler.lower.pieces import Box, Operand, View, in_boxes
from systolith.compiler.lower.registry import Order, lowering
from systolith.compiler.lower.spatial import Views, Window
from systolith.compiler.lower.tile_blocks import dense_blocks
from systolith.reference.matmul import MatMul

__all__ = ["lower_matmul"]


@lowering(MatMul, order=Order.ROW_MAJOR, flattened=True, chains=True)
def lower_matmul(low: Lowering, op: MatMul) -> None:
    """MatMul: a 1 x 1 convolution over the rows of x, its weight rows in the order in which x lies in
    memory."""
    place_x, place_y = (low.places[name] for name in (low.node.inputs[0], low.result))
    weights = op.weights if place_x.layout.flatten is None else op.weights[place_x.layout.flatten]
    k, m = weights.shape
    blocks = dense_blocks(
        np.ascontiguousarray(weights.T)[:, :, None, None], 1, 1, low.arch.rows, low.arch.cols
    )
    bias = op.bias.astype(np.int64) - op.x_zero * weights.astype(np.int64).sum(axis=0)
    rows = place_x.bytes // k
    window = Window(
        x=(1, 1, rows, k), y=(1, 1, rows, m), kernel=(1, 1), strides=(1, 1), dilations=(1, 1), pads=(0, 0)
    )
    operands = [
        Operand(
            name=low.node.inputs[0],
            place=place_x,
            extents=(1, rows, k),
            window=lambda box: (*box[:2], range(k)),
        )
    ]
    if low.chain is not None:
        operands.append(
            Operand(name=low.chain.other, place=low.places[low.chain.other], extents=(1, rows, m))
        )

    layer = Layer(window=window, pad=op.x_zero, bias=bias)

    def compute(box: Box, result: View, views: list[View]) -> None:
        emit_rectangle(
            low,
            layer,
            Views(views[0], result, views[1] if len(views) > 1 else None),
            blocks,
            op.requant,
            box[0],
            box[1],
            (),
        )

    in_boxes(low, Operand(name=low.result, place=place_y, extents=(1, rows, m)), operands, (1,), compute)
