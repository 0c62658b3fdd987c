"""What a build says of itself: resources, clock, critical path, and what that means for models."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from systolith.boards.board import Board

__all__ = ["BuildReport", "PathStep", "from_nextpnr", "from_yosys"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PathStep:
    """One piece of the critical path: `kind` is nextpnr's ('clk-to-q', 'logic', 'routing', 'setup'), `delay`
    in ns."""

    kind: str
    delay: float
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """The outcome of a build.

    Parameters
    ----------
    board, part : str
    used : dict            resource -> (used, what the part has, or None where the tools do not say)
    clock_hz : float       that the routed design reaches; None where it was not routed
    wanted_hz : int        that the board's clock is
    path : tuple           the critical path, in the design's own names
    seconds, seed, tools   of the build; a tool as `tooling.tools.Tool.as_dict` gives it
    bitstream : str        None where there is none
    models : tuple         see `with_models`
    """

    board: str
    part: str
    used: dict[str, tuple[int, int | None]]
    clock_hz: float | None
    wanted_hz: int
    path: tuple[PathStep, ...] = ()
    seconds: float = 0.0
    seed: int = 0
    tools: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    bitstream: str | None = None
    models: tuple[dict, ...] = ()

    @property
    def reaches_clock(self) -> bool:
        """Whether the design runs at the board's clock; true where it was not routed."""
        return self.clock_hz is None or self.clock_hz >= self.wanted_hz

    @property
    def excess(self) -> tuple[str, ...]:
        """Resources of which the part has too few."""
        return tuple(
            name
            for name, (used, available) in self.used.items()
            if available is not None and used > available
        )

    def with_build(self, *, seconds: float, seed: int, tools: Mapping[str, dict[str, str]]) -> BuildReport:
        """The same with what the build was."""
        return dataclasses.replace(self, seconds=seconds, seed=seed, tools=dict(tools))

    def with_bitstream(self, path: Path) -> BuildReport:
        """The same with the file that came out."""
        return dataclasses.replace(self, bitstream=str(path))

    def with_models(self, cycles: Mapping[str, int]) -> BuildReport:
        """The same with inferences per second, from cycles of one inference on the board in simulation, at
        the board's clock."""
        models = tuple(
            {"model": name, "cycles": count, "inferences_per_second": round(self.wanted_hz / count, 1)}
            for name, count in cycles.items()
        )
        return dataclasses.replace(self, models=models)

    def as_dict(self) -> dict:
        """As plain values."""
        values = dataclasses.asdict(self)
        values["used"] = {
            name: {"used": used, "available": available} for name, (used, available) in self.used.items()
        }
        values["reaches_clock"] = self.reaches_clock
        values["path_ns"] = round(sum(step.delay for step in self.path), 3)
        return values


def from_nextpnr(board: Board, report: dict) -> BuildReport:
    """The report of nextpnr's `--report` file."""
    utilisation = report["utilization"]
    used = {}
    for label, names in board.part.resources.items():
        found = [utilisation[name] for name in names if name in utilisation]
        available = board.part.capacity.get(label, sum(entry["available"] for entry in found))
        used[label] = (sum(entry["used"] for entry in found), available)
    # The clock of the design is the one that was asked for; others are those of pins.
    clocks = [
        entry
        for entry in report["fmax"].values()
        if abs(entry["constraint"] * 1e6 - board.clock_hz) < 0.01 * board.clock_hz
    ] or list(report["fmax"].values())
    reached = min(entry["achieved"] for entry in clocks) * 1e6
    paths = [path for path in report["critical_paths"] if path["from"].split()[-1] == path["to"].split()[-1]]
    longest = max(paths, key=lambda path: sum(step["delay"] for step in path["path"]), default={"path": []})
    steps = tuple(
        PathStep(kind=step["type"], delay=round(step["delay"], 3), name=_named(step))
        for step in longest["path"]
    )
    return BuildReport(
        board=board.name,
        part=board.part.name,
        used=used,
        clock_hz=reached,
        wanted_hz=board.clock_hz,
        path=steps,
    )


def _named(step: dict) -> str:
    """The net or cell of a step, without what synthesis appended."""
    name = step.get("net") or step["to"]["cell"]
    return (
        re.sub(r"(_TRELLIS_|_LUT[1-4]_|_ALU_|_SB_|_PFUMX_|_L6MUX|_CCU2C_|_DFF|_MUX2|\$).*$", "", name).strip(
            "."
        )
        or name
    )


def from_yosys(board: Board, text: str) -> BuildReport:
    """The resources of yosys' `stat -json`, for a part that nextpnr does not place here."""
    cells = json.loads(text)["design"]["num_cells_by_type"]
    used = {
        label: (sum(cells.get(name, 0) for name in names), board.part.capacity.get(label))
        for label, names in board.part.resources.items()
    }
    return BuildReport(
        board=board.name, part=board.part.name, used=used, clock_hz=None, wanted_hz=board.clock_hz
    )
