"""What Resize does along one axis, as a matrix; and as a kernel that moves evenly, where it is one."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from systolith.compiler.base.runtime import session

__all__ = ["Kernel", "axis_matrix", "chosen_indices", "even_kernel", "integers"]

#: Below it a weight is float32's rounding.
_NOTHING = 1e-6


def axis_matrix(
    node: onnx.NodeProto, opset: int, extent: int, scale: float, out: int | None, roi: tuple[float, float]
) -> np.ndarray | None:
    """float64 [extent, out] of Resize or Upsample along one axis, by ONNX Runtime; None where zeros do not
    give zeros.

    Parameters
    ----------
    scale : float      as the node states it
    out : int or None  extent of the result, where the node states sizes in place of scales
    roi : (float, float)
    """
    attributes = {
        a.name: helper.get_attribute_value(a) for a in node.attribute if a.name not in ("axes", "scales")
    }
    scales = np.array([1, 1, 1, scale], np.float32)
    names, constants = ["x"], []
    if node.op_type == "Upsample" and opset < 9:
        attributes["scales"] = scales.tolist()
    elif node.op_type == "Upsample" or opset < 11:
        names, constants = ["x", "scales"], [numpy_helper.from_array(scales, "scales")]
    else:
        # Before opset 13 scales cannot be left out, but may be empty.
        left_out = "" if opset >= 13 else "none"
        names = ["x", "roi", "scales"] if out is None else ["x", "roi", left_out, "sizes"]
        bounds = np.array([0, 0, 0, roi[0], 1, 1, 1, roi[1]], np.float32)
        constants = [numpy_helper.from_array(bounds, "roi")]
        if out is not None and left_out:
            constants.append(numpy_helper.from_array(np.zeros(0, np.float32), left_out))
        constants.append(
            numpy_helper.from_array(scales, "scales")
            if out is None
            else numpy_helper.from_array(np.array([1, 1, extent + 1, out], np.int64), "sizes")
        )
    graph = helper.make_graph(
        [helper.make_node(node.op_type, names, ["y"], **attributes)],
        "axis",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, extent + 1, extent])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    # A row per element, and one of zeros.
    rows = np.eye(extent + 1, extent, dtype=np.float32)[None, None]
    (result,) = session(model).run(None, {"x": rows})
    matrix = result[0, 0].astype(np.float64)
    if np.any(matrix[extent]):
        return None
    matrix = matrix[:extent]
    matrix[np.abs(matrix) < _NOTHING] = 0
    return matrix


def chosen_indices(matrix: np.ndarray) -> np.ndarray | None:
    """The index that each result takes, where it takes one; else None."""
    if np.all((matrix != 0).sum(axis=0) == 1) and np.all(matrix[matrix != 0] == 1):
        return matrix.argmax(axis=0)
    return None


@dataclass(frozen=True, eq=False)
class Kernel:
    """``y[o] = sum_t weights[o % up, t] * x[clamp(o // up * down + first + t)]``.

    Parameters
    ----------
    weights : float64 [up, taps]
    up, down, first : int
    """

    weights: np.ndarray
    up: int
    down: int
    first: int

    def matrix(self, extent: int, out: int) -> np.ndarray:
        """What it does to an axis, as `axis_matrix` gives it."""
        matrix = np.zeros((extent, out))
        for o in range(out):
            for tap, weight in enumerate(self.weights[o % self.up]):
                at = o // self.up * self.down + self.first + tap
                matrix[min(max(at, 0), extent - 1), o] += weight
        return matrix


def even_kernel(matrix: np.ndarray) -> Kernel | None:
    """The kernel that the matrix moves evenly along the axis, the axis continued by its ends; None where it
    is not one."""
    extent, out = matrix.shape
    ratio = Fraction(out, extent)
    up, down = ratio.numerator, ratio.denominator
    if up > 1 and down > 1:
        return None
    steps = -(-out // up)
    found: dict[int, dict[int, float]] = {}
    for phase in range(min(up, out)):
        step = min(steps // 2, (out - 1 - phase) // up)
        column = matrix[:, phase + step * up]
        found[phase] = {int(i) - step * down: float(column[i]) for i in np.flatnonzero(column)}
    offsets = [offset for taps in found.values() for offset in taps]
    if not offsets:
        return None
    first, last = min(offsets), max(offsets)
    weights = np.zeros((up, last - first + 1))
    for phase, taps in found.items():
        for offset, weight in taps.items():
            weights[phase, offset - first] = weight
    kernel = Kernel(weights, up, down, first)
    return kernel if np.allclose(kernel.matrix(extent, out), matrix, atol=1e-5) else None


def integers(weights: np.ndarray, phases: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """int8 numbers and the scale that come closest to real ones, the sum of each phase among them.

    Parameters
    ----------
    phases : int array, of the same shape   which weights make a result together; None: all do
    """
    most = np.abs(weights).max(initial=0)
    if not most:
        return np.zeros(weights.shape, np.int8), 1.0
    candidates = np.arange(int(64 / most) + 1, int(127 / most) + 1) if most <= 32 else np.array([127 / most])
    errors = [np.abs(np.rint(weights * c) / c - weights).max() for c in candidates]
    best = float(candidates[int(np.argmin(np.round(errors, 9)))])
    exact = (weights * best).ravel()
    ints = np.rint(exact)
    phases = np.zeros(weights.size, np.int64) if phases is None else phases.ravel()
    for phase in np.unique(phases):
        # A wrong sum is heard, or seen, more than a wrong weight: those nearest to the other side give way.
        (own,) = np.nonzero((phases == phase) & (exact != 0))
        lacks = int(np.rint(exact[own].sum() - ints[own].sum()))
        nearest = own[np.argsort(np.sign(lacks) * (ints[own] - exact[own]))[: abs(lacks)]]
        ints[nearest] += np.sign(lacks)
    return np.clip(ints, -127, 127).astype(np.int8).reshape(weights.shape), 1.0 / best
