"""SDRAM chips for the Amaranth simulator: configurations that power up fast, and the chip at the pins."""

import dataclasses

from systolith.hw.soc.sdram_chip import GW2AR_18_SDRAM, ULX3S_SDRAM
from systolith.sim.sdram import PINS

__all__ = ["CONFIGS", "drive"]


def _fast(timing, **changes):
    """The same chip with a power-up of 20 cycles, which a simulation can afford."""
    timing = dataclasses.replace(timing, **changes)
    return dataclasses.replace(timing, power_up=20e9 / timing.clock_hz)


#: Chip, bus, registers at the pins.
CONFIGS = {
    "16 bits, CL2": (_fast(ULX3S_SDRAM), 32, 0),
    "16 bits, CL3, bus of 128": (_fast(ULX3S_SDRAM, clock_hz=100_000_000, cas_latency=3, t_ck=7.0), 128, 2),
    "32 bits": (_fast(GW2AR_18_SDRAM), 32, 1),
}


def drive(pins, chip, stepped=lambda: None):
    """A process: a `sim.sdram.SdramChip` at a controller's pins; `stepped` is called after every cycle."""

    async def process(ctx):
        while True:
            _, _, *values = await ctx.tick().sample(*(getattr(pins, name) for name in PINS))
            ctx.set(pins.dq_i, chip.step(**dict(zip(PINS, values, strict=True))))
            stepped()

    return process
