"""External memory, as the cycle model and the simulation see it."""

from __future__ import annotations

from dataclasses import dataclass

from systolith.spec.arch import ArchConfig
from systolith.spec.errors import SystolithError

__all__ = [
    "BURST_BEATS",
    "FETCH_BEATS",
    "FULL_RATE",
    "MemoryTiming",
    "MemoryTimingError",
    "SIMULATED_MEMORY_BYTES",
]


#: Longest burst that the core begins.
BURST_BEATS = 16
#: Beats of the instruction stream that the core reads ahead.
FETCH_BEATS = 4 * BURST_BEATS
#: What machine and simulated core have at most; a process must be able to hold all of it.
SIMULATED_MEMORY_BYTES = 1 << 30


class MemoryTimingError(SystolithError, ValueError):
    """A memory that cannot be; the text names the parameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTiming:
    """Latency and rate of external memory.

    Parameters
    ----------
    latency : int           cycles from a read request to its first beat, and from a write's last beat to its
              response
    bytes_per_cycle : int   what the memory delivers; None: as much as the bus carries

    Raises
    ------
    MemoryTimingError   If latency is negative or the rate not positive.
    """

    latency: int = 32
    bytes_per_cycle: int | None = None

    def __post_init__(self) -> None:
        if self.latency < 0:
            raise MemoryTimingError(f"the memory's latency must be 0 cycles or more, not {self.latency}")
        if self.bytes_per_cycle is not None and self.bytes_per_cycle < 1:
            raise MemoryTimingError(
                f"the memory must deliver at least 1 byte per cycle, not {self.bytes_per_cycle}"
            )

    def rate(self, arch: ArchConfig) -> int:
        """Bytes per cycle on the bus of this core."""
        return min(arch.bus_bytes, self.bytes_per_cycle or arch.bus_bytes)


#: A memory that keeps the bus busy.
FULL_RATE = MemoryTiming()
