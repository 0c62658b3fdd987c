"""The quantiser's observations: one run of the model over the samples in ONNX Runtime, of which ranges,
shapes and cell states are kept, and no tensor is held.

What int8 covers of a tensor is its whole range (``minmax``), a percentile of its values, or the range that
loses the least energy to rounding and saturation together (``mse``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnxruntime

from systolith.compiler.base.boundary import told
from systolith.compiler.base.errors import QuantiseError
from systolith.compiler.base.formats import Format
from systolith.compiler.base.model import Model, Node, TensorType, array_type
from systolith.compiler.base.runtime import session, session_options
from systolith.compiler.recurrent import cell_states
from systolith.spec.ranges import RANGES

__all__ = ["Observed", "observe"]

#: Bins of a histogram; the range of all of them doubles where a value lies outside, so one run is enough.
_BINS = 4096
#: Shares of the whole range that ``mse`` tries.
_SHARES = np.linspace(1.0, 0.3, 36)
_RUNS = "check that ONNX Runtime runs it on the calibration data"


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What one run over the samples tells.

    Parameters
    ----------
    formats : int8 format of each float tensor that was observed, by name
    cells   : largest cell state of each direction, by the name of a recurrent node
    types   : element type and shape of every tensor that was observed
    """

    formats: Mapping[str, Format] = field(default_factory=dict)
    cells: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    types: Mapping[str, TensorType] = field(default_factory=dict)


class _Range:
    """Least and largest finite value, and where asked for a histogram of the values."""

    def __init__(self, bins: bool) -> None:
        self.low, self.high = 0.0, 0.0
        self.counts = np.zeros(_BINS) if bins else None
        self.reach = 0.0

    def add(self, array: np.ndarray) -> None:
        values = array if np.isfinite(array).all() else array[np.isfinite(array)]
        if not values.size:
            return
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        if self.counts is None:
            return
        largest = max(-self.low, self.high)
        if not self.reach:
            self.reach = largest
        while self.reach < largest:
            # Twice the range: two bins become one, in the middle half.
            half = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(_BINS)
            self.counts[_BINS // 4 : _BINS // 4 * 3] = half
            self.reach *= 2
        if self.reach:
            self.counts += np.histogram(values, _BINS, (-self.reach, self.reach))[0]

    def format(self, ranges: str, percentile: float) -> Format:
        if self.counts is None or not self.reach:
            return Format.covering(self.low, self.high)
        if ranges == "percentile":
            return Format.covering(*self._percentile(percentile))
        return self._least_error()

    @property
    def _centres(self) -> np.ndarray:
        width = 2 * self.reach / _BINS
        return -self.reach + width * (np.arange(_BINS) + 0.5)

    def _percentile(self, percentile: float) -> tuple[float, float]:
        share = np.cumsum(self.counts) / self.counts.sum()
        rest = (1 - percentile / 100) / 2
        edges = -self.reach + 2 * self.reach / _BINS * np.arange(_BINS + 1)
        low = edges[int(np.searchsorted(share, rest, side="right"))]
        high = edges[min(int(np.searchsorted(share, 1 - rest)) + 1, _BINS)]
        return max(self.low, float(low)), min(self.high, float(high))

    def _least_error(self) -> Format:
        centres, best = self._centres, (np.inf, Format.covering(self.low, self.high))
        for share in _SHARES:
            chosen = Format.covering(self.low * share, self.high * share)
            codes = np.clip(np.rint(centres / chosen.scale) + chosen.zero, -128, 127) - chosen.zero
            # Within a bin values are spread, so a step finer than a bin gains nothing.
            lost = float((self.counts * np.square(centres - codes * chosen.scale)).sum())
            if lost < best[0] * (1 - 1e-9):
                best = lost, chosen
        return best[1]


def observe(
    model: Model,
    samples: Iterable[Mapping[str, np.ndarray]],
    *,
    ranges: str = "minmax",
    percentile: float = 100.0,
    only: Collection[str] | None = None,
) -> Observed:
    """Run a model over samples and keep what the front end needs to know of its tensors.

    Parameters
    ----------
    model      : with static input shapes
    samples    : dicts of input -> array, one a run; they are taken one after the other
    ranges     : 'minmax', 'percentile' or 'mse'
    percentile : of a tensor's values, which 'percentile' covers
    only       : tensors of interest; None: every one that a node gives

    Raises
    ------
    QuantiseError   If ONNX Runtime cannot run the model on the samples.
    """
    assert ranges in RANGES, ranges
    names = _observed(model, only)
    # Cell states are followed along samples that are not drawn for a quantised model, which states its own.
    cells = [node for node in model.nodes if node.op_type == "LSTM"] if only is None else []
    shown = model.part(model.nodes, model.inputs, names)
    found = {name: _Range(ranges != "minmax") for name in (*names, *model.inputs)}
    types: dict[str, TensorType] = {}
    largest: dict[str, Sequence[float]] = {}
    unrunnable = "ONNX Runtime could not run the model"
    options = session_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    runner = None
    for sample in samples:
        with told(QuantiseError, "quantise", "", unrunnable, _RUNS):
            if runner is None:
                runner = session(shown.to_proto(), options)
                fed = [value.name for value in runner.get_inputs()]
            results = runner.run(None, {name: sample[name] for name in fed})
        values = {**sample, **dict(zip(names, results, strict=True))}
        for name, array in values.items():
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
                continue
            types[name] = array_type(array)
            if array.dtype.kind == "f":
                found[name].add(array)
        for node in cells:
            reached = _reached(node, model, values)
            if reached:
                before = largest.get(node.name, reached)
                largest[node.name] = [max(pair) for pair in zip(reached, before, strict=True)]
    return Observed(
        formats={
            name: seen.format(ranges, percentile)
            for name, seen in found.items()
            if name in types and types[name].dtype.kind == "f"
        },
        cells={name: tuple(reached) for name, reached in largest.items()},
        types=types,
    )


def _reached(node: Node, model: Model, values: Mapping[str, np.ndarray]) -> list[float]:
    known = {**model.constants, **values}
    operands = [known.get(name) if name else None for name in node.inputs]
    missing = any(name and array is None for name, array in zip(node.inputs, operands, strict=True))
    return [] if missing else cell_states(node, operands)


def _observed(model: Model, only: Collection[str] | None) -> list[str]:
    """Results of nodes that are tensors of numbers, as far as that is known."""
    found = []
    for node in model.nodes:
        for name in node.outputs:
            if not name or name in model.odd or (only is not None and name not in only):
                continue
            known = model.type_of(name)
            if known.element and known.dtype is not None and known.dtype.kind not in "fiub":
                continue
            if not known.element and _may_be_no_tensor(node):
                continue
            found.append(name)
    return found


def _may_be_no_tensor(node: Node) -> bool:
    """Sequences, maps and optionals: ONNX Runtime gives them as lists, and ranges have no meaning there."""
    return (
        node.op_type.startswith(("Sequence", "Optional", "String"))
        or node.op_type in ("ZipMap", "SplitToSequence", "CastMap")
        or node.domain == "ai.onnx.ml"
    )
