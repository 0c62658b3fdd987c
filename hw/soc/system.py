"""All of a board but its clocks and pins: the core, its memory, and the link by which a host reaches both."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.hw.core.core import Core
from systolith.hw.soc.link import HostLink
from systolith.hw.soc.memory_arbiter import MemoryArbiter
from systolith.spec.arch import ArchConfig
from systolith.spec.link import PAYLOAD_BYTES

__all__ = ["System"]


class System(wiring.Component):
    """Core and host link, which share one memory.

    Parameters
    ----------
    arch : ArchConfig
    memory : Component     subordinate ``axi`` of the core's widths, and ``pins`` where it has any
    divisor : int          clock cycles per bit of the serial line
    payload_bytes : int    most bytes of one request of the link

    Members
    -------
    rx : In(1), tx : Out(1)   the serial line
    pins                      those of `memory`
    """

    def __init__(self, arch: ArchConfig, memory: wiring.Component, *, divisor: int, payload_bytes: int = PAYLOAD_BYTES) -> None:
        self._arch = arch
        self._memory = memory
        self._link = {"bus_bits": arch.bus_bits, "addr_bits": arch.addr_bits, "divisor": divisor, "payload_bytes": payload_bytes}
        pins = {name: member for name, member in memory.signature.members.items() if name == "pins"}
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), **pins})

    def elaborate(self, platform) -> Module:
        m = Module()
        arch = self._arch
        m.submodules.core = core = Core(arch)
        m.submodules.link = link = HostLink(**self._link)
        m.submodules.arbiter = arbiter = MemoryArbiter(bus_bits=arch.bus_bits, addr_bits=arch.addr_bits)
        m.submodules.memory = memory = self._memory
        wiring.connect(m, core.axi, arbiter.core)
        wiring.connect(m, link.memory, arbiter.link)
        wiring.connect(m, arbiter.memory, memory.axi)
        wiring.connect(m, link.csr, core.csr)
        m.d.comb += [link.rx.eq(self.rx), self.tx.eq(link.tx)]
        if "pins" in memory.signature.members:
            wiring.connect(m, memory.pins, wiring.flipped(self.pins))
        return m
