"""How far the cell states of an LSTM reach, in float."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from systolith.compiler.base.model import Node
from systolith.compiler.ops.recurrent import gate_weights

__all__ = ["cell_states"]


def cell_states(node: Node, operands: Sequence[np.ndarray | None]) -> list[float]:
    """Largest magnitude of the cell state over a sequence, per direction.

    Parameters
    ----------
    node     : LSTM
    operands : X [T, N, I], W, R, B, lengths, initial_h, initial_c as ONNX defines them; None where left out
    """

    def operand(index: int) -> np.ndarray | None:
        return operands[index] if index < len(operands) else None

    x, w, r, b, lengths, initial_h, initial_c = (operand(index) for index in range(7))
    direction = node.attrs.get("direction", b"forward").decode()
    result = []
    for d in range(len(w)):
        weights, recurrent, bias = gate_weights(
            "LSTM", w[d], r[d], None if b is None else b[d], bool(node.attrs.get("input_forget", 0))
        )
        h = np.zeros((x.shape[1], r.shape[2])) if initial_h is None else initial_h[d]
        c = np.zeros_like(h) if initial_c is None else initial_c[d]
        largest = float(np.abs(c).max(initial=0.0))
        frames = x[:: -1 if direction == "reverse" or d == 1 else 1]
        if lengths is not None and direction == "forward":
            frames = frames[: int(np.max(lengths, initial=0))]
        # The sequence's product with the weights at once: the steps only add the state's.
        of_input = np.einsum("ghi,tni->tgnh", weights, frames, optimize=True) + bias[None, :, None]
        for entering in of_input:
            i, f, g, o = entering + np.einsum("ghk,nk->gnh", recurrent, h, optimize=True)
            with np.errstate(over="ignore"):
                i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
            c = f * c + i * np.tanh(g)
            h = o * np.tanh(c)
            largest = max(largest, float(np.abs(c).max(initial=0.0)))
        result.append(largest)
    return result
