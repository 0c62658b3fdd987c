"""Results of a backend beside those of the reference: what differs, and where that began."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from systolith.host.device import DeviceError
from systolith.host.sequences import Values, equal
from systolith.reference.plan import Plan
from systolith.spec.errors import SystolithError
from systolith.spec.image import Image
from systolith.spec.plan import HostStep, Step, step_name

if TYPE_CHECKING:
    from systolith.evidence.locate import Location, Tracing

__all__ = ["Difference", "DifferenceError", "compare_cycles", "compare_raw", "compare_steps", "located"]

Arrays = Mapping[str, np.ndarray[Any, Any]]


class Results(Protocol):
    """What an inference gave: int8 tensors of the core's steps, and what the host saw."""

    @property
    def raw(self) -> Arrays: ...

    @property
    def values(self) -> Values: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where a backend left the reference.

    Parameters
    ----------
    backend, output : which result differs
    step            : number of the step that gives it, from 1; None where the plan has but one
    elements, total : how many of its elements differ
    index           : the first of them
    expected, got   : its int8 values
    error           : what the device reported instead of a result
    location        : layer, instruction, cycle and beat of the first thing that went wrong, or None
    note            : what else is known of it
    """

    backend: str
    output: str = ""
    elements: int = 0
    total: int = 0
    index: tuple[int, ...] = ()
    expected: int = 0
    got: int = 0
    error: str | None = None
    location: Location | None = None
    note: str = ""
    step: int | None = None

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.backend}: {self.error}"
        step = f" of step {self.step}" if self.step is not None else ""
        return (
            f"{self.backend}: {self.elements} of {self.total} elements of output {self.output!r}{step} "
            f"differ; first at {list(self.index)}: expected {self.expected}, got {self.got}"
        )

    def brief(self) -> str:
        """Where it began and what it is, on one line."""
        return f"{self} in {self.location.brief()}" if self.location is not None else str(self)

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON; `text` says it in a sentence."""
        return {
            "backend": self.backend,
            "text": str(self),
            "step": self.step,
            "output": self.output,
            "elements": self.elements,
            "total": self.total,
            "index": list(self.index),
            "expected": self.expected,
            "got": self.got,
            "error": self.error,
            "location": self.location.as_dict() if self.location is not None else None,
            "note": self.note,
        }


class DifferenceError(SystolithError, AssertionError):
    """A verification that found a difference; the text says where it began."""


def compare_steps(backend: str, steps: Sequence[Step], expected: Results, got: Results) -> list[Difference]:
    """One entry per result, of the first step whose results differ; what follows it may differ on account of
    that."""
    for number, step in enumerate(steps, 1):
        if isinstance(step, HostStep):
            found = _compare_host(backend, step_name(number, step), step, expected.values, got.values)
        else:
            found = compare_raw(
                backend,
                {name: expected.raw[name] for name in step.outputs},
                got.raw,
                number if len(steps) > 1 else None,
            )
        if found:
            return found
    return []


def compare_raw(backend: str, expected: Arrays, got: Arrays, step: int | None = None) -> list[Difference]:
    """One entry per output of a core step that is not equal bit for bit."""
    found = []
    for name, right in expected.items():
        if got[name].shape != right.shape:
            text = f"output {name!r} has shape {list(got[name].shape)}, expected {list(right.shape)}"
            found.append(Difference(backend=backend, error=text, step=step))
            continue
        wrong = np.argwhere(got[name] != right)
        if len(wrong):
            first = tuple(int(i) for i in wrong[0])
            found.append(
                Difference(
                    backend=backend,
                    output=name,
                    elements=len(wrong),
                    total=right.size,
                    index=first,
                    expected=int(right[first]),
                    got=int(got[name][first]),
                    step=step,
                )
            )
    return found


def _compare_host(backend: str, what: str, step: HostStep, expected: Values, got: Values) -> list[Difference]:
    """One entry per result of a host step that differs though all that went before agrees: the host is to
    blame."""
    return [
        Difference(
            backend=backend,
            error=f"output {name!r} of {what} differs although everything before it agrees: a node on the "
            "host gives different values each time",
        )
        for name in step.outputs
        if not equal(expected[name], got[name])
    ]


def compare_cycles(rtl: tuple[int, int], netlist: tuple[int, int]) -> list[Difference]:
    """A netlist takes the RTL's cycles; each is those of the load and of the run stream."""
    if rtl == netlist:
        return []
    text = f"takes {netlist[0]} + {netlist[1]} cycles, and the RTL {rtl[0]} + {rtl[1]}"
    return [Difference(backend="netlist", error=text)]


def located(
    difference: Difference,
    plan: Plan,
    image: Image,
    entered: Arrays,
    tracing: Tracing | None,
) -> Difference:
    """The difference with the place of the first thing that went wrong, in whatever core step that is.

    Parameters
    ----------
    entered : int8 tensors that the host writes for the core steps, as the reference has them
    tracing : the simulated core that differs, or None where it cannot be watched
    """
    from systolith.evidence import locate

    try:
        location = locate.locate_rtl(plan, image, entered, tracing) if tracing is not None else None
    except DeviceError as error:
        return replace(difference, note=str(error))
    note = ""
    if location is None:
        location = locate.locate_machine(plan, image, entered)
        if difference.backend == "board" and location is None:
            note = (
                "the machine gives what the reference gives: run on rtl, which says where, or "
                "systolith doctor"
            )
        if tracing is not None:
            core = "RTL" if difference.backend == "rtl" else difference.backend
            note = (
                f"the {core} writes what the machine writes, so the compiler is wrong"
                if location is not None
                else f"every beat that the {core} writes is right"
            )
    return replace(difference, location=location, note=note)
