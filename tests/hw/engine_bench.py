"""Configurations and helpers that the tests of memories and engines share."""

import random

from amaranth.lib import wiring

from systolith.hw.interfaces import ActReadSignature, BeatWriteSignature
from systolith.spec.arch import PRESETS, ArchConfig

__all__ = ["EQUAL", "MIXED", "TINY", "WIDE", "SramReads", "fill"]

TINY = PRESETS["tiny"]
#: Fewer lanes than columns, a vector wider than a beat, four blocks.
MIXED = ArchConfig(
    name="mixed",
    rows=4,
    cols=8,
    bus_bits=32,
    act_bytes=1 << 10,
    act_blocks=4,
    weight_bytes=1 << 10,
    weight_rows_per_cycle=2,
    acc_depth=32,
    param_rows=8,
    table_slots=4,
    lanes=2,
)
#: As many lanes as columns: one pixel per cycle.
EQUAL = ArchConfig(
    name="equal",
    rows=4,
    cols=4,
    bus_bits=64,
    act_bytes=1 << 10,
    act_blocks=1,
    weight_bytes=1 << 8,
    weight_rows_per_cycle=4,
    acc_depth=16,
    param_rows=4,
    table_slots=2,
    lanes=4,
)
#: A row of weights that is wider than a beat.
WIDE = ArchConfig(
    name="wide",
    rows=2,
    cols=16,
    bus_bits=64,
    act_bytes=1 << 10,
    act_blocks=2,
    weight_bytes=1 << 9,
    weight_rows_per_cycle=2,
    acc_depth=8,
    param_rows=2,
    table_slots=2,
    lanes=16,
)


async def fill(ctx, port: wiring.PureInterface, arch: ArchConfig, contents: bytes, rng, gap: float) -> int:
    """Write `contents` over a beat port, with idle cycles; returns the cycles in which `valid` was set."""
    assert isinstance(port.signature, BeatWriteSignature)
    beats = list(enumerate(contents[i : i + arch.bus_bytes] for i in range(0, len(contents), arch.bus_bytes)))
    rng.shuffle(beats)
    cycles = 0
    for beat, value in beats:
        while rng.random() < gap:
            ctx.set(port.valid, 0)
            await ctx.tick()
        ctx.set(port.valid, 1)
        ctx.set(port.beat, beat)
        ctx.set(port.data, int.from_bytes(value, "little"))
        ready = False
        while not ready:
            *_, ready = await ctx.tick().sample(port.ready)
            cycles += 1
    ctx.set(port.valid, 0)
    return cycles


class SramReads:
    """The data side of a read port of the activation SRAM: bytes come `ActReadSignature.LATENCY` cycles after
    the grant, and garbage in all other cycles.

    Parameters
    ----------
    sram : sequence of bytes   `arch.act_bytes` of them, read at the grant
    """

    def __init__(self, arch: ArchConfig, sram, rng: random.Random) -> None:
        self._arch, self._sram, self._random = arch, sram, rng
        self._coming: list[bytes | None] = [None] * ActReadSignature.LATENCY

    def word(self) -> int:
        """What the port delivers in the cycle that begins."""
        return int.from_bytes(self._coming.pop(0) or self._random.randbytes(self._arch.act_width), "little")

    def grant(self, addr: int | None) -> None:
        """The address that was granted in the cycle that ends, or None."""
        arch = self._arch
        self._coming.append(
            None
            if addr is None
            else bytes(int(self._sram[(addr + i) % arch.act_bytes]) for i in range(arch.act_width))
        )
