"""What runs on the host before and after the core, in ONNX Runtime. The only module of this package that
needs it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from systolith.spec.errors import SystolithError
from systolith.spec.segments import HostPart

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["HostSegments", "SegmentError"]


class SegmentError(SystolithError, ValueError):
    """A host segment that ONNX Runtime cannot load or run; the text is one sentence that names a remedy."""


class HostSegments:
    """The host's part of a model, ready for any number of inferences; without one, everything passes as it
    is.

    Parameters
    ----------
    host : HostPart, or None where the core runs the whole model

    Members
    -------
    seconds : wall time of the last inference, 'before' and 'after' the core, where there is such a segment

    Raises
    ------
    SegmentError   If ONNX Runtime does not accept a segment.
    """

    def __init__(self, host: HostPart | None) -> None:
        self.host = host
        self.seconds: dict[str, float] = {}
        models = {} if host is None else {"before": host.before, "after": host.after}
        self._sessions = {which: _session(which, data) for which, data in models.items() if data}

    def enter(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The model's inputs, and with them what runs before the core: among them all that the core reads.

        Raises
        ------
        SegmentError   If ONNX Runtime fails, or gives a number that int8 cannot represent.
        """
        values = dict(arrays)
        for name, value in self._run("before", values).items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise SegmentError(
                    f"the nodes before the core give NaN or infinity in {name!r}, which int8 cannot "
                    f"represent: "
                    "give inputs for which it is finite"
                )
            values[name] = value
        return values

    def leave(
        self, values: Mapping[str, np.ndarray], results: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The model's outputs, from what `enter` gave and the core's results in the model's own types.

        Raises
        ------
        SegmentError   If ONNX Runtime fails.
        """
        if self.host is None:
            return dict(results)
        known = {**values, **results}
        known.update(self._run("after", known))
        return {port.name: known[port.name] for port in self.host.outputs}

    def _run(self, which: str, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        session = self._sessions.get(which)
        if session is None:
            return {}
        names = [output.name for output in session.get_outputs()]
        feeds = {entry.name: np.asarray(values[entry.name], order="C") for entry in session.get_inputs()}
        begin = time.perf_counter()
        try:
            results = session.run(names, feeds)
        except Exception as error:
            raise SegmentError(
                f"ONNX Runtime stopped in the nodes {which} the core: {_one_line(error)}; give inputs that "
                f"they accept"
            ) from error
        self.seconds[which] = time.perf_counter() - begin
        return dict(zip(names, results, strict=True))


def _session(which: str, data: bytes) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # One thread and a fixed order: equal inputs give equal bits, run after run.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    # Failures come as exceptions, which say it all; the log would only repeat them.
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
    except Exception as error:
        raise SegmentError(
            f"ONNX Runtime does not accept the nodes {which} the core: {_one_line(error)}; update "
            f"onnxruntime "
            "or change the model, and compile the model again"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
