"""Reverse-mode derivatives of NumPy expressions: what the training of small recurrent networks needs, and no
more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["Value", "concat", "convolve"]


class Value:
    """An array, and how its gradient goes back to what it was computed from.

    Members
    -------
    data : array
    grad : array with the same shape, once `backward` has run
    """

    def __init__(
        self, data: np.ndarray, parents: Sequence[tuple[Value, Callable[[np.ndarray], np.ndarray]]] = ()
    ) -> None:
        self.data, self._parents = data, parents
        self.grad = np.zeros_like(data)

    def __add__(self, other: Value) -> Value:
        return Value(
            self.data + other.data, [(v, lambda g, v=v: _summed(g, v.data.shape)) for v in (self, other)]
        )

    def __mul__(self, other: Value) -> Value:
        return Value(
            self.data * other.data,
            [
                (self, lambda g: _summed(g * other.data, self.data.shape)),
                (other, lambda g: _summed(g * self.data, other.data.shape)),
            ],
        )

    def __matmul__(self, other: Value) -> Value:
        """Product of two matrices."""
        return Value(
            self.data @ other.data, [(self, lambda g: g @ other.data.T), (other, lambda g: self.data.T @ g)]
        )

    def __getitem__(self, index) -> Value:
        """A basic index: no element twice."""

        def back(grad: np.ndarray) -> np.ndarray:
            whole = np.zeros_like(self.data)
            whole[index] = grad
            return whole

        return Value(self.data[index], [(self, back)])

    def reshape(self, *shape: int) -> Value:
        """As NumPy's."""
        return Value(self.data.reshape(shape), [(self, lambda g: g.reshape(self.data.shape))])

    def transpose(self, *axes: int) -> Value:
        """As NumPy's."""
        return Value(self.data.transpose(axes), [(self, lambda g: g.transpose(np.argsort(axes)))])

    def sigmoid(self) -> Value:
        """The logistic function."""
        y = 1 / (1 + np.exp(-self.data))
        return Value(y, [(self, lambda g: g * y * (1 - y))])

    def tanh(self) -> Value:
        """The hyperbolic tangent."""
        y = np.tanh(self.data)
        return Value(y, [(self, lambda g: g * (1 - y * y))])

    def relu(self) -> Value:
        """max(x, 0)."""
        return Value(np.maximum(self.data, 0), [(self, lambda g: g * (self.data > 0))])

    def complement(self) -> Value:
        """1 - x."""
        return Value(1 - self.data, [(self, lambda g: -g)])

    def backward(self, grad: np.ndarray) -> None:
        """Add the gradients of everything that this was computed from, for the gradient of this."""
        order, seen = [], set()

        def visit(value: Value) -> None:
            if id(value) not in seen:
                seen.add(id(value))
                for parent, _ in value._parents:
                    visit(parent)
                order.append(value)

        visit(self)
        self.grad = self.grad + grad
        for value in reversed(order):
            for parent, back in value._parents:
                parent.grad = parent.grad + back(value.grad)


def concat(values: Sequence[Value]) -> Value:
    """Join along the last axis."""
    ends = np.cumsum([value.data.shape[-1] for value in values])
    return Value(
        np.concatenate([value.data for value in values], axis=-1),
        [
            (value, lambda g, end=end, value=value: g[..., end - value.data.shape[-1] : end])
            for value, end in zip(values, ends, strict=True)
        ],
    )


def convolve(x: Value, weights: Value, bias: Value) -> Value:
    """3 x 3 convolution with pad 1 of N x C x H x W; weights are M x C x 3 x 3."""
    n, c, h, w = x.data.shape
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(x.data, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), axis=(2, 3)
    )

    def to_x(grad: np.ndarray) -> np.ndarray:
        spread = np.einsum("nmhw,mcij->nchwij", grad, weights.data)
        padded = np.zeros((n, c, h + 2, w + 2), grad.dtype)
        for i in range(3):
            for j in range(3):
                padded[:, :, i : i + h, j : j + w] += spread[..., i, j]
        return padded[:, :, 1:-1, 1:-1]

    product = np.einsum("nchwij,mcij->nmhw", windows, weights.data, optimize=True)
    return Value(
        product + bias.data[:, None, None],
        [
            (x, to_x),
            (weights, lambda g: np.einsum("nmhw,nchwij->mcij", g, windows, optimize=True)),
            (bias, lambda g: g.sum((0, 2, 3))),
        ],
    )


def _summed(grad: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of what was broadcast from this shape."""
    grad = grad.sum(axis=tuple(range(grad.ndim - len(shape))))
    return grad.sum(
        axis=tuple(i for i, extent in enumerate(shape) if extent == 1 and grad.shape[i] != 1), keepdims=True
    )
