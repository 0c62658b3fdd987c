"""The arbiter that lets the core and the host link share one memory."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from systolith.hw.soc.axi import Axi4Signature

__all__ = ["MemoryArbiter"]

#: Bursts of each direction under way at most: more than any of the memories accepts before it answers.
_BURSTS = 16
_ADDRESS = ("addr", "len", "size", "burst", "lock", "cache", "prot")


class MemoryArbiter(wiring.Component):
    """Two AXI4 managers share one memory; where both offer a burst, the core's goes first.

    Responses come in the order of the bursts, so all IDs are 0. Reads and writes are independent of each other.

    Parameters
    ----------
    bus_bits, addr_bits : int   as of `Axi4Signature`

    Members
    -------
    core, link : In(Axi4Signature)
    memory : Out(Axi4Signature)      subordinate that answers in order

    Timing
    ------
    A burst of each direction per cycle; its address is registered, which takes one cycle. Beats and responses pass in the
    cycle in which they come. A manager that does not give or take its beats blocks the bursts behind them.
    """

    def __init__(self, *, bus_bits: int, addr_bits: int) -> None:
        signature = Axi4Signature(bus_bits, addr_bits)
        super().__init__({"core": In(signature), "link": In(signature), "memory": Out(signature)})

    def elaborate(self, platform) -> Module:
        m = Module()
        # Whose burst it is, in order: 0 the core's, 1 the link's.
        m.submodules.reads = reads = SyncFIFO(width=1, depth=_BURSTS)
        m.submodules.writes = writes = SyncFIFO(width=1, depth=_BURSTS)
        m.submodules.responses = responses = SyncFIFO(width=1, depth=_BURSTS)
        self._addresses(m, "ar", reads)
        self._addresses(m, "aw", writes, responses)
        memory = self.memory
        for index, manager in enumerate((self.core, self.link)):
            m.d.comb += [manager.rdata.eq(memory.rdata), manager.rresp.eq(memory.rresp), manager.rlast.eq(memory.rlast),
                         manager.bresp.eq(memory.bresp)]
            with m.If(reads.r_rdy & (reads.r_data == index)):
                m.d.comb += [manager.rvalid.eq(memory.rvalid), memory.rready.eq(manager.rready)]
            with m.If(writes.r_rdy & (writes.r_data == index)):
                m.d.comb += [memory.wvalid.eq(manager.wvalid), manager.wready.eq(memory.wready), memory.wdata.eq(manager.wdata),
                             memory.wstrb.eq(manager.wstrb), memory.wlast.eq(manager.wlast)]
            with m.If(responses.r_rdy & (responses.r_data == index)):
                m.d.comb += [manager.bvalid.eq(memory.bvalid), memory.bready.eq(manager.bready)]
        m.d.comb += [
            reads.r_en.eq(memory.rvalid & memory.rready & memory.rlast), writes.r_en.eq(memory.wvalid & memory.wready & memory.wlast),
            responses.r_en.eq(memory.bvalid & memory.bready),
        ]
        return m

    def _addresses(self, m: Module, channel: str, *owners: SyncFIFO) -> None:
        """One address channel: registered, so that an offer stays when the other manager comes; notes whose it is."""
        def of(manager, name: str):
            return getattr(manager, channel + name)

        free = Signal(name=f"{channel}_free")
        # The response comes after the last beat, so of a write's two queues only the second can be full.
        m.d.comb += free.eq((~of(self.memory, "valid") | of(self.memory, "ready")) & owners[-1].w_rdy)
        for owner in owners:
            m.d.comb += [owner.w_en.eq(free & (of(self.core, "valid") | of(self.link, "valid"))), owner.w_data.eq(~of(self.core, "valid"))]
        m.d.comb += [of(self.core, "ready").eq(free), of(self.link, "ready").eq(free & ~of(self.core, "valid"))]
        with m.If(of(self.memory, "ready")):
            m.d.sync += of(self.memory, "valid").eq(0)
        for manager in (self.link, self.core):
            with m.If(of(manager, "valid") & of(manager, "ready")):
                m.d.sync += [of(self.memory, "valid").eq(1), *(of(self.memory, name).eq(of(manager, name)) for name in _ADDRESS)]
