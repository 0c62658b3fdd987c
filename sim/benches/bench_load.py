"""LOAD: random transfers from cocotbext-axi's memory model; after each `done`, every SRAM is the reference
machine's."""

import random

import cocotb
import numpy as np
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiRamRead, AxiReadBus

from systolith.reference.machine import Machine
from systolith.sim.benches.kit import (
    LIMIT,
    Ports,
    check_error,
    feed_commands,
    hold_offers,
    rest,
    set_regions,
    start,
)
from systolith.sim.benches.monitors import watch_axi
from systolith.sim.benches.run import BenchSettings
from systolith.sim.benches.stimulus import aligned_load, random_load
from systolith.spec.isa import Engine

#: Both regions lie in external memory from here on.
PROGRAM, DATA, SIZE = 0x1000, 0x4000, 0x3000
_BEATS = {"weights": "weight", "params": "param", "tables": "table"}


class Srams:
    """The SRAMs behind the engine's write ports, which take a write in a cycle with probability 1 -
    `stall`."""

    def __init__(self, dut, settings: BenchSettings, rng: random.Random, stall: float) -> None:
        arch = settings.arch
        self.arch, self.rng, self.stall = arch, rng, stall
        self.act = np.zeros(arch.act_bytes, np.uint8)
        self.weight, self.param, self.table = (
            np.zeros(size, np.uint8) for size in (arch.weight_bytes, arch.param_bytes, arch.table_bytes)
        )
        self._act = Ports(dut, "act")
        self._beats = {name: Ports(dut, port) for port, name in _BEATS.items()}

    def prepare(self) -> None:
        """Before an edge: decide which ports take a write."""
        for port in (self._act, *self._beats.values()):
            port.ready = self.rng.random() >= self.stall

    def take(self) -> None:
        """At an edge: the writes that took place."""
        act, arch = self._act, self.arch
        if act.valid and act.ready:
            addr, mask, data = act.addr, act.mask, act.data
            for lane in range(arch.act_width):
                if mask >> lane & 1:
                    self.act[(addr + lane) % arch.act_bytes] = data >> 8 * lane & 255
        for name, port in self._beats.items():
            if port.valid and port.ready:
                at = port.beat * arch.bus_bytes
                getattr(self, name)[at : at + arch.bus_bytes] = np.frombuffer(
                    port.data.to_bytes(arch.bus_bytes, "little"), np.uint8
                )

    def compare(self, machine: Machine, what: str) -> None:
        """Every byte of every SRAM."""
        for name in ("act", *_BEATS.values()):
            expected, actual = getattr(machine, name).view(np.uint8), getattr(self, name)
            if not np.array_equal(actual, expected):
                at = int(np.flatnonzero(actual != expected)[0])
                raise AssertionError(f"{what}: {name}[{at}] is {actual[at]}, not {expected[at]}")


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.4])
async def transfers_arrive(dut, stall):
    """Effects of one instruction are complete when it is done, and those of the next have not begun."""
    settings = BenchSettings.current()
    arch, seed = settings.arch, settings.seed
    rng = random.Random(f"{seed} {stall}")
    contents = rng.randbytes(SIZE + DATA - PROGRAM)
    ram = AxiRamRead(AxiReadBus.from_prefix(dut, "axi_"), dut.clk, dut.rst, size=1 << 16)
    ram.write(PROGRAM, contents)
    rest(rng, stall, ram)
    instrs = [(aligned_load if i % 3 == 2 else random_load)(arch, rng) for i in range(settings.count)]
    memory = np.frombuffer(contents, np.uint8)
    machine = Machine(arch, memory[: DATA - PROGRAM], memory[DATA - PROGRAM :])
    set_regions(dut, program=(PROGRAM, DATA - PROGRAM), data=(DATA, SIZE))
    await start(dut)
    cocotb.start_soon(watch_axi(dut, arch.bus_bytes, seed=seed))
    cocotb.start_soon(hold_offers(dut, "act", ("addr", "mask", "data"), seed=seed))
    for port in _BEATS:
        cocotb.start_soon(hold_offers(dut, port, ("beat", "data"), seed=seed))
    cocotb.start_soon(feed_commands(dut, arch, Engine.LOAD, instrs, rng, stall))
    engine, srams = Ports(dut, "engine"), Srams(dut, settings, rng, stall)
    done = 0
    for _ in range(LIMIT):
        srams.prepare()
        await RisingEdge(dut.clk)
        srams.take()
        check_error(engine, seed)
        if engine.done:
            assert done < len(instrs), f"seed {seed}: done once too often"
            machine.execute(instrs[done])
            srams.compare(machine, f"seed {seed}, instruction {done}, {instrs[done]}")
            done += 1
        if done == len(instrs) and engine.idle:
            return
    raise AssertionError(f"seed {seed}: LOAD hangs in instruction {done}: {instrs[done]}")
