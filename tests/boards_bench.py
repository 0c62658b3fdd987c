"""A board small enough for tests: the smallest core with SDRAM, and lines and resets that misbehave."""

import dataclasses
import random

from systolith.boards.board import ECP5_85, Board
from systolith.hw.soc.sdram_chip import ULX3S_SDRAM
from systolith.sim.board import SimulatedBoard
from systolith.spec.arch import PRESETS
from tests.link_model import damage

__all__ = ["SMALL", "FaultyBoard", "simulate"]

_ARCH = dataclasses.replace(PRESETS["tiny"], name="small", bus_bits=32)
#: Its chip starts up faster than a real one, so that a test waits less.
SMALL = Board(
    name="small",
    title="small",
    arch=_ARCH,
    part=ECP5_85,
    memory=dataclasses.replace(ULX3S_SDRAM, power_up=5_000.0),
    baud=3_000_000,
)


def simulate(board: Board, kind: type[SimulatedBoard] = SimulatedBoard, **options) -> SimulatedBoard:
    """A board in simulation, as `systolith.device_port` makes it."""
    return kind(board.arch, board.memory, name=f"sim:{board.name}", pin_cycles=board.pin_cycles, **options)


class FaultyBoard(SimulatedBoard):
    """A board behind a line that damages some of what passes, in both directions, holds it low, and presses
    the reset button.

    Parameters
    ----------
    seed : int
    faults : float   probability that a request is damaged, and that its answer is
    breaks : float   probability of a break of up to three bytes
    resets : float   probability of a reset while a request is on the line
    """

    #: Lost requests are common here, so the host does not wait long for their answers.
    latency = 0.000_1

    def __init__(
        self, *args, seed: int, faults: float = 0.0, breaks: float = 0.0, resets: float = 0.0, **options
    ) -> None:
        super().__init__(*args, **options)
        self.rng = random.Random(seed)
        self.faults, self.breaks, self.resets = faults, breaks, resets
        self.reset_count = 0
        #: Reads until one is damaged.
        self.reads_left = -1

    def write(self, data: bytes) -> None:
        super().write(
            damage(data, self.rng, self.rng.randint(1, 3)) if self.rng.random() < self.faults else data
        )
        self.reads_left = self.rng.randrange(12) if self.rng.random() < self.faults else -1
        bits = self.clock_hz // self.baud
        if self.rng.random() < self.breaks:
            self.run(self.rng.randrange(10 * bits * len(data)))
            self.hold_low(self.rng.randrange(1, 30 * bits))
        if self.rng.random() < self.resets:
            self.run(self.rng.randrange(20 * bits * len(data)))
            self.reset()
            self.reset_count += 1

    def read(self, timeout: float) -> bytes:
        data = super().read(timeout)
        self.reads_left -= 1
        return damage(data, self.rng, 1) if data and self.reads_left == -1 else data
