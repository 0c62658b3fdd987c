"""The arbiter for a memory that serves one burst at a time: a third of the size of `MemoryArbiter`."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.hw.soc.axi import Axi4Signature

__all__ = ["TurnArbiter"]

_ADDRESS = ("addr", "len", "size", "burst", "lock", "cache", "prot")


class TurnArbiter(wiring.Component):
    """Two AXI4 managers share one memory, burst by burst. Where both offer one, the core's goes first, and
    its reads before its writes.

    Parameters
    ----------
    bus_bits, addr_bits : int   as of `Axi4Signature`

    Members
    -------
    core, link : In(Axi4Signature)
    memory : Out(Axi4Signature)

    Timing
    ------
    A burst takes one cycle more than the memory does. Within its turn, everything passes in the cycle in
    which it comes.
    """

    def __init__(self, *, bus_bits: int, addr_bits: int) -> None:
        signature = Axi4Signature(bus_bits, addr_bits)
        super().__init__({"core": In(signature), "link": In(signature), "memory": Out(signature)})

    def elaborate(self, platform) -> Module:
        m = Module()
        core, link, memory = self.core, self.link, self.memory
        #: Whose turn it is, and for what; its address has been accepted; its last beat of a write has.
        busy, is_link, writes, accepted, sent = (
            Signal(),
            Signal(reset_less=True),
            Signal(reset_less=True),
            Signal(),
            Signal(),
        )
        core_offers, link_offers = core.arvalid | core.awvalid, link.arvalid | link.awvalid
        with m.If(~busy):
            m.d.sync += [
                busy.eq(core_offers | link_offers),
                is_link.eq(~core_offers),
                accepted.eq(0),
                sent.eq(0),
                writes.eq(Mux(core_offers, ~core.arvalid, ~link.arvalid)),
            ]
        for channel, mine in (("ar", ~writes), ("aw", writes)):

            def of(manager, name: str, channel: str = channel):
                return getattr(manager, channel + name)

            offers = busy & mine & ~accepted
            m.d.comb += of(memory, "valid").eq(offers & Mux(is_link, of(link, "valid"), of(core, "valid")))
            m.d.comb += [
                of(memory, name).eq(Mux(is_link, of(link, name), of(core, name))) for name in _ADDRESS
            ]
            m.d.comb += [
                of(core, "ready").eq(offers & ~is_link & of(memory, "ready")),
                of(link, "ready").eq(offers & is_link & of(memory, "ready")),
            ]
            with m.If(of(memory, "valid") & of(memory, "ready")):
                m.d.sync += accepted.eq(1)
        data = busy & writes & ~sent
        with m.If(memory.wvalid & memory.wready & memory.wlast):
            m.d.sync += sent.eq(1)
        m.d.comb += [
            memory.wvalid.eq(data & Mux(is_link, link.wvalid, core.wvalid)),
            memory.wdata.eq(Mux(is_link, link.wdata, core.wdata)),
            memory.wstrb.eq(Mux(is_link, link.wstrb, core.wstrb)),
            memory.wlast.eq(Mux(is_link, link.wlast, core.wlast)),
            memory.bready.eq(Mux(is_link, link.bready, core.bready)),
            memory.rready.eq(Mux(is_link, link.rready, core.rready)),
        ]
        for manager, mine in ((core, ~is_link), (link, is_link)):
            m.d.comb += [
                manager.wready.eq(data & mine & memory.wready),
                manager.bvalid.eq(mine & memory.bvalid),
                manager.bresp.eq(memory.bresp),
                manager.rvalid.eq(mine & memory.rvalid),
                manager.rdata.eq(memory.rdata),
                manager.rresp.eq(memory.rresp),
                manager.rlast.eq(memory.rlast),
            ]
        with m.If((memory.rvalid & memory.rready & memory.rlast) | (memory.bvalid & memory.bready)):
            m.d.sync += busy.eq(0)
        return m
