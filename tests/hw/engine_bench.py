"""Configurations and helpers that the tests of memories and engines share."""

from amaranth.lib import wiring

from systolith.hw.interfaces import BeatWriteSignature
from systolith.spec.arch import PRESETS, ArchConfig

__all__ = ["EQUAL", "MIXED", "TINY", "WIDE", "accepted", "fill"]

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


async def accepted(ctx, stream) -> None:
    """Wait until an offer is taken (unlike `until`, this may be abandoned at the end of a simulation)."""
    ready = False
    while not ready:
        *_, ready = await ctx.tick().sample(stream.ready)


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
