"""Options that travel together through the verbs: how a model is imported, and where a program runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from systolith.arrays import ApiError, Source
from systolith.spec.memory import FULL_RATE, MemoryTiming
from systolith.spec.ranges import FAR, RANGES

__all__ = ["HIDDEN", "FarFromFloatWarning", "ImportOptions", "Importing", "Running"]

#: Choices for the bits of hidden states.
HIDDEN = ("8", "16", "auto")


class FarFromFloatWarning(UserWarning):
    """An output is so far from float that it may be useless."""


class ImportOptions(TypedDict, total=False):
    """The keywords of `Importing`, as the verbs take them beside `calib`."""

    states: Mapping[str, str] | None
    hidden: int | str | None
    percentile: float
    ranges: str | None
    shapes: Mapping[str, Sequence[int | None]] | None
    constants: Mapping[str, object] | None
    batch: int | None
    min_snr: float | None
    float_below: float
    host_only: bool


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
                 calibration data; None: 8, or 16 where with 8 an output would be less than `float_below`
                 from float
    percentile : share of the calibration data's values, tensor by tensor, that int8 covers with `ranges`
                 'percentile'; where few values are far from the others, less than 100 leaves more steps for
                 the rest
    ranges     : what int8 covers of a tensor: 'minmax', 'percentile', or 'mse', the range with the least
                 square error; None: 'percentile' where one below 100 is given, else 'minmax'
    shapes     : input -> extents, None for one that the samples or the model state
    constants  : input -> value that it always has
    batch      : extent of the first axis of inputs that leave it open
    min_snr    : dB from float that every output must reach; None: none, but below 20 there is a warning
    float_below : where an output is less than this from float, in dB, a few layers that lose most move to
                 the host; 0 keeps them on the core
    host_only  : whether a model of which the core runs nothing is accepted

    Raises
    ------
    ApiError   If an option is none of these.
    """

    calib: Source = None
    states: Mapping[str, str] | None = None
    hidden: int | str | None = None
    percentile: float = 100.0
    ranges: str | None = None
    shapes: Mapping[str, Sequence[int | None]] | None = None
    constants: Mapping[str, object] | None = None
    batch: int | None = None
    min_snr: float | None = None
    float_below: float = FAR
    host_only: bool = False

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise ApiError(f"percentile is {self.percentile!r}: give more than 50, up to 100")
        if self.hidden is not None and str(self.hidden) not in HIDDEN:
            raise ApiError(f"hidden is {self.hidden!r}: choose from {', '.join(HIDDEN)}")
        if self.ranges is not None and self.ranges not in RANGES:
            raise ApiError(f"ranges is {self.ranges!r}: choose from {', '.join(RANGES)}")
        if self.ranges not in (None, "percentile") and self.percentile < 100:
            raise ApiError(
                f"percentile {self.percentile:g} belongs to ranges 'percentile', and ranges is "
                f"{self.ranges!r}: give one of them"
            )
        if self.batch is not None and self.batch < 1:
            raise ApiError(f"batch is {self.batch!r}: give 1 or more")
        if self.float_below < 0:
            raise ApiError(f"float_below is {self.float_below!r}: give decibels, or 0")

    @property
    def chosen_ranges(self) -> str:
        """How ranges are chosen, one of `RANGES`."""
        return self.ranges or ("percentile" if self.percentile < 100 else "minmax")

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
