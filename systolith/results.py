"""What an inference and a verification give, and what the reports say of an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from systolith.evidence.difference import Difference, DifferenceError
from systolith.spec.image import Image
from systolith.spec.notebook import html_table
from systolith.spec.printable import excerpt
from systolith.spec.segments import HostPart

__all__ = ["BackendResult", "Description", "RunResult", "VerifyResult", "describe", "host_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What one inference gave.

    Parameters
    ----------
    outputs     : per output of the model, an array of its own shape and type
    raw         : per output of the core, its int8 values
    cycles      : of the run stream; 0 on the reference, which has no clock
    load_cycles : of the load stream
    seconds     : wall time of the run stream
    host         : the nodes before and after the core, or None
    host_seconds : wall time of those 'before' and 'after' it
    layer_cycles : counted on a device with a clock that tells when instructions are done; else None
    tools        : what built the simulated device, by name, see `tooling.tools.Tool.as_dict`
    """

    outputs: dict[str, np.ndarray]
    raw: dict[str, np.ndarray]
    cycles: int
    load_cycles: int
    seconds: float
    host: HostPart | None = None
    host_seconds: dict[str, float] = field(default_factory=dict)
    layer_cycles: tuple[int, ...] | None = None
    tools: dict[str, dict[str, str]] = field(default_factory=dict)

    def __repr__(self) -> str:
        counted = f"{self.cycles:,} cycles, {self.load_cycles:,} to load, " if self.cycles else ""
        return f"<RunResult {_listed(self.outputs)}: {counted}{self.seconds:.2f} s>"

    def _repr_html_(self) -> str:
        rows = [(name, value.dtype, list(value.shape)) for name, value in self.outputs.items()]
        return html_table("outputs", ("output", "type", "shape"), rows, repr(self)[1:-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendResult:
    """Cost of one backend in a verification; `cycles` is ``None`` for the reference, `layer_cycles` where
    there is no clock."""

    seconds: float
    cycles: int | None = None
    load_cycles: int | None = None
    layer_cycles: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """The answer of `verify`; `as_dict` is the JSON of the command line.

    `host_seconds` is the wall time of the nodes before and after the core, the shortest of all backends'
    inferences; `snr_db` the signal to noise against the float model, as `fidelity.signal_to_noise` gives it;
    `tools` what built the simulated devices, as in `RunResult`.
    """

    model: str
    image: Image
    seed: int | None
    backends: dict[str, BackendResult]
    differences: tuple[Difference, ...]
    host_seconds: dict[str, float] = field(default_factory=dict)
    compile_seconds: float = 0.0
    snr_db: dict[str, dict[str, float | None]] = field(default_factory=dict)
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
        """Cycles of the run stream: counted by RTL, else by the machine, else the compiler's estimate."""
        for name in ("rtl", "netlist", "machine"):
            if name in self.backends and (cycles := self.backends[name].cycles):
                return cycles
        return self.image.cycles

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
        backends = {}
        for name, result in self.backends.items():
            backends[name] = {"seconds": round(result.seconds, 6)}
            if result.cycles is not None:
                backends[name]["cycles"] = result.cycles
            if name in ("rtl", "netlist") and result.cycles:
                backends[name]["cycles_per_second"] = round(result.cycles / max(result.seconds, 1e-9), 1)
        return {
            **describe(
                self.image, self.cycles, self.backends["rtl"].layer_cycles if "rtl" in self.backends else None
            ),
            "compile_seconds": round(self.compile_seconds, 6),
            "bit_exact": self.bit_exact,
            "seed": self.seed,
            "snr_db": self.snr_db,
            "tools": self.tools,
            "backends": backends,
            "load_cycles": load_cycles,
            "host_nodes": host_rows(self.image.host, self.host_seconds),
            "differences": [difference.as_dict() for difference in self.differences],
        }


def host_rows(host: HostPart | None, seconds: Mapping[str, float] | None = None) -> list[dict[str, Any]]:
    """The nodes on the host as plain values; with `segment_seconds`, the wall time of a node's whole segment,
    once it ran."""
    rows = [] if host is None else [dataclasses.asdict(node) for node in host.nodes]
    for row in rows:
        if seconds and row["segment"] in seconds:
            row["segment_seconds"] = round(seconds[row["segment"]], 6)
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
            f"cycles, {self['utilisation']:.1%} of peak"
        )


def _listed(arrays: Mapping[str, np.ndarray]) -> str:
    """Names, types and shapes of the first arrays."""
    shown = [
        f"{excerpt(name, 32)} {value.dtype}{list(value.shape)}" for name, value in list(arrays.items())[:3]
    ]
    return ", ".join(shown) + (f" and {len(arrays) - 3} more" if len(arrays) > 3 else "")


def describe(image: Image, cycles: int, layer_cycles: Sequence[int] | None = None) -> Description:
    """Size, roofline and layers of an image as plain values, and the utilisation that `cycles` gives.

    `layer_cycles` are those counted on a device; where there are none, those of the cycle model stand for
    them.
    """
    macs = sum(layer.macs for layer in image.layers)
    skipped = sum(layer.skipped_macs for layer in image.layers)
    peak = image.arch.macs_per_cycle
    return Description(
        {
            "model": image.model,
            "arch": image.arch.name,
            "digest": image.digest.hex(),
            "cycles": cycles,
            "estimated_cycles": image.cycles,
            "macs": macs,
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
            "host_nodes": host_rows(image.host),
        }
    )
