"""The host link: requests from a serial line become accesses to memory and CSRs. `spec.link` defines the
protocol."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith.hw.soc.axi import Axi4LiteSignature, Axi4Signature
from systolith.hw.soc.csr import CSR_ADDR_BITS
from systolith.hw.soc.uart import UartReceiver, UartTransmitter
from systolith.spec.link import (
    CRC_BYTES,
    CRC_INIT,
    CRC_POLYNOMIAL,
    FLIP,
    MIN_DIVISOR,
    PAYLOAD_BYTES,
    REQUEST_FIELDS,
    SYNC,
    LinkStatus,
    Op,
    identity,
)

__all__ = ["HostLink", "LinkEngine"]

_HEADER = data.StructLayout({name: bits for name, bits, _ in REQUEST_FIELDS})
_HEADER_BYTES = _HEADER.size // 8
#: Bytes of a CSR.
_WORD = 4


class _Phase(enum.Enum, shape=2):
    """What the next byte of a request is."""

    #: Between frames: SYNC is awaited.
    HUNT = 0
    HEADER = 1
    PAYLOAD = 2
    CRC = 3


class HostLink(wiring.Component):
    """`LinkEngine` behind a serial line.

    Parameters
    ----------
    bus_bits, addr_bits : int   widths of the memory bus
    divisor : int               clock cycles per bit of the line, at least `MIN_DIVISOR`
    payload_bytes : int         see `LinkEngine`

    Members
    -------
    rx : In(1), tx : Out(1)                  the line, see `hw.soc.uart`
    memory : Out(Axi4Signature)              manager
    csr : Out(Axi4LiteSignature)             manager

    Raises
    ------
    ValueError   If a parameter is out of range.
    """

    def __init__(
        self, *, bus_bits: int, addr_bits: int, divisor: int, payload_bytes: int = PAYLOAD_BYTES
    ) -> None:
        if divisor < MIN_DIVISOR:
            raise ValueError(
                f"the host link needs {MIN_DIVISOR} or more clock cycles per bit, not {divisor!r}"
            )
        self._divisor = divisor
        self._engine = {"bus_bits": bus_bits, "addr_bits": addr_bits, "payload_bytes": payload_bytes}
        identity(payload_bytes)
        super().__init__(
            {
                "rx": In(1, init=1),
                "tx": Out(1, init=1),
                "memory": Out(Axi4Signature(bus_bits, addr_bits)),
                "csr": Out(Axi4LiteSignature(CSR_ADDR_BITS)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.receiver = receiver = UartReceiver(divisor=self._divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(divisor=self._divisor)
        m.submodules.engine = engine = LinkEngine(**self._engine)
        m.d.comb += [receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx)]
        wiring.connect(m, receiver.o, engine.i)
        wiring.connect(m, engine.o, transmitter.i)
        wiring.connect(m, engine.memory, wiring.flipped(self.memory))
        wiring.connect(m, engine.csr, wiring.flipped(self.csr))
        return m


class LinkEngine(wiring.Component):
    """Receives a request, verifies it, executes it, answers; bytes that come meanwhile are dropped.

    Made for few LUTs, since even the slowest memory is far faster than a serial line: one CRC register, bit
    by bit, for both directions; bursts of one beat; writes of one byte each, straight from the block RAM that
    holds the payload, by which a beat is never put together.

    Parameters
    ----------
    bus_bits, addr_bits : int   widths of the memory bus; the link reaches its first `REACH` bytes
    payload_bytes : int         most bytes of one request, a power of two

    Members
    -------
    i : In(stream)                  bytes of the line; at most one in 11 cycles
    o : Out(stream)                 bytes for the line
    memory : Out(Axi4Signature)     manager
    csr : Out(Axi4LiteSignature)    manager

    Timing
    ------
    A byte of the line takes 10 cycles; a byte that is written 5 and the latency of the bus, a beat that is
    read 2 more than twice its bytes and the latency. Reset closes the link.

    Raises
    ------
    LinkError   If the payload's limit is out of range.
    """

    def __init__(self, *, bus_bits: int, addr_bits: int, payload_bytes: int = PAYLOAD_BYTES) -> None:
        self._bus_bytes = bus_bits // 8
        self._addr_bits = addr_bits
        self._identity = identity(payload_bytes)
        self._payload_bytes = payload_bytes
        super().__init__(
            {
                "i": In(stream.Signature(8, always_ready=True)),
                "o": Out(stream.Signature(8)),
                "memory": Out(Axi4Signature(bus_bits, addr_bits)),
                "csr": Out(Axi4LiteSignature(CSR_ADDR_BITS)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        self._offset_bits = (self._payload_bytes - 1).bit_length()
        self._lane_bits = (self._bus_bytes - 1).bit_length()
        self._header = header = Signal(_HEADER, reset_less=True)
        self._writes, self._narrow = header.op[0], header.op[1]
        self._status = Signal(LinkStatus)
        self._escaped = Signal()
        self._offset = Signal(self._offset_bits, reset_less=True)
        self._address_valid = Signal()
        self._data_valid = Signal()
        self._lane = Signal(self._lane_bits, reset_less=True)
        m.submodules.buffer = buffer = Memory(shape=8, depth=self._payload_bytes, init=[])
        self._store, self._load = buffer.write_port(), buffer.read_port()
        #: The byte at `index` two cycles ago: a block RAM's output is late in its cycle.
        self._loaded = Signal(8, reset_less=True)
        m.d.sync += self._loaded.eq(self._load.data)
        self._counters(m)
        self._checksum(m)
        self._bus(m)
        with m.FSM() as fsm:
            self._receive(m)
            self._execute(m)
            self._move(m)
            self._answer(m)
        self._arrive(m, fsm)
        self._send(m, fsm)
        return m

    def _counters(self, m: Module) -> None:
        """Bytes of the payload, and of what surrounds it; each stays but where a state says otherwise."""
        self._index = Signal(self._offset_bits, reset_less=True)
        self._first_byte, self._next_byte, self._last_byte = (
            Signal(name="first_byte"),
            Signal(name="next_byte"),
            Signal(name="last_byte"),
        )
        # A cycle late: `index` never moves in two successive cycles.
        m.d.sync += self._last_byte.eq(self._index == self._header.last[: self._offset_bits])
        m.d.comb += [self._store.addr.eq(self._index), self._load.addr.eq(self._index), self._load.en.eq(1)]
        with m.If(self._first_byte):
            m.d.sync += self._index.eq(0)
        with m.Elif(self._next_byte):
            m.d.sync += self._index.eq(self._index + 1)
        #: A frame begins, in either direction.
        self._begin = Signal()
        self._step = Signal(range(_HEADER_BYTES + CRC_BYTES), reset_less=True)
        self._next_step = Signal()
        with m.If(self._begin):
            m.d.sync += self._step.eq(0)
        with m.Elif(self._next_step):
            m.d.sync += self._step.eq(self._step + 1)

    def _checksum(self, m: Module) -> None:
        """The CRC, one bit per cycle: over `byte`, or shifted out with nothing fed back, to send it or to
        compare it with what comes."""
        self._crc = Signal(8 * CRC_BYTES, reset_less=True)
        #: The byte that came or that is sent, and a pulse that takes it into the CRC.
        self._byte = Signal(8)
        self._take = Signal()
        self._flush = Signal()
        #: What came in place of the CRC is another.
        self._damaged = Signal()
        work = Signal(8, reset_less=True)
        self._bits = bits = Signal(range(9))
        feedback = Signal()
        m.d.comb += feedback.eq((self._crc[0] ^ work[0]) & ~self._flush)
        #: The CRC has taken the last byte in, and `special` is that of `byte`.
        self._done = Signal()
        m.d.sync += self._done.eq((bits == 0) & ~self._take)
        # No byte comes while the one before is taken in.
        with m.If(bits == 0):
            m.d.sync += work.eq(self._byte)
        with m.If(self._take):
            m.d.sync += bits.eq(8)
        with m.If(self._begin):
            m.d.sync += [bits.eq(0), self._crc.eq(CRC_INIT), self._damaged.eq(0)]
        with m.Elif(bits != 0):
            m.d.sync += [
                bits.eq(bits - 1),
                work.eq(work >> 1),
                self._crc.eq((self._crc >> 1) ^ Mux(feedback, CRC_POLYNOMIAL, 0)),
            ]
            # The CRC is sent inverted.
            with m.If(self._flush & (work[0] == self._crc[0])):
                m.d.sync += self._damaged.eq(1)

    def _bus(self, m: Module) -> None:
        """Both buses from the same registers; addresses are those of whole beats."""
        memory, csr = self.memory, self.csr
        address = Cat(self._offset, self._header.addr[self._offset_bits :])
        data = self._loaded
        m.d.comb += [
            memory.awaddr.eq(Cat(Const(0, self._lane_bits), address[self._lane_bits :])),
            memory.araddr.eq(memory.awaddr),
            memory.awsize.eq(self._lane_bits),
            memory.arsize.eq(self._lane_bits),
            memory.awburst.eq(1),
            memory.arburst.eq(1),
            memory.awcache.eq(3),
            memory.arcache.eq(3),
            memory.wdata.eq(data.replicate(self._bus_bytes)),
            memory.wstrb.eq(1 << address[: self._lane_bits]),
            memory.wlast.eq(1),
            csr.awaddr.eq(Cat(Const(0, 2), address[2:CSR_ADDR_BITS])),
            csr.araddr.eq(csr.awaddr),
            csr.wdata.eq(data.replicate(_WORD)),
            csr.wstrb.eq(1 << address[:2]),
        ]
        #: The beat that was read is taken.
        self._read_ready = Signal()
        m.d.sync += self._read_ready.eq(0)
        for bus, active in ((memory, ~self._narrow), (csr, self._narrow)):
            m.d.comb += [
                bus.awvalid.eq(self._address_valid & self._writes & active),
                bus.arvalid.eq(self._address_valid & ~self._writes & active),
                bus.wvalid.eq(self._data_valid & active),
                bus.bready.eq(1),
                bus.rready.eq(self._read_ready),
            ]

        def chosen(name: str):
            return Mux(self._narrow, getattr(csr, name), getattr(memory, name))

        with m.If(Mux(self._writes, chosen("awready"), chosen("arready"))):
            m.d.sync += self._address_valid.eq(0)
        with m.If(chosen("wready")):
            m.d.sync += self._data_valid.eq(0)
        # A cycle late.
        self._written, self._write_failed, self._read_failed = Signal(), Signal(), Signal()
        self._arrived = chosen("rvalid")
        m.d.sync += [
            self._written.eq(chosen("bvalid")),
            self._write_failed.eq(chosen("bresp")[1]),
            self._read_failed.eq(chosen("rresp")[1]),
        ]

    def _arrive(self, m: Module, fsm) -> None:
        """A byte of a request, two cycles after it came: what there is to know of it is in registers by
        then."""
        header, phase = self._header, self._phase
        came, special = Signal(), Signal()
        arrived = self._arrived_byte
        m.d.sync += [
            came.eq(self.i.valid & fsm.ongoing("RECEIVE")),
            special.eq(self.i.payload[1:] == SYNC >> 1),
            arrived.eq(self.i.payload ^ Mux(self._escaped, FLIP, 0)),
        ]
        # FLIP leaves the lowest bit, in which SYNC and ESCAPE differ.
        with m.If(came):
            m.d.sync += self._escaped.eq(special & ~arrived[0])
        with m.If(came & special & arrived[0]):
            m.d.comb += [self._begin.eq(1), self._first_byte.eq(1)]
            m.d.sync += phase.eq(_Phase.HEADER)
        with m.If(came & ~special):
            m.d.comb += self._take.eq(1)
            with m.Switch(phase):
                with m.Case(_Phase.HEADER):
                    m.d.comb += self._next_step.eq(1)
                    m.d.sync += header.eq(Cat(header.as_value()[8:], arrived))
                    with m.If(self._step == _HEADER_BYTES - 1):
                        # One byte is still to come in, so `op` lies one byte further up.
                        m.d.sync += phase.eq(
                            Mux(header.as_value()[_HEADER["op"].offset + 8], _Phase.PAYLOAD, _Phase.CRC)
                        )
                with m.Case(_Phase.PAYLOAD):
                    m.d.comb += [self._store.en.eq(1), self._next_byte.eq(1)]
                    with m.If(self._last_byte):
                        m.d.sync += phase.eq(_Phase.CRC)
                with m.Case(_Phase.CRC):
                    m.d.comb += [
                        self._next_step.eq(1),
                        self._whole.eq(self._step == _HEADER_BYTES + CRC_BYTES - 1),
                    ]
                    with m.If(self._whole):
                        m.d.sync += phase.eq(_Phase.HUNT)

    def _receive(self, m: Module) -> None:
        self._phase = phase = Signal(_Phase)
        self._arrived_byte = Signal(8, reset_less=True)
        #: The last byte of a frame is taken.
        self._whole = Signal()
        with m.State("RECEIVE"):
            m.d.comb += [
                self._byte.eq(self._arrived_byte),
                self._store.data.eq(self._arrived_byte),
                self._flush.eq((phase == _Phase.CRC) & (self._step != _HEADER_BYTES)),
            ]
            with m.If(self._whole):
                m.next = "CHECK"
        with m.State("CHECK"):
            m.d.comb += self._flush.eq(1)
            with m.If(self._bits == 0):
                m.next = "EXECUTE"
                with m.If(self._damaged):
                    m.next = "RECEIVE"

    def _execute(self, m: Module) -> None:
        header = self._header
        is_open = Signal()
        answered = Signal.like(header.seq, reset_less=True)
        # A cycle late: while the CRC is compared, the request is whole.
        refused, beyond, repeated = Signal(), Signal(), Signal()
        m.d.sync += [
            refused.eq(
                ~Cat(header.op == member for member in Op).any() | (header.last[self._offset_bits :] != 0)
            ),
            # Bits that a narrower bus has not: there is nothing at such an address.
            beyond.eq(~self._narrow & (header.addr[self._addr_bits :] != 0)),
            repeated.eq((header.op == Op.CSR_WRITE) & (header.seq == answered)),
        ]
        with m.State("EXECUTE"):
            m.d.comb += self._first_byte.eq(1)
            m.d.sync += answered.eq(header.seq)
            m.next = "ANSWER"
            with m.If(refused):
                m.d.sync += self._status.eq(LinkStatus.REFUSED)
            with m.Elif(~is_open & (header.op != Op.HELLO)):
                m.d.sync += self._status.eq(LinkStatus.CLOSED)
            with m.Elif(beyond):
                m.d.sync += self._status.eq(LinkStatus.BUS_ERROR)
            # What CSR_WRITE did, it does not do again: the status is still that of the request that was
            # answered last.
            with m.Elif(~repeated):
                m.d.sync += [self._status.eq(LinkStatus.OK), is_open.eq(1)]
                m.next = "BEAT"

    def _move(self, m: Module) -> None:
        """Between buffer and bus: writes byte by byte, reads beat by beat and in each lane by lane."""
        lane = self._lane
        inside = Signal()
        ends = Signal()
        identifies = Signal()
        #: The beat is here, and what is known of the lane is that of this one.
        settled = Signal()
        #: The lane is the last of a beat.
        closes = Signal()
        #: That byte of the beat.
        chosen = Signal(8, reset_less=True)
        word = self.csr.rdata.word_select(lane[:2], 8)
        identity = Const(int.from_bytes(self._identity, "little"), 32).word_select(lane[:2], 8)
        m.d.sync += chosen.eq(
            Mux(identifies, identity, Mux(self._narrow, word, self.memory.rdata.word_select(lane, 8)))
        )
        m.d.comb += [
            identifies.eq(self._header.op == Op.HELLO),
            ends.eq(inside & self._last_byte),
        ]
        m.d.sync += [
            inside.eq(lane >= Mux(self._narrow, self._offset[:2], self._offset[: self._lane_bits])),
            settled.eq(0),
            closes.eq((lane == self._bus_bytes - 1) | (self._narrow & lane[:2].all())),
        ]
        with m.State("BEAT"):
            m.d.sync += [
                self._offset.eq(self._header.addr[: self._offset_bits] + self._index),
                lane.eq(0),
                self._address_valid.eq(~identifies),
            ]
            m.next = "READ"
            with m.If(self._writes):
                m.next = "LOAD"
        with m.State("LOAD"):
            # Here the buffer puts out the byte that is to be written.
            m.d.sync += self._data_valid.eq(1)
            m.next = "WRITE"
        with m.State("WRITE"):
            with m.If(self._written):
                m.d.comb += self._next_byte.eq(1)
                m.next = "BEAT"
                with m.If(self._last_byte | self._write_failed):
                    self._finish(m, self._write_failed)
        with m.State("READ"):
            # The bus holds the beat until its last lane, or the last byte, is in the buffer.
            m.d.comb += self._store.data.eq(chosen)
            m.d.sync += settled.eq((identifies | self._arrived) & ~settled & ~self._read_ready)
            with m.If(settled):
                m.d.comb += [self._store.en.eq(inside), self._next_byte.eq(inside)]
                m.d.sync += lane.eq(lane + 1)
                with m.If(closes | ends | self._read_failed):
                    m.d.sync += self._read_ready.eq(1)
                    m.next = "BEAT"
                    with m.If(ends | self._read_failed):
                        self._finish(m, self._read_failed)

    def _finish(self, m: Module, failed) -> None:
        """Answer; an error of the bus ends the request."""
        m.d.comb += self._first_byte.eq(1)
        with m.If(failed):
            m.d.sync += self._status.eq(LinkStatus.BUS_ERROR)
        m.next = "ANSWER"

    def _answer(self, m: Module) -> None:
        """The answer's bytes in `byte`; `sent` when one is on its way."""
        byte = self._byte
        self._sent = sent = Signal()
        status = Cat(self._header.seq, self._status)
        with m.State("ANSWER"):
            # What comes first has its place in `special` already.
            m.d.comb += [self._begin.eq(1), byte.eq(status)]
            with m.If(sent):
                m.next = "STATUS"
        with m.State("STATUS"):
            m.d.comb += [byte.eq(status), self._take.eq(sent)]
            with m.If(sent):
                m.next = "CRC"
                with m.If(~self._writes & (self._status == LinkStatus.OK)):
                    m.next = "PAYLOAD"
        with m.State("PAYLOAD"):
            m.d.comb += [byte.eq(self._loaded), self._take.eq(sent), self._next_byte.eq(sent)]
            with m.If(sent & self._last_byte):
                m.next = "CRC"
        with m.State("CRC"):
            m.d.comb += [
                byte.eq(~self._crc[:8]),
                self._take.eq(sent),
                self._next_step.eq(sent),
                self._flush.eq(self._step != 0),
            ]
            with m.If(sent & (self._step == CRC_BYTES - 1)):
                m.next = "RECEIVE"

    def _send(self, m: Module, fsm) -> None:
        """`byte` to the line, escaped where it must be, as soon as the byte before is in the CRC."""
        # Both have this above their lowest bit.
        prefix = SYNC >> 1
        special = Signal()
        sync = fsm.ongoing("ANSWER")
        escape = Signal()
        m.d.sync += special.eq(self._byte[1:] == prefix)
        m.d.comb += [
            escape.eq(special & ~sync & ~self._escaped),
            self.o.payload.eq(
                Mux(sync | escape, Cat(sync, Const(prefix, 7)), self._byte ^ Mux(self._escaped, FLIP, 0))
            ),
            self.o.valid.eq(
                Cat(fsm.ongoing(state) for state in ("ANSWER", "STATUS", "PAYLOAD", "CRC")).any() & self._done
            ),
            self._sent.eq(self.o.valid & self.o.ready & ~escape),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += self._escaped.eq(escape)
