"""Options that travel together through the verbs: how a model is imported, and where a program runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from systolith.arrays import ApiError, Source
from systolith.spec.memory import FULL_RATE, MemoryTiming

__all__ = ["HIDDEN", "Importing", "Running"]

#: Choices for the bits of hidden states.
HIDDEN = ("8", "16", "auto")


@dataclass(frozen=True, slots=True, kw_only=True)
class Importing:
    """How an ONNX file becomes a quantised graph.

    Parameters
    ----------
    calib      : calibration data of a float model: an .npz path, or per input samples stacked on the first
                 axis
    states     : output -> input of the model: state that stays on the core from run to run, zero at first
    hidden     : bits that the recurrence of recurrent layers sees of their hidden states: 8, 16, or 'auto',
                 which takes 16 where that brings the worst output 1 dB nearer to the float model on the
                 calibration data
    percentile : share of the calibration data's values, tensor by tensor, that int8 covers; where few values
                 are far from the others, less than 100 leaves more steps for the rest

    Raises
    ------
    ApiError   If `hidden` or `percentile` is none of these.
    """

    calib: Source = None
    states: Mapping[str, str] | None = None
    hidden: int | str = 8
    percentile: float = 100.0

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise ApiError(f"percentile is {self.percentile!r}: give more than 50, up to 100")
        if str(self.hidden) not in HIDDEN:
            raise ApiError(f"hidden is {self.hidden!r}: choose from {', '.join(HIDDEN)}")

    @property
    def calib_path(self) -> str | Path | None:
        """The file that the calibration data is in, if it is in one."""
        return self.calib if isinstance(self.calib, str | Path) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """Where and how a program runs.

    Parameters
    ----------
    memory  : external memory of 'rtl' and 'netlist'
    port    : port of 'board', see `device_port.open_device`

    Raises
    ------
    ApiError   If `max_cycles` is not positive.
    max_cycles : budget of one stream, in cycles; None: what the image's estimate gives, see `host.budget`
    sources : Verilog to run instead of the generated core, file name to text; only on 'rtl' and 'netlist'
    """

    memory: MemoryTiming = FULL_RATE
    port: str | None = None
    sources: Mapping[str, str] | None = None
    max_cycles: int | None = None

    def __post_init__(self) -> None:
        if self.max_cycles is not None and self.max_cycles < 1:
            raise ApiError(f"max_cycles is {self.max_cycles!r}: give a number of cycles, 1 or more")
