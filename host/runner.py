"""The runner of plans: it runs the host's steps in ONNX Runtime, in a process of their own, since they may
come from a file that a stranger made, and has the core's steps run by whoever has a core."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from systolith.host.codes import Quantised, dequantise, quantise
from systolith.host.inputs import has_nan, misfit
from systolith.host.sequences import Value, Values
from systolith.host.step_process import HostStepError, HostStepFailure, Limits, Loaded
from systolith.spec.plan import HostStep, Port, Step, step_name, transfers

__all__ = ["CoreRun", "HostStepError", "PlanRun", "Runnable", "Runner"]

Arrays = Mapping[str, np.ndarray]
#: Runs a core step: its number among the core steps, from 0; int8 tensors to write first; which to read then.
CoreRun = Callable[[int, Arrays, Collection[str]], dict[str, np.ndarray]]


class Runnable(Protocol):
    """What has a plan: an image, or the reference's `Plan`."""

    @property
    def steps(self) -> Sequence[Step]: ...

    @property
    def outputs(self) -> tuple[Port, ...]: ...

    @property
    def formats(self) -> Mapping[str, Quantised]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRun:
    """One inference of a plan.

    Parameters
    ----------
    outputs : outputs of the model, in its own types; a list of arrays where one is a sequence of tensors
    values  : everything that the host saw, in the model's types: inputs, results of the host's steps, and
              what it read from the core
    raw     : int8 tensors that were read from the core
    written : int8 tensors that were written for the core
    seconds : wall time of each step
    """

    outputs: dict[str, Value]
    values: dict[str, Value]
    raw: dict[str, np.ndarray]
    written: dict[str, np.ndarray]
    seconds: tuple[float, ...]


class Runner:
    """A plan with its host steps loaded, for any number of inferences.

    Parameters
    ----------
    plan   : its steps, outputs, and the formats of what core steps read and give
    limits : of memory and time, for loading a host step and for one run of it; None: `Limits()`

    Raises
    ------
    HostStepError   If a host step is refused: by ONNX Runtime, for data in other files, or by the limits.
    """

    def __init__(self, plan: Runnable, limits: Limits | None = None) -> None:
        limits = Limits() if limits is None else limits
        self._steps, self._formats = tuple(plan.steps), plan.formats
        self._outputs = [port.name for port in plan.outputs]
        self._transfers = transfers(self._steps, self._outputs)
        self._loaded = {
            index: _loaded(index, step, limits)
            for index, step in enumerate(self._steps)
            if isinstance(step, HostStep)
        }

    def run(self, arrays: Arrays, core: CoreRun, *, everything: bool = False) -> PlanRun:
        """One inference.

        Parameters
        ----------
        arrays     : the model's inputs, in its own shapes and types
        core       : called for each core step, in order
        everything : read all that core steps give, also what no host step and no output needs

        Raises
        ------
        HostStepError   If ONNX Runtime fails, or a host step gives what the core cannot take.
        What `core` raises.
        """
        values: dict[str, Value] = {name: np.asarray(value) for name, value in arrays.items()}
        raw: dict[str, np.ndarray] = {}
        maker: dict[str, int] = {}
        written: dict[str, np.ndarray] = {}
        seconds, number = [], 0
        for index, step in enumerate(self._steps):
            if isinstance(step, HostStep):
                values.update(self._on_host(index, step, values))
                seconds.append(self._loaded[index].seconds)
            else:
                moved = self._transfers[number]
                given = {name: self._entering(name, values, maker.get(name)) for name in moved.write}
                begin = time.perf_counter()
                results = core(number, given, step.outputs if everything else moved.read)
                seconds.append(time.perf_counter() - begin)
                written.update(given)
                raw.update(results)
                values.update((name, dequantise(q, self._formats[name])) for name, q in results.items())
                number += 1
            maker.update((name, index) for name in step.outputs)
        for name in self._outputs:
            if name not in values:
                raise HostStepError(f"nothing gives the output {name!r}: compile the model again")
        outputs = {name: values[name] for name in self._outputs}
        return PlanRun(outputs=outputs, values=values, raw=raw, written=written, seconds=tuple(seconds))

    def _on_host(self, index: int, step: HostStep, values: Values) -> dict[str, Value]:
        loaded, what = self._loaded[index], step_name(index + 1, step)
        for name in loaded.inputs:
            if name not in values:
                raise HostStepError(f"{what} reads {name!r}, which nothing gives: compile the model again")
        try:
            results = loaded.run({name: values[name] for name in loaded.inputs})
        except HostStepFailure as error:
            raise HostStepError(
                f"ONNX Runtime stopped in {what}: {error}; {error.remedy or 'give inputs that they accept'}"
            ) from error
        for name in step.outputs:
            if name not in results:
                raise HostStepError(f"{what} does not give {name!r}: compile the model again")
        return {name: results[name] for name in step.outputs}

    def _entering(self, name: str, values: Values, maker: int | None) -> np.ndarray:
        """A tensor on its way to the core, as int8; step `maker` made it, None: it is an input."""
        if name not in values:
            raise HostStepError(f"the core reads {name!r}, which nothing gives: compile the model again")
        value, form = values[name], self._formats[name]
        what = "the input" if maker is None else step_name(maker + 1, self._steps[maker])
        if isinstance(value, list):
            trouble: str | None = "is a sequence"
        else:
            if has_nan(value):
                raise HostStepError(
                    f"{what} gives NaN in {name!r}, which int8 cannot represent: give inputs for which it is "
                    "a number"
                )
            trouble = misfit(value, form.shape, form.dtype)
            if trouble is None:
                return quantise(value, form)
        raise HostStepError(f"{what} gives {name!r}, which {trouble}: compile the model again")


def _loaded(index: int, step: HostStep, limits: Limits) -> Loaded:
    try:
        return Loaded(step.model, limits)
    except HostStepFailure as error:
        remedy = error.remedy or "update onnxruntime or change the model"
        raise HostStepError(
            f"ONNX Runtime does not accept {step_name(index + 1, step)}: {error}; {remedy}, and compile the "
            "model again"
        ) from error
