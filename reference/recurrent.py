"""Recurrent layers (LSTM, GRU, RNN) in one direction."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from systolith.reference.graph import Op
from systolith.spec import cells, numerics
from systolith.spec.isa import Cell

__all__ = ["Recurrent"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Recurrent(Op):
    """A layer that steps through a sequence; x is [T, N, I], the result [T, 1, N, H], as ONNX has them.

    The pre-activation of gate g and unit u is ``requantise(weights[g, u] @ (x - x_zero) + recurrent[g, u] @ h
    + bias[g, u])``, int16 with 12 fractional bits; the int8 hidden state h has 7 fractional bits and no zero
    point. The rules are in `spec.cells`.

    With `wide`, the h of the recurrence has 16 bits, 15 of them fractional, and the sums are 256 times as
    fine: ``requantise(256 * weights[g, u] @ (x - x_zero) + recurrent[g, u] @ h + bias[g, u])``. The result
    holds its rounded high byte.

    With `given`, the state before the first step comes with the operands, each int8 [N, H]: hidden state, low
    and high byte of the state, and with `wide` the hidden state's low byte. With `cell`, the result has two
    more rows than steps: low and high byte of the last state.

    Parameters
    ----------
    kind : Cell
    weights : int16 [G, H, I]      G = kind.gates; zero where a gate does not see the input. Beyond int8 they
              are a sum of int8 planes
    recurrent : int8 [G, H, H]     zero where a gate does not see the state
    bias : int32 [G, H]
    mult, shift : int [G, H]       requantisation of each pre-activation
    x_zero : int
    cell_shift : int               LSTM: 12 minus the fractional bits of the cell state, 0 to 7
    alpha : int                    RNN: 2**15 times the share of the new value
    reverse : bool                 step from the end of the sequence to its beginning
    wide : bool                    hidden state of 16 bits
    hidden : int8 [N, H]           before the first step; int16 with `wide`
    state : int16 [N, H]           cell state of an LSTM, else the hidden state with 15 fractional bits,
            before the first step
    carried : bool                 a run continues from where the run before ended; `hidden` and `state` are
              for the first
    given, cell : bool
    """

    kind: Cell
    weights: np.ndarray
    recurrent: np.ndarray
    bias: np.ndarray
    mult: np.ndarray
    shift: np.ndarray
    x_zero: int
    cell_shift: int = 0
    alpha: int = 1 << cells.UNIT_FRAC
    reverse: bool = False
    wide: bool = False
    hidden: np.ndarray
    state: np.ndarray
    carried: bool = False
    given: bool = False
    cell: bool = False
    stateful = True

    @property
    def planes(self) -> int:
        """int8 arrays whose sum is `weights`."""
        return max(1, -(-int(np.abs(self.weights.astype(np.int64)).max()) // 127))

    @property
    def unit(self) -> int:
        """What a product of the input counts in the sums."""
        return 256 if self.wide else 1

    @property
    def units(self) -> int:
        """H."""
        return int(self.weights.shape[1])

    def run(self, x: np.ndarray, *first: np.ndarray) -> np.ndarray:
        """int8 [T, 1, N, H] of x [T, N, I], from the beginning, which is `first` where it is given."""
        if not self.given:
            return self.step(x, None)[0]
        hidden, low, high, *rest = (part.astype(np.int64) for part in first)
        if self.wide:
            hidden = 256 * hidden + rest[0]
        return self.step(x, (hidden, 256 * high + (low & 255)))[0]

    def step(
        self, x: np.ndarray, carried: tuple[np.ndarray, np.ndarray] | None
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """The same from the (hidden, state) that the run before left, and what this one leaves; None: from
        the beginning."""
        h, state = (
            carried if carried is not None else (self.hidden.astype(np.int64), self.state.astype(np.int64))
        )
        result = np.empty((x.shape[0], 1, x.shape[1], self.units), np.int8)
        inputs = (
            np.einsum(
                "ghi,tni->tgnh", self.weights.astype(np.float64), x.astype(np.float64) - self.x_zero
            ).astype(np.int64)
            * self.unit
        )
        for t in range(x.shape[0])[:: -1 if self.reverse else 1]:
            recurrent = np.einsum(
                "ghk,nk->gnh", self.recurrent.astype(np.float64), h.astype(np.float64)
            ).astype(np.int64)
            sums = inputs[t] + recurrent + self.bias[:, None].astype(np.int64)
            gates = numerics.requantise(
                sums,
                self.mult[:, None].astype(np.int64),
                self.shift[:, None].astype(np.int64),
                0,
                cells.GATE.min,
                cells.GATE.max,
            )
            if self.kind is Cell.LSTM:
                i, f, g, o = gates
                state, h = cells.lstm(i, f, g, o, state, self.cell_shift, self.wide)
            elif self.kind is Cell.GRU:
                r, z, new, h_part = gates
                state, h = cells.gru(r, z, new, h_part, state, self.wide)
            else:
                state, h = cells.rnn(gates[0], state, self.alpha, self.wide)
            result[t, 0] = cells.split(h)[0] if self.wide else h
        if self.cell:
            low, high = (state & 255).astype(np.uint8).view(np.int8), (state >> 8).astype(np.int8)
            result = np.concatenate([result, low[None, None], high[None, None]])
        return result, (h, state)

    def carrying(self) -> Op:
        """The same layer, continuing where the run before ended."""
        if self.given:
            raise ValueError("its first state is computed")
        if self.reverse:
            raise ValueError("it runs from the end of the sequence, which a stream does not have")
        return replace(self, carried=True)

    @property
    def first_bytes(self) -> np.ndarray:
        """int8 [N, 3, H]: hidden state, low and high bytes of the state, before the first step; [N, 4, H]
        with the hidden state's low bytes last."""
        state, hidden = self.state.astype(np.int64), self.hidden.astype(np.int64)
        parts = (hidden,) if not self.wide else cells.split(hidden)
        return (
            np.stack([parts[0], state & 255, state >> 8, *parts[1:]], axis=1).astype(np.uint8).view(np.int8)
        )

    def macs(self, *shapes: tuple[int, ...]) -> int:
        """Multiply-accumulates; a gate that does not see the input, or the state, has none there."""
        halves = (self.weights, self.recurrent)
        seen = int(sum(part.size for half in halves for part in half if part.any()))
        steps, batch, _ = shapes[0]
        return steps * batch * seen
