"""How many cycles a stream may take before it is stopped."""

from __future__ import annotations

from dataclasses import dataclass

from systolith.spec.errors import DeviceError
from systolith.spec.image import Image
from systolith.spec.isa import isa_for
from systolith.spec.memory import MemoryTiming
from systolith.spec.regs import DEFAULT_WATCHDOG

__all__ = ["BOARD_MEMORY", "MARGIN", "MOST_CYCLES", "Budget", "budget_of"]

#: How often a program may take what is expected of it, on a memory for which every cycle waits.
MARGIN = 4
#: Most cycles that an image is given on its own word; more are only for who asks for them.
MOST_CYCLES = 1 << 30
#: The slowest memory that a board has: some cycles for a row of an SDRAM, one byte in a cycle.
BOARD_MEMORY = MemoryTiming(latency=64, bytes_per_cycle=1)


@dataclass(frozen=True, slots=True)
class Budget:
    """Cycles after which the load stream, and the run stream of each core step, are stopped."""

    load: int
    runs: tuple[int, ...]


def budget_of(image: Image, memory: MemoryTiming, max_cycles: int | None = None) -> Budget:
    """The budget of an image's streams: `max_cycles` of each, or what the image says of itself.

    A stream gets `MARGIN` times what it would take if each of its cycles, and each of its instructions,
    waited for memory. Cycles of a run stream are the estimate in the image. For the load stream there is
    none: it moves each byte of the program at most once, in a cycle of its own at worst. Two watchdogs come
    on top, so that a core that hangs says so itself. An image is believed up to `MOST_CYCLES`.

    Raises
    ------
    DeviceError   If the image's estimate alone is more than `MOST_CYCLES`.
    """
    if max_cycles is not None:
        return Budget(max_cycles, (max_cycles,) * len(image.cores))
    if image.cycles > MOST_CYCLES:
        raise DeviceError(
            f"one run takes {image.cycles:,} cycles by the image's own estimate, and nobody waits for more "
            f"than {MOST_CYCLES:,} unasked: give --max-cycles (in Python max_cycles) to allow it"
        )
    wait = memory.latency + -(-image.arch.bus_bytes // memory.rate(image.arch))
    words = len(image.program) // isa_for(image.arch).word_bytes

    def allowed(cycles: int, count: int) -> int:
        # Counts of a damaged header are no more than the words that there are.
        expected = (max(0, cycles) + min(max(0, count), words)) * wait
        return min(2 * DEFAULT_WATCHDOG + MARGIN * expected, MOST_CYCLES)

    return Budget(
        allowed(len(image.program), image.load_count),
        tuple(allowed(step.cycles, step.count) for step in image.cores),
    )
