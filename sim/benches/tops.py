"""Top modules of the benches: what stands between an engine and its bench."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.hw.build import VerilogPlatform, component_text, generate
from systolith.hw.engine.load import LoadEngine
from systolith.hw.engine.matrix import MatrixEngine
from systolith.hw.engine.output import OutputEngine
from systolith.hw.engine.store import StoreEngine
from systolith.hw.engine.transfer import RegionSignature
from systolith.hw.engine.vector import VectorEngine
from systolith.hw.interfaces import ActReadSignature, ActWriteSignature, BeatWriteSignature, EngineSignature
from systolith.hw.soc.axi import Axi4Signature, ReadArbiter
from systolith.hw.soc.link import HostLink
from systolith.hw.soc.sdram import SdramController
from systolith.hw.soc.sdram_chip import ULX3S_SDRAM
from systolith.spec.arch import ArchConfig
from systolith.spec.isa import Engine
from systolith.tooling.cache import Cache

__all__ = [
    "BENCHES",
    "LINK_DIVISOR",
    "PIN_CYCLES",
    "SDRAM",
    "LoadTop",
    "StoreTop",
    "bench_verilog",
    "component_verilog",
]


class LoadTop(wiring.Component):
    """LoadEngine behind the read channels of an AXI4 manager; the write channels rest.

    Members
    -------
    axi : Out(Axi4Signature)
    engine, regions : In     as of `LoadEngine`
    act, weights, params, tables : Out
    """

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        super().__init__(
            {
                "axi": Out(Axi4Signature(arch.bus_bits, arch.addr_bits)),
                "engine": In(EngineSignature(arch, Engine.LOAD)),
                "act": Out(ActWriteSignature(arch)),
                "regions": In(RegionSignature(arch)),
                "weights": Out(BeatWriteSignature(arch, arch.weight_bytes)),
                "params": Out(BeatWriteSignature(arch, arch.param_bytes)),
                "tables": Out(BeatWriteSignature(arch, arch.table_bytes)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.load = load = LoadEngine(self._arch)
        m.submodules.arbiter = arbiter = ReadArbiter(self._arch, 1)
        wiring.connect(m, load.bus, arbiter.clients[0])
        for name in ("engine", "act", "weights", "params", "tables", "regions"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(load, name))
        axi = self.axi
        m.d.comb += [
            axi.arvalid.eq(arbiter.bursts.valid),
            arbiter.bursts.ready.eq(axi.arready),
            axi.araddr.eq(arbiter.bursts.payload.addr),
            axi.arlen.eq(arbiter.bursts.payload.len),
            axi.arsize.eq(_size(self._arch)),
            axi.arburst.eq(1),
            arbiter.beats.valid.eq(axi.rvalid),
            axi.rready.eq(arbiter.beats.ready),
            arbiter.beats.payload.data.eq(axi.rdata),
            arbiter.beats.payload.last.eq(axi.rlast),
            arbiter.beats.payload.error.eq(axi.rresp[1]),
        ]
        return m


class StoreTop(wiring.Component):
    """StoreEngine behind the write channels of an AXI4 manager; the read channels rest.

    Members
    -------
    axi : Out(Axi4Signature)
    engine, regions : In     as of `StoreEngine`
    read : Out(ActReadSignature)
    """

    def __init__(self, arch: ArchConfig) -> None:
        self._arch = arch
        super().__init__(
            {
                "axi": Out(Axi4Signature(arch.bus_bits, arch.addr_bits)),
                "engine": In(EngineSignature(arch, Engine.STORE)),
                "read": Out(ActReadSignature(arch)),
                "regions": In(RegionSignature(arch)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.store = store = StoreEngine(self._arch)
        for name in ("engine", "read", "regions"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(store, name))
        axi, bus = self.axi, store.bus
        m.d.comb += [
            axi.awvalid.eq(bus.bursts.valid),
            bus.bursts.ready.eq(axi.awready),
            axi.awaddr.eq(bus.bursts.payload.addr),
            axi.awlen.eq(bus.bursts.payload.len),
            axi.awsize.eq(_size(self._arch)),
            axi.awburst.eq(1),
            axi.wvalid.eq(bus.beats.valid),
            bus.beats.ready.eq(axi.wready),
            axi.wdata.eq(bus.beats.payload.data),
            axi.wstrb.eq(bus.beats.payload.strobe),
            axi.wlast.eq(bus.beats.payload.last),
            axi.bready.eq(1),
            bus.response.eq(axi.bvalid),
            bus.error.eq(axi.bresp[1]),
        ]
        return m


def _size(arch: ArchConfig) -> int:
    """AxSIZE of a full-width beat."""
    return (arch.bus_bytes - 1).bit_length()


#: Chip of bench `sdram`, and registers between it and the controller, as on the board.
SDRAM, PIN_CYCLES = ULX3S_SDRAM, 2
#: Clock cycles per bit of bench `link`.
LINK_DIVISOR = 5


def _sdram(arch: ArchConfig) -> SdramController:
    return SdramController(SDRAM, bus_bits=arch.bus_bits, addr_bits=arch.addr_bits, pin_cycles=PIN_CYCLES)


def _link(arch: ArchConfig) -> HostLink:
    return HostLink(bus_bits=arch.bus_bits, addr_bits=arch.addr_bits, divisor=LINK_DIVISOR)


#: What each bench but `core` runs on.
_TOPS = {
    "load": LoadTop,
    "store": StoreTop,
    "matrix": MatrixEngine,
    "output": OutputEngine,
    "vector": VectorEngine,
    "sdram": _sdram,
    "link": _link,
}
#: The benches by name.
BENCHES = (*_TOPS, "core")


def bench_verilog(bench: str, arch: ArchConfig) -> tuple[dict[str, str], str]:
    """Verilog of a bench's design: file name to text, and the name of the top module.

    Raises
    ------
    ValueError   If there is no such bench.
    """
    if bench == "core":
        return generate(arch).sources, "core"
    if bench not in _TOPS:
        raise ValueError(f"bench must be one of {', '.join(BENCHES)}, not {bench!r}")
    return component_verilog(_TOPS[bench](arch), bench)


def component_verilog(component: wiring.Component, name: str, device: str = "") -> tuple[dict[str, str], str]:
    """Verilog of any component as the benches take it; the top module is ``<name>_top``, `device` the FPGA
    whose own cells may stand in it (see `VerilogPlatform`)."""
    # Not the bare name: `output` is a word of Verilog.
    top = f"{name}_top"
    platform = VerilogPlatform(device)
    with Cache().scratch(top) as work:
        text = component_text(component, top, platform, work)
    return {f"{top}.v": text, **platform.sources}, top
