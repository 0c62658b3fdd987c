"""Results of a backend beside those of the reference: what differs, and where that began."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from systolith.host.device import DeviceError
from systolith.host.driver import quantise
from systolith.reference.graph import QGraph
from systolith.spec.errors import SystolithError
from systolith.spec.image import Image

if TYPE_CHECKING:
    from systolith.evidence.locate import Location, Tracing

__all__ = ["Difference", "DifferenceError", "compare_cycles", "compare_host", "compare_raw", "located"]

Arrays = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where a backend left the reference.

    Parameters
    ----------
    backend, output : which result differs
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

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.backend}: {self.error}"
        return (
            f"{self.backend}: {self.elements} of {self.total} elements of output {self.output!r} differ; "
            f"first at {list(self.index)}: expected {self.expected}, got {self.got}"
        )

    def brief(self) -> str:
        """Where it began and what it is, on one line."""
        return f"{self} in {self.location.brief()}" if self.location is not None else str(self)

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON; `text` says it in a sentence."""
        return {
            "backend": self.backend,
            "text": str(self),
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


def compare_raw(backend: str, expected: Arrays, got: Arrays) -> list[Difference]:
    """One entry per output of the core that is not equal bit for bit."""
    found = []
    for name, right in expected.items():
        if got[name].shape != right.shape:
            text = f"output {name!r} has shape {list(got[name].shape)}, expected {list(right.shape)}"
            found.append(Difference(backend=backend, error=text))
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
                )
            )
    return found


def compare_host(backend: str, expected: Arrays, got: Arrays) -> list[Difference]:
    """One entry per output of the model that differs though the core's results agree: the host is to
    blame."""
    return [
        Difference(
            backend=backend,
            error=f"output {name!r} differs although every result of the core agrees: a node on the host "
            "gives different values each time",
        )
        for name, right in expected.items()
        if right.dtype != got[name].dtype
        or not np.array_equal(right, got[name], equal_nan=right.dtype.kind in "fc")
    ]


def compare_cycles(rtl: tuple[int, int], netlist: tuple[int, int]) -> list[Difference]:
    """A netlist takes the RTL's cycles; each is those of the load and of the run stream."""
    if rtl == netlist:
        return []
    text = f"takes {netlist[0]} + {netlist[1]} cycles, and the RTL {rtl[0]} + {rtl[1]}"
    return [Difference(backend="netlist", error=text)]


def located(
    difference: Difference, graph: QGraph, image: Image, arrays: Arrays, tracing: Tracing | None
) -> Difference:
    """The difference with the place of the first thing that went wrong.

    Parameters
    ----------
    arrays  : inputs of the core, in the model's own types
    tracing : the simulated core that differs, or None where it cannot be watched
    """
    from systolith.evidence import locate

    inputs = {name: quantise(np.asarray(arrays[name]), graph.tensors[name]) for name in graph.inputs}
    try:
        location = locate.locate_rtl(graph, image, inputs, tracing) if tracing is not None else None
    except DeviceError as error:
        return replace(difference, note=str(error))
    note = ""
    if location is None:
        location = locate.locate_machine(graph, image, inputs)
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
