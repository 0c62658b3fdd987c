"""What an inference and a verification give, and what the reports say of an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from systolith.evidence.difference import Difference, DifferenceError
from systolith.host.sequences import Value, Values, described
from systolith.spec.image import Image
from systolith.spec.notebook import html_table
from systolith.spec.plan import CoreStep, HostStep, Step, transfers
from systolith.spec.printable import excerpt

if TYPE_CHECKING:
    from systolith.evidence.fidelity import Fidelity

__all__ = [
    "BackendResult",
    "Description",
    "RunResult",
    "StepRun",
    "VerifyResult",
    "core_share",
    "describe",
    "host_rows",
    "step_rows",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRun:
    """One step of an inference.

    Parameters
    ----------
    step    : what ran
    seconds : wall time
    cycles  : cycles of a core step's run stream; 0 for a host step, and on the reference and the machine,
              which have no clock
    """

    step: Step = field(repr=False)
    seconds: float
    cycles: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What one inference gave.

    Parameters
    ----------
    outputs      : per output of the model, an array of its own shape and type, or a list of arrays where it
                   is a sequence of tensors
    raw          : int8 tensors that were read from the core
    values       : all tensors that the host saw, in the model's own types
    written      : int8 tensors that were written for the core
    steps        : what each step of the plan took
    load_cycles  : cycles of the load stream
    layer_cycles : counted on a device with a clock that tells when instructions are done; else None
    tools        : what built the simulated device, by name, see `tooling.tools.Tool.as_dict`
    """

    outputs: dict[str, Value]
    raw: dict[str, np.ndarray]
    values: dict[str, Value]
    written: dict[str, np.ndarray]
    steps: tuple[StepRun, ...]
    load_cycles: int
    layer_cycles: tuple[int, ...] | None = None
    tools: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def cycles(self) -> int:
        """Cycles of all run streams together; 0 on the reference, which has no clock."""
        return sum(run.cycles for run in self.steps)

    @property
    def seconds(self) -> float:
        """Wall time of the core's steps."""
        return sum(run.seconds for run in self.steps if not isinstance(run.step, HostStep))

    @property
    def host_seconds(self) -> dict[int, float]:
        """Wall time of each step on the host, by its number in the plan, from 1."""
        return {
            number: run.seconds for number, run in enumerate(self.steps, 1) if isinstance(run.step, HostStep)
        }

    def __repr__(self) -> str:
        counted = f"{self.cycles:,} cycles, {self.load_cycles:,} to load, " if self.cycles else ""
        return f"<RunResult {_listed(self.outputs)}: {counted}{self.seconds:.2f} s>"

    def _repr_html_(self) -> str:
        rows = [(name, described(value)) for name, value in self.outputs.items()]
        return html_table("outputs", ("output", "type and shape"), rows, repr(self)[1:-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendResult:
    """Cost of one backend in a verification; `cycles` is ``None`` for the reference, `layer_cycles` where
    there is no clock. `step_cycles` has an entry for each step of the plan, 0 for those of the host."""

    seconds: float
    cycles: int | None = None
    load_cycles: int | None = None
    step_cycles: tuple[int, ...] | None = None
    layer_cycles: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """The answer of `verify`; `as_dict` is the JSON of the command line.

    `host_seconds` is the wall time of each step on the host, by its number, the shortest of all backends'
    inferences; `fidelity` how far the plan is from the float model, None where there is none to compare
    with; `notes` what was fixed of the model; `tools` what built the simulated devices, as in `RunResult`.
    """

    model: str
    image: Image
    seed: int | None
    backends: dict[str, BackendResult]
    differences: tuple[Difference, ...]
    host_seconds: dict[int, float] = field(default_factory=dict)
    compile_seconds: float = 0.0
    fidelity: Fidelity | None = None
    notes: tuple[str, ...] = ()
    tools: dict[str, dict[str, str]] = field(default_factory=dict)

    def __repr__(self) -> str:
        if self.differences:
            more = f" and {len(self.differences) - 1} more" if len(self.differences) > 1 else ""
            return f"<VerifyResult: {self.differences[0].brief()}{more}>"
        return f"<VerifyResult: {self._headline()}>"

    def __bool__(self) -> bool:
        return self.bit_exact

    def _repr_html_(self) -> str:
        rows = [
            (name, f"{result.cycles or 0:,}", f"{result.load_cycles or 0:,}", f"{result.seconds:.2f}")
            for name, result in self.backends.items()
        ]
        columns = ("backend", "cycles", "cycles to load", "seconds")
        notes = "; ".join(difference.brief() for difference in self.differences)
        return html_table(self._headline(), columns, rows, notes)

    def _headline(self) -> str:
        verdict = "bit-exact" if self.bit_exact else "not bit-exact"
        if len(self.backends) == 1:
            verdict = "nothing compared"
        return (
            f"{excerpt(self.model)} on {self.image.arch.name}: {verdict}, {' = '.join(self.backends)}, "
            f"{self.cycles:,} cycles"
        )

    def raise_if_different(self) -> None:
        """Do nothing where all is bit-exact.

        Raises
        ------
        DifferenceError   With layer, instruction and cycle of the first difference.
        """
        if self.differences:
            raise DifferenceError("\n".join(difference.brief() for difference in self.differences))

    @property
    def bit_exact(self) -> bool:
        """Whether every bit of every output agreed on every backend."""
        return not self.differences

    @property
    def cycles(self) -> int:
        """Cycles of the run streams: counted by RTL, else by the machine, else the compiler's estimate."""
        counted = self._clock()
        return self.image.cycles if counted is None or counted.cycles is None else counted.cycles

    def _clock(self) -> BackendResult | None:
        """The backend whose cycles count."""
        found = (self.backends.get(name) for name in ("rtl", "netlist", "machine"))
        return next((result for result in found if result is not None and result.cycles), None)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        load_cycles = next(
            (
                self.backends[name].load_cycles
                for name in ("rtl", "netlist", "machine")
                if name in self.backends and self.backends[name].load_cycles
            ),
            0,
        )
        counted = self._clock()
        backends = {}
        for name, result in self.backends.items():
            backends[name] = {"seconds": round(result.seconds, 6)}
            if result.cycles is not None:
                backends[name]["cycles"] = result.cycles
            if name in ("rtl", "netlist") and result.cycles:
                backends[name]["cycles_per_second"] = round(result.cycles / max(result.seconds, 1e-9), 1)
        return {
            **describe(
                self.image,
                self.cycles,
                self.backends["rtl"].layer_cycles if "rtl" in self.backends else None,
                self.fidelity,
                self.notes,
            ),
            "compile_seconds": round(self.compile_seconds, 6),
            "bit_exact": self.bit_exact,
            "seed": self.seed,
            "tools": self.tools,
            "backends": backends,
            "load_cycles": load_cycles,
            "steps": step_rows(
                self.image, counted.step_cycles if counted is not None else None, self.host_seconds
            ),
            "host_nodes": host_rows(self.image.steps, self.host_seconds),
            "differences": [difference.as_dict() for difference in self.differences],
        }


def host_rows(steps: Sequence[Step], seconds: Mapping[int, float] | None = None) -> list[dict[str, Any]]:
    """The nodes on the host as plain values, with the number of their step; with `step_seconds`, the wall
    time of a node's whole step, once it ran."""
    rows = []
    for number, step in enumerate(steps, 1):
        for node in step.nodes if isinstance(step, HostStep) else ():
            row = {**dataclasses.asdict(node), "step": number, "macs_known": node.macs is not None}
            rows.append(row | {"macs": node.macs or 0})
            if seconds and number in seconds:
                rows[-1]["step_seconds"] = round(seconds[number], 6)
    return rows


def step_rows(
    image: Image, cycles: Sequence[int] | None = None, seconds: Mapping[int, float] | None = None
) -> list[dict[str, Any]]:
    """The steps of an image as plain values: where, nodes, why, MACs, bytes between host and core, cycles.

    Parameters
    ----------
    cycles  : counted, for each step; None: those of the cycle model
    seconds : wall time of host steps by their number, where they ran
    """
    moved = iter(transfers(image.steps, (port.name for port in image.outputs)))
    given = {name for step in image.cores for name in step.outputs}
    taken = {name for step in image.cores for name in step.inputs}
    sizes = {io.name: io.bytes for io in image.tensors}
    rows: list[dict[str, Any]] = []
    for number, step in enumerate(image.steps, 1):
        row: dict[str, Any] = {"step": number}
        if isinstance(step, CoreStep):
            transfer = next(moved)
            row |= {
                "where": "core",
                "nodes": list(dict.fromkeys(node for layer in step.layers for node in layer.nodes)),
                "reasons": [],
                "macs": sum(layer.macs for layer in step.layers),
                "bytes": sum(sizes[name] for name in (*transfer.write, *transfer.read)),
                "cycles": cycles[number - 1] if cycles is not None else step.cycles,
                "estimated_cycles": step.cycles,
            }
        else:
            crossing = [name for name in step.inputs if name in given]
            crossing += [name for name in step.outputs if name in taken]
            row |= {
                "where": "host",
                "nodes": [node.name for node in step.nodes],
                "reasons": list(dict.fromkeys(node.reason for node in step.nodes if node.reason)),
                "macs": sum(node.macs or 0 for node in step.nodes),
                "bytes": sum(sizes[name] for name in crossing),
            }
            if seconds and number in seconds:
                row["seconds"] = round(seconds[number], 6)
        rows.append(row)
    return rows


class Description(dict[str, Any]):
    """What `describe` gives: a dict of plain values, which is short in a terminal and a table in a
    notebook."""

    def __repr__(self) -> str:
        return f"<Description {self._headline()}>"

    def _repr_html_(self) -> str:
        columns = ("name", "op", "macs", "cycles", "roofline_cycles", "limit")
        rows = [[layer[column] for column in columns] for layer in self["layers"]]
        return html_table(self._headline(), columns, rows)

    def _headline(self) -> str:
        return (
            f"{excerpt(self['model'])} on {self['arch']}: {len(self['layers'])} layers, {self['cycles']:,} "
            f"cycles, {self['utilisation']:.1%} of peak, {core_share(self)}"
        )


def core_share(info: Mapping[str, Any]) -> str:
    """How much of the work the core does, in words."""
    if info["core_share"] is None:
        return "no multiply-accumulates"
    more = "" if info["host_macs_known"] else ", not counting nodes whose shapes are known only at run time"
    return f"{info['core_share']:.1%} of the multiply-accumulates on the core{more}"


def _listed(values: Values) -> str:
    """Names, types and shapes of the first values."""
    shown = [f"{excerpt(name, 32)} {described(value)}" for name, value in list(values.items())[:3]]
    return ", ".join(shown) + (f" and {len(values) - 3} more" if len(values) > 3 else "")


def describe(
    image: Image,
    cycles: int,
    layer_cycles: Sequence[int] | None = None,
    fidelity: Fidelity | None = None,
    notes: Sequence[str] = (),
) -> Description:
    """Size, roofline and layers of an image as plain values, and the utilisation that `cycles` gives.

    `layer_cycles` are those counted on a device; where there are none, those of the cycle model stand for
    them.
    """
    macs = sum(layer.macs for layer in image.layers)
    skipped = sum(layer.skipped_macs for layer in image.layers)
    peak = image.arch.macs_per_cycle
    on_host = [node.macs for step in image.steps if isinstance(step, HostStep) for node in step.nodes]
    known = sum(count for count in on_host if count is not None)
    return Description(
        {
            "model": image.model,
            "arch": image.arch.name,
            "digest": image.digest.hex(),
            "cycles": cycles,
            "estimated_cycles": image.cycles,
            "macs": macs,
            "host_macs": known,
            "host_macs_known": None not in on_host,
            "core_share": round(macs / (macs + known), 6) if macs + known else None,
            "notes": list(notes),
            "snr_db": {} if fidelity is None else fidelity.snr(),
            "fidelity": None if fidelity is None else {"summary": fidelity.summary(), **fidelity.account()},
            "skipped_macs": skipped,
            "peak_macs_per_cycle": peak,
            "roofline_cycles": sum(layer.roofline_cycles for layer in image.layers),
            "utilisation": round((macs - skipped) / (peak * cycles), 6) if cycles else 0.0,
            "layers": [
                {
                    "name": layer.name,
                    "op": layer.op,
                    "macs": layer.macs,
                    "skipped_tiles": layer.skipped_tiles,
                    "skipped_macs": layer.skipped_macs,
                    "cycles": counted,
                    "estimated_cycles": layer.cycles,
                    "roofline_cycles": layer.roofline_cycles,
                    "limit": layer.limit,
                    "nodes": list(layer.nodes),
                }
                for layer, counted in zip(
                    image.layers, layer_cycles or [layer.cycles for layer in image.layers], strict=True
                )
            ],
            "steps": step_rows(image),
            "host_nodes": host_rows(image.steps),
        }
    )
