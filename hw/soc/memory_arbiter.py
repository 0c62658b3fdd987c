"""The arbiter that lets the core and the host link share one memory."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from systolith.hw.leaf.stream_register import StreamRegister
from systolith.hw.soc.axi import Axi4Signature

__all__ = ["MemoryArbiter"]

#: Bursts of each direction under way at most: more than any of the memories accepts before it answers.
_BURSTS = 16
_ADDRESS = ("addr", "len", "size", "burst", "lock", "cache", "prot")


class MemoryArbiter(wiring.Component):
    """Two AXI4 managers share one memory; where both offer a burst, the core's goes first.

    Responses come in the order of the bursts, so all IDs are 0. Reads and writes are independent of each
    other.

    Parameters
    ----------
    bus_bits, addr_bits : int   as of `Axi4Signature`

    Members
    -------
    core, link : In(Axi4Signature)
    memory : Out(Axi4Signature)      subordinate that answers in order

    Timing
    ------
    A burst, a beat and a response of each direction per cycle; each takes one cycle, in registers through
    which no `ready` passes either. Two beats of a write of each manager wait here for their turn. A manager
    that does not give or take its beats or responses blocks those behind them.
    """

    def __init__(self, *, bus_bits: int, addr_bits: int) -> None:
        signature = Axi4Signature(bus_bits, addr_bits)
        super().__init__({"core": In(signature), "link": In(signature), "memory": Out(signature)})

    def elaborate(self, platform) -> Module:
        m = Module()
        # Whose burst it is, in order: 0 the core's, 1 the link's.
        m.submodules.reads = reads = SyncFIFOBuffered(width=1, depth=_BURSTS)
        m.submodules.writes = writes = SyncFIFOBuffered(width=1, depth=_BURSTS)
        m.submodules.responses = responses = SyncFIFOBuffered(width=1, depth=_BURSTS)
        self._addresses(m, "ar", reads)
        self._addresses(m, "aw", writes, responses)
        self._back(m, "r", ("data", "resp", "last"), reads)
        self._back(m, "b", ("resp",), responses)
        self._beats(m, writes)
        return m

    def _addresses(self, m: Module, channel: str, *owners: SyncFIFOBuffered) -> None:
        """One address channel: registered, so that an offer stays when the other manager comes; notes whose
        it is."""

        def of(manager, name: str):
            return getattr(manager, channel + name)

        layout = data.StructLayout({name: len(of(self.memory, name)) for name in _ADDRESS})
        m.submodules[channel] = register = StreamRegister(layout)
        given, held = register.i, register.o
        free, room, valid = (Signal(name=f"{channel}_{name}") for name in ("free", "room", "valid"))
        # The response comes after the last beat, so of a write's two queues only the second can be full.
        # Known a cycle late, so for one burst more.
        m.d.sync += room.eq(owners[-1].level < _BURSTS - 1)
        m.d.comb += [
            free.eq(given.ready & room),
            valid.eq(of(self.core, "valid") | of(self.link, "valid")),
            given.valid.eq(valid & room),
            of(self.core, "ready").eq(free),
            of(self.link, "ready").eq(free & ~of(self.core, "valid")),
            of(self.memory, "valid").eq(held.valid),
            held.ready.eq(of(self.memory, "ready")),
        ]
        for name in _ADDRESS:
            m.d.comb += [
                given.payload[name].eq(Mux(of(self.core, "valid"), of(self.core, name), of(self.link, name))),
                of(self.memory, name).eq(held.payload[name]),
            ]
        for owner in owners:
            m.d.comb += [owner.w_en.eq(valid & free), owner.w_data.eq(~of(self.core, "valid"))]

    def _back(self, m: Module, channel: str, names: tuple[str, ...], owners: SyncFIFOBuffered) -> None:
        """Beats or responses to whose they are; the next owner's turn comes behind the last beat."""

        def of(manager, name: str):
            return getattr(manager, channel + name)

        memory = self.memory
        layout = data.StructLayout({"owner": 1, **{name: len(of(memory, name)) for name in names}})
        m.submodules[channel] = register = StreamRegister(layout)
        given, held = register.i, register.o
        last = memory.rlast if "last" in names else 1
        m.d.comb += [
            given.valid.eq(of(memory, "valid") & owners.r_rdy),
            of(memory, "ready").eq(given.ready & owners.r_rdy),
            given.payload.owner.eq(owners.r_data),
            owners.r_en.eq(of(memory, "valid") & given.ready & last),
            *(given.payload[name].eq(of(memory, name)) for name in names),
        ]
        for index, manager in enumerate((self.core, self.link)):
            m.d.comb += [of(manager, name).eq(held.payload[name]) for name in names]
            with m.If(held.payload.owner == index):
                m.d.comb += [of(manager, "valid").eq(held.valid), held.ready.eq(of(manager, "ready"))]

    def _beats(self, m: Module, owners: SyncFIFOBuffered) -> None:
        """Beats to the memory, from whose turn it is."""
        memory = self.memory
        layout = data.StructLayout({"data": len(memory.wdata), "strb": len(memory.wstrb), "last": 1})
        valid = Signal()
        m.d.comb += [
            memory.wvalid.eq(valid & owners.r_rdy),
            owners.r_en.eq(valid & memory.wready & memory.wlast),
        ]
        # Managers lie far apart, so each has registers of its own.
        for index, (name, manager) in enumerate((("core", self.core), ("link", self.link))):
            m.submodules[f"{name}_w"] = register = StreamRegister(layout)
            m.d.comb += [
                register.i.valid.eq(manager.wvalid),
                manager.wready.eq(register.i.ready),
                *(register.i.payload[name].eq(getattr(manager, f"w{name}")) for name in layout.members),
            ]
            with m.If(owners.r_data == index):
                m.d.comb += [
                    valid.eq(register.o.valid),
                    register.o.ready.eq(memory.wready & owners.r_rdy),
                    *(getattr(memory, f"w{name}").eq(register.o.payload[name]) for name in layout.members),
                ]
