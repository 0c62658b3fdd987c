"""What runs on the host before and after the core: in ONNX Runtime, in a process of its own, since it may
come from a file that a stranger made."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from systolith.host.segment_process import Limits, Loaded, SegmentError, SegmentFailure
from systolith.spec.segments import HostPart

__all__ = ["HostSegments", "SegmentError"]


class HostSegments:
    """The host's part of a model, ready for any number of inferences; without one, everything passes as it
    is.

    Parameters
    ----------
    host   : HostPart, or None where the core runs the whole model
    limits : of memory and time, for loading a segment and for one run of it; None: `Limits()`

    Members
    -------
    seconds : wall time of the last inference, 'before' and 'after' the core, where there is such a segment

    Raises
    ------
    SegmentError   If a segment is refused: by ONNX Runtime, for data in other files, or by the limits.
    """

    def __init__(self, host: HostPart | None, limits: Limits | None = None) -> None:
        self.host = host
        self.seconds: dict[str, float] = {}
        models = {} if host is None else {"before": host.before, "after": host.after}
        limits = Limits() if limits is None else limits
        self._segments = {which: _loaded(which, data, limits) for which, data in models.items() if data}

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
                    "represent: give inputs for which it is finite"
                )
            values[name] = value
        return values

    def leave(
        self, values: Mapping[str, np.ndarray], results: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The model's outputs, from what `enter` gave and the core's results in the model's own types.

        Raises
        ------
        SegmentError   If ONNX Runtime fails, or an output is missing.
        """
        if self.host is None:
            return dict(results)
        known = {**values, **results}
        known.update(self._run("after", known))
        for port in self.host.outputs:
            if port.name not in known:
                raise SegmentError(f"nothing gives the output {port.name!r}: compile the model again")
        return {port.name: known[port.name] for port in self.host.outputs}

    def _run(self, which: str, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        segment = self._segments.get(which)
        if segment is None:
            return {}
        for name in segment.inputs:
            if name not in values:
                raise SegmentError(
                    f"the nodes {which} the core read {name!r}, which nothing gives: compile the model again"
                )
        try:
            results = segment.run({name: np.asarray(values[name], order="C") for name in segment.inputs})
        except SegmentFailure as error:
            raise SegmentError(
                f"ONNX Runtime stopped in the nodes {which} the core: {error}; "
                f"{error.remedy or 'give inputs that they accept'}"
            ) from error
        self.seconds[which] = segment.seconds
        return results


def _loaded(which: str, data: bytes, limits: Limits) -> Loaded:
    try:
        return Loaded(data, limits)
    except SegmentFailure as error:
        remedy = error.remedy or "update onnxruntime or change the model"
        raise SegmentError(
            f"ONNX Runtime does not accept the nodes {which} the core: {error}; {remedy}, and compile the "
            "model again"
        ) from error
