"""AXI4 and AXI4-Lite signatures, the internal read channel, and the arbiter that shares the bus's read
side."""

from amaranth.hdl import Const, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from systolith.hw.leaf.stream_register import StreamRegister
from systolith.spec.arch import ArchConfig
from systolith.spec.memory import BURST_BEATS

__all__ = [
    "PAGE_BYTES",
    "Axi4LiteSignature",
    "Axi4Signature",
    "ReadArbiter",
    "ReadSignature",
    "WriteSignature",
    "burst_layout",
]

#: A burst never crosses a multiple of this (AXI4, A3.4.1).
PAGE_BYTES = 4096

#: Bursts under way on the read channel at most: enough to hide the latency of memory with one-beat rows.
READ_BURSTS = 64


class Axi4Signature(wiring.Signature):
    """AXI4 from the manager's side, with AMBA names. All transactions have ID 0 and incrementing, full-width
    bursts."""

    def __init__(self, data_bits: int, addr_bits: int) -> None:
        address = {
            "id": Out(1),
            "addr": Out(addr_bits),
            "len": Out(8),
            "size": Out(3),
            "burst": Out(2),
            "lock": Out(1),
            "cache": Out(4),
            "prot": Out(3),
            "valid": Out(1),
            "ready": In(1),
        }
        super().__init__(
            {
                **{f"aw{name}": member for name, member in address.items()},
                "wdata": Out(data_bits),
                "wstrb": Out(data_bits // 8),
                "wlast": Out(1),
                "wvalid": Out(1),
                "wready": In(1),
                "bid": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                **{f"ar{name}": member for name, member in address.items()},
                "rid": In(1),
                "rdata": In(data_bits),
                "rresp": In(2),
                "rlast": In(1),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


class Axi4LiteSignature(wiring.Signature):
    """AXI4-Lite from the manager's side, 32 bits of data, with AMBA names."""

    def __init__(self, addr_bits: int) -> None:
        super().__init__(
            {
                "awaddr": Out(addr_bits),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(32),
                "wstrb": Out(4),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(addr_bits),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(32),
                "rresp": In(2),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


def burst_layout(arch: ArchConfig) -> data.StructLayout:
    """One burst: address of its first beat, and its beats minus 1."""
    return data.StructLayout({"addr": arch.addr_bits, "len": range(BURST_BEATS)})


class ReadSignature(wiring.Signature):
    """One client of the read channel: bursts out, beats in, in the order of the bursts.

    Members
    -------
    bursts : Out(stream)   a burst accepted here is under way until its last beat
    beats : In(stream)     ``data``, ``error`` (the bus answered SLVERR or DECERR), ``last`` of its burst
    """

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__(
            {
                "bursts": Out(stream.Signature(burst_layout(arch))),
                "beats": In(
                    stream.Signature(data.StructLayout({"data": arch.bus_bits, "error": 1, "last": 1}))
                ),
            }
        )


class WriteSignature(wiring.Signature):
    """The client of the write channel.

    Members
    -------
    bursts : Out(stream)   as `ReadSignature`; a burst is under way until its response
    beats : Out(stream)    ``data``, ``strobe``, ``last``, offered only after their burst was accepted by the
            bus
    response : In(1)       pulses once per burst, in order
    error : In(1)          with `response`: the bus answered SLVERR or DECERR
    """

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__(
            {
                "bursts": Out(stream.Signature(burst_layout(arch))),
                "beats": Out(
                    stream.Signature(
                        data.StructLayout({"data": arch.bus_bits, "strobe": arch.bus_bytes, "last": 1})
                    )
                ),
                "response": In(1),
                "error": In(1),
            }
        )


class ReadArbiter(wiring.Component):
    """Shares the AXI read channel between clients; the lowest index wins.

    Members
    -------
    clients : In(ReadSignature) x count
    bursts : Out(stream)      to AR
    beats : In(stream)        from R

    Timing
    ------
    One burst and one beat per cycle, both registered, `ready` too, which takes `timing.BUS_ADDRESS` and
    `timing.BUS_BEAT` cycles; a beat is taken in the third cycle after its burst at the earliest. A client
    that does not take its beats blocks those behind them.
    """

    def __init__(self, arch: ArchConfig, count: int) -> None:
        self._arch = arch
        self._count = count
        master = ReadSignature(arch).members
        super().__init__(
            {
                "clients": In(ReadSignature(arch)).array(count),
                "bursts": master["bursts"],
                "beats": master["beats"],
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        source = max(1, (self._count - 1).bit_length())
        m.submodules.sources = sources = SyncFIFOBuffered(width=source, depth=READ_BURSTS)
        m.submodules.burst = burst = StreamRegister(self.bursts.payload.shape())
        # Whose beat it is, is looked up on its way into the register.
        m.submodules.beat = beat = StreamRegister(
            data.StructLayout({"beat": self.beats.payload.shape(), "source": source})
        )
        free, room = Signal(), Signal()
        # Known a cycle late, so for one burst more.
        m.d.sync += room.eq(sources.w_level < READ_BURSTS - 1)
        m.d.comb += [
            free.eq(burst.i.ready & room),
            beat.i.payload.beat.eq(self.beats.payload),
            beat.i.payload.source.eq(sources.r_data),
            beat.i.valid.eq(self.beats.valid & sources.r_rdy),
            self.beats.ready.eq(beat.i.ready & sources.r_rdy),
            sources.r_en.eq(self.beats.valid & beat.i.ready & self.beats.payload.last),
        ]
        wiring.connect(m, burst.o, wiring.flipped(self.bursts))
        taken = Const(0)
        for index, client in enumerate(self.clients):
            # Whether a client may go depends on those before it alone, so that no path leads from its `valid`
            # back to its `ready`.
            grant = Signal(name=f"grant_{index}")
            m.d.comb += [
                grant.eq(~taken),
                client.bursts.ready.eq(grant & free),
                client.beats.payload.eq(beat.o.payload.beat),
            ]
            with m.If(grant):
                m.d.comb += [burst.i.payload.eq(client.bursts.payload), sources.w_data.eq(index)]
            taken = taken | client.bursts.valid
            with m.If(beat.o.payload.source == index):
                m.d.comb += [client.beats.valid.eq(beat.o.valid), beat.o.ready.eq(client.beats.ready)]
        m.d.comb += [burst.i.valid.eq(taken & room), sources.w_en.eq(taken & free)]
        return m
