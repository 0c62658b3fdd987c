"""All of a board but its clocks and pins: the core, its memory, and the link by which a host reaches both."""

import json
from dataclasses import asdict
from pathlib import Path

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.hw.build import VerilogFiles, generate_component
from systolith.hw.cores import core_for
from systolith.hw.soc.link import HostLink
from systolith.hw.soc.memory_arbiter import MemoryArbiter
from systolith.hw.soc.on_chip import OnChipMemory, OnChipRam
from systolith.hw.soc.sdram import SdramController
from systolith.hw.soc.sdram_chip import SdramTiming
from systolith.hw.soc.turn_arbiter import TurnArbiter
from systolith.spec.arch import ArchConfig
from systolith.spec.link import PAYLOAD_BYTES

__all__ = ["System", "generate_system", "make_memory"]


def make_memory(
    memory: SdramTiming | OnChipRam, arch: ArchConfig, *, pin_cycles: int = 0
) -> wiring.Component:
    """The memory of a board: subordinate ``axi`` of the core's widths, and ``pins`` where it has a chip
    outside.

    Parameters
    ----------
    memory : SdramTiming | OnChipRam
    pin_cycles : int       registers between SDRAM controller and chip, see `SdramEngine`
    """
    if isinstance(memory, OnChipRam):
        return OnChipMemory(memory.bytes, addr_bits=arch.addr_bits)
    return SdramController(memory, bus_bits=arch.bus_bits, addr_bits=arch.addr_bits, pin_cycles=pin_cycles)


class System(wiring.Component):
    """Core and host link, which share one memory.

    Parameters
    ----------
    arch : ArchConfig
    memory : Component     see `make_memory`
    divisor : int          clock cycles per bit of the serial line
    payload_bytes : int    most bytes of one request of the link

    Members
    -------
    rx : In(1), tx : Out(1)   the serial line
    pins                      those of `memory`
    """

    def __init__(
        self, arch: ArchConfig, memory: wiring.Component, *, divisor: int, payload_bytes: int = PAYLOAD_BYTES
    ) -> None:
        self._arch = arch
        self._memory = memory
        self._link = {
            "bus_bits": arch.bus_bits,
            "addr_bits": arch.addr_bits,
            "divisor": divisor,
            "payload_bytes": payload_bytes,
        }
        pins = {name: member for name, member in memory.signature.members.items() if name == "pins"}
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), **pins})

    def elaborate(self, platform) -> Module:
        m = Module()
        arch = self._arch
        m.submodules.core = core = core_for(arch)
        m.submodules.link = link = HostLink(**self._link)
        # On-chip memory serves one burst at a time, so there is nothing to gain from more under way.
        kind = TurnArbiter if isinstance(self._memory, OnChipMemory) else MemoryArbiter
        m.submodules.arbiter = arbiter = kind(bus_bits=arch.bus_bits, addr_bits=arch.addr_bits)
        m.submodules.memory = memory = self._memory
        wiring.connect(m, core.axi, arbiter.core)
        wiring.connect(m, link.memory, arbiter.link)
        wiring.connect(m, arbiter.memory, memory.axi)
        wiring.connect(m, link.csr, core.csr)
        m.d.comb += [link.rx.eq(self.rx), self.tx.eq(link.tx)]
        if "pins" in memory.signature.members:
            wiring.connect(m, memory.pins, wiring.flipped(self.pins))
        return m


def generate_system(
    arch: ArchConfig,
    memory: SdramTiming | OnChipRam,
    *,
    divisor: int,
    payload_bytes: int = PAYLOAD_BYTES,
    pin_cycles: int = 0,
    cache_dir: str | Path | None = None,
    device: str = "",
) -> VerilogFiles:
    """The Verilog of a system with its memory, module ``system``, from the cache if it holds it.

    Parameters
    ----------
    memory, pin_cycles : see `make_memory`
    divisor, payload_bytes : see `System`
    cache_dir : path       see `tooling.cache.Cache`
    device : str           see `VerilogPlatform`

    Raises
    ------
    BuildError, SdramError
    """

    def make() -> System:
        return System(
            arch,
            make_memory(memory, arch, pin_cycles=pin_cycles),
            divisor=divisor,
            payload_bytes=payload_bytes,
        )

    parameters = {
        "arch": arch.to_dict(),
        "memory": asdict(memory),
        "divisor": divisor,
        "payload_bytes": payload_bytes,
        "pin_cycles": pin_cycles,
    }
    return generate_component("system", make, json.dumps(parameters), cache_dir=cache_dir, device=device)
