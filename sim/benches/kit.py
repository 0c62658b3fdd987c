"""What the benches share: clock and reset, commands, random stalls, and the checks that run beside every
test.

A bench lives in clock cycles. It sets inputs, awaits `RisingEdge` and then reads the values that held up to
this edge; what it sets next holds from this edge on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from systolith.hw.interfaces import command_layout
from systolith.sim.benches.checks import command_bits
from systolith.sim.twins import DIFFERS
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Engine, Instr
from systolith.spec.regs import ErrorCode

__all__ = [
    "LIMIT",
    "Ports",
    "check_error",
    "feed_commands",
    "fill_tables",
    "hold_offers",
    "rest",
    "set_regions",
    "start",
]

#: Longest that a bench waits for anything, in cycles.
LIMIT = 60_000


class Ports:
    """The ports of a design whose names begin with `prefix`, as integers.

    ``ports.valid`` reads, ``ports.valid = 1`` sets; a name that does not exist is an AttributeError.
    """

    def __init__(self, dut, prefix: str = "") -> None:
        object.__setattr__(self, "_handles", {})
        object.__setattr__(self, "_dut", dut)
        object.__setattr__(self, "_prefix", f"{prefix}__" if prefix else "")

    def _handle(self, name: str):
        if name not in self._handles:
            self._handles[name] = getattr(self._dut, f"{self._prefix}{name}")
        return self._handles[name]

    def __getattr__(self, name: str) -> int:
        return int(self._handle(name).value)

    def __setattr__(self, name: str, value: int) -> None:
        self._handle(name).value = int(value)


async def start(dut) -> None:
    """Start the clock and hold reset for four cycles. A test that hangs fails by its own limit, not by
    time."""
    dut.rst.value = 1
    cocotb.start_soon(Clock(dut.clk, 10, unit="ns").start())
    for _ in range(4):
        await RisingEdge(dut.clk)
    dut.rst.value = 0
    await RisingEdge(dut.clk)
    if hasattr(dut, DIFFERS):
        cocotb.start_soon(_hold_equal(dut))


async def _hold_equal(dut) -> None:
    """For ever: both descriptions of a design that runs as a pair give the same (see `sim.twins`).

    Raises
    ------
    AssertionError   Where they do not, naming the outputs; cocotb ends the test with it.
    """
    cycle = 0
    while True:
        await RisingEdge(dut.clk)
        if int(getattr(dut, DIFFERS).value):
            prefix = f"{DIFFERS}__"
            names = [h._name[len(prefix) :] for h in dut if h._name.startswith(prefix) and int(h.value)]
            raise AssertionError(
                f"the two descriptions differ in {', '.join(names)}, {cycle} cycles after reset"
            )
        cycle += 1


async def feed_commands(
    dut, arch: ArchConfig, engine: Engine, instrs: list[Instr], rng: random.Random, gap: float
) -> None:
    """Offer instructions one after another, with idle cycles of probability `gap` and random payloads in
    them."""
    cmd = Ports(dut, "engine__cmd")
    bits = command_layout(arch, engine).size
    for instr in instrs:
        while rng.random() < gap:
            cmd.payload = rng.getrandbits(bits)
            await RisingEdge(dut.clk)
        cmd.payload, cmd.valid = command_bits(arch, engine, instr, rng), 1
        await RisingEdge(dut.clk)
        while not cmd.ready:
            await RisingEdge(dut.clk)
        cmd.valid = 0


async def fill_tables(dut, arch: ArchConfig, contents: bytes, rng: random.Random) -> None:
    """Write the tables over ``table_write``, in random order."""
    port, step = Ports(dut, "table_write"), arch.bus_bytes
    beats = list(range(0, len(contents), step))
    rng.shuffle(beats)
    for at in beats:
        port.valid, port.beat, port.data = 1, at // step, int.from_bytes(contents[at : at + step], "little")
        await RisingEdge(dut.clk)
        while not port.ready:
            await RisingEdge(dut.clk)
    port.valid = 0


async def hold_offers(dut, prefix: str, payload: tuple[str, ...], *, seed: int) -> None:
    """For ever: an offer of ``<prefix>__valid`` stays, with its payload, until ``<prefix>__ready``.

    Raises
    ------
    AssertionError   Where one does not; cocotb ends the test with it.
    """
    ports = Ports(dut, prefix)
    waiting = None
    while True:
        await RisingEdge(dut.clk)
        offer = tuple(getattr(ports, name) for name in payload) if ports.valid else None
        assert waiting is None or offer == waiting, (
            f"seed {seed}: {prefix} offered {waiting}, then {offer}, without being taken"
        )
        waiting = None if ports.ready else offer


def _pauses(rng: random.Random, probability: float) -> Iterator[bool]:
    """A pause generator for cocotbext-axi: whether a channel rests in the next cycle."""
    while True:
        yield rng.random() < probability


#: Channels as cocotbext-axi names them.
_CHANNELS = ("aw_channel", "w_channel", "b_channel", "ar_channel", "r_channel")


def rest(rng: random.Random, probability: float, *models) -> None:
    """Let every channel of cocotbext-axi's masters and memories rest in a cycle with this probability."""
    if not probability:
        return
    for model in models:
        for part in (model, getattr(model, "write_if", None), getattr(model, "read_if", None)):
            for name in _CHANNELS:
                if (channel := getattr(part, name, None)) is not None:
                    channel.set_pause_generator(_pauses(rng, probability))


def set_regions(dut, **regions: tuple[int, int]) -> None:
    """Base and size of regions `program` and `data`."""
    for name, (base, size) in regions.items():
        port = Ports(dut, f"regions__{name}")
        port.base, port.size = base, size


def check_error(engine: Ports, seed: int) -> None:
    """No engine may report an error where every instruction is legal."""
    assert not engine.error, f"seed {seed}: the engine reports {ErrorCode(engine.error_code).name}"
