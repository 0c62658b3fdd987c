# amaranth: UnusedElaboratable=no
"""The host link's gateware against the model of its protocol, byte for byte."""

import random

import pytest
from amaranth.hdl import Module

from systolith.hw.soc.link import HostLink, LinkEngine
from systolith.hw.soc.uart import UartReceiver, UartTransmitter
from systolith.spec.link import (
    ESCAPE,
    SYNC,
    Answer,
    LinkError,
    LinkStatus,
    Op,
    Request,
    Unframer,
    frame,
    identity,
)
from tests.hw.kit import collect, send, simulate
from tests.hw.link_bench import CSR_BYTES, MEMORY_BYTES, run
from tests.link_model import damage

#: Bus width, most bytes of a request.
SHAPES = [(32, 32), (64, 16), (128, 32)]


def request(seq: int, op: Op, addr: int, size: int, payload: bytes = b"") -> bytes:
    return frame(Request(seq, op, addr, size, payload).body())


def hello(seq: int = 0) -> bytes:
    return request(seq, Op.HELLO, 0, 4)


def body(answer: bytes) -> Answer:
    unframer = Unframer()
    for byte in answer:
        unframer.push(byte)
    return Answer.parse(unframer.body())


def random_requests(rng: random.Random, count: int, payload_bytes: int) -> list[bytes]:
    """Requests of every kind, to addresses inside and a little outside, with many bytes that need an
    escape."""
    requests = [hello(0)]
    for seq in range(1, count):
        op = rng.choice((Op.MEMORY_READ, Op.MEMORY_WRITE, Op.MEMORY_WRITE, Op.CSR_READ, Op.CSR_WRITE))
        size = rng.choice((1, 2, 3, 4, payload_bytes, rng.randint(1, payload_bytes)))
        if op.narrow:
            size = min(size, 8)
        limit = CSR_BYTES + payload_bytes if op.narrow else MEMORY_BYTES
        payload = (
            bytes(rng.choice((SYNC, ESCAPE, 0, rng.randrange(256))) for _ in range(size))
            if op.writes
            else b""
        )
        requests.append(request(seq % 16, op, rng.randrange(limit), size, payload))
    return requests


@pytest.mark.parametrize("stall", [0.0, 0.5])
@pytest.mark.parametrize(("bus_bits", "payload_bytes"), SHAPES)
def test_requests_of_every_kind_and_alignment(bus_bits, payload_bytes, stall):
    seed = bus_bits + int(10 * stall)
    chunks = random_requests(random.Random(seed), 12, payload_bytes)
    answers = run(
        chunks,
        bus_bits=bus_bits,
        payload_bytes=payload_bytes,
        stall=stall,
        seed=seed,
        latency=3 if stall else 1,
        joint=not stall,
    )
    assert len(answers) == len(chunks), f"seed {seed}"


@pytest.mark.parametrize("seed", range(3))
def test_a_bad_line_costs_requests_but_never_does_anything_else(seed):
    rng = random.Random(seed)
    bus_bits, payload_bytes = SHAPES[seed % len(SHAPES)]
    requests = random_requests(rng, 24, payload_bytes)
    chunks = [hello(15)] + [damage(r, rng, rng.choice((0, 0, 1, 2, 4))) for r in requests]
    # Behind a break, an undamaged request is always understood.
    chunks.insert(12, bytes(40))
    chunks.append(request(13, Op.MEMORY_READ, 64, 8))
    answers = run(chunks, bus_bits=bus_bits, payload_bytes=payload_bytes, stall=0.3, seed=seed)
    assert body(answers[-1]).seq == 13 and len(answers) > 6, f"seed {seed}"


def test_an_identity_opens_the_link_and_a_reset_closes_it():
    read = request(2, Op.MEMORY_READ, 0, 4)
    answers = [body(a) for a in run([read, hello(1), read, None, read, hello(3), read])]
    assert [a.status for a in answers] == [
        LinkStatus.CLOSED,
        LinkStatus.OK,
        LinkStatus.OK,
        LinkStatus.CLOSED,
        LinkStatus.OK,
        LinkStatus.OK,
    ]
    assert answers[1].payload == answers[4].payload == identity(32)


def test_a_reset_inside_a_frame_forgets_it():
    write = request(2, Op.MEMORY_WRITE, 0, 4, b"abcd")
    answers = [body(a) for a in run([hello(1), write[:9], None, write[9:], hello(3), write])]
    assert [(a.seq, a.status) for a in answers] == [
        (1, LinkStatus.OK),
        (3, LinkStatus.OK),
        (2, LinkStatus.OK),
    ]


def test_a_repeated_csr_write_is_answered_and_not_executed():
    write = request(2, Op.CSR_WRITE, 0x20, 4, b"abcd")
    # The bench compares the list of writes, in which the repeated ones are missing.
    answers = run([hello(1), write, write, write, request(3, Op.CSR_WRITE, 0x20, 4, b"efgh"), write])
    assert [body(a).status for a in answers] == [LinkStatus.OK] * 6


def test_the_answer_to_a_repeated_csr_write_keeps_its_error():
    write = request(2, Op.CSR_WRITE, CSR_BYTES, 4, b"abcd")
    assert [body(a).status for a in run([hello(1), write, write])] == [
        LinkStatus.OK,
        LinkStatus.BUS_ERROR,
        LinkStatus.BUS_ERROR,
    ]


@pytest.mark.parametrize(("bus_bits", "payload_bytes"), SHAPES)
def test_an_error_of_the_bus_is_reported_without_payload(bus_bits, payload_bytes):
    chunks = [
        hello(1),
        request(2, Op.MEMORY_READ, 0x100, 4),
        request(3, Op.MEMORY_WRITE, 0x100 + payload_bytes - 2, 2, b"xy"),
        request(4, Op.MEMORY_READ, 0x80, 4),
    ]
    answers = [
        body(a) for a in run(chunks, bus_bits=bus_bits, payload_bytes=payload_bytes, bad=range(0x100, 0x140))
    ]
    assert [a.status for a in answers] == [
        LinkStatus.OK,
        LinkStatus.BUS_ERROR,
        LinkStatus.BUS_ERROR,
        LinkStatus.OK,
    ]
    assert not answers[1].payload


def test_an_address_that_the_bus_does_not_have_is_an_error():
    # With fewer bits it would be another place.
    chunks = [
        hello(1),
        request(2, Op.MEMORY_WRITE, 0x1_0000, 4, b"abcd"),
        request(3, Op.MEMORY_READ, 0x800_0000, 4),
        request(4, Op.MEMORY_READ, 0, 4),
    ]
    answers = [body(a) for a in run(chunks, addr_bits=16)]
    assert [a.status for a in answers] == [
        LinkStatus.OK,
        LinkStatus.BUS_ERROR,
        LinkStatus.BUS_ERROR,
        LinkStatus.OK,
    ]


@pytest.mark.parametrize("divisor", [2, 7])
def test_the_link_speaks_over_its_line(divisor):
    top = Module()
    top.submodules.link = link = HostLink(bus_bits=32, addr_bits=32, divisor=divisor, payload_bytes=32)
    top.submodules.transmitter = transmitter = UartTransmitter(divisor=divisor)
    top.submodules.receiver = receiver = UartReceiver(divisor=divisor)
    top.d.comb += [link.rx.eq(transmitter.tx), receiver.rx.eq(link.tx)]
    expected = frame(Answer(9, LinkStatus.OK, identity(32)).body())
    got = []

    async def exchange(ctx):
        await send(ctx, transmitter.i, hello(9), random.Random(0))
        await ctx.tick().repeat(10 * divisor * (len(expected) + 4))

    simulate(top, exchange, beside=[collect(receiver.o, got)])
    assert bytes(got) == expected


def test_what_the_protocol_does_not_have_is_refused():
    unknown = frame(bytes((0x45, 3, 0, 0, 0, 0)))
    too_long = request(6, Op.MEMORY_READ, 0, 33)
    answers = [body(a) for a in run([hello(1), unknown, too_long])]
    assert [a.status for a in answers] == [LinkStatus.OK, LinkStatus.REFUSED, LinkStatus.REFUSED]


def test_parameters_are_checked():
    with pytest.raises(LinkError, match="power of two of bytes, from 16 to 4096, not 48"):
        LinkEngine(bus_bits=32, addr_bits=32, payload_bytes=48)
    with pytest.raises(ValueError, match="2 or more clock cycles per bit, not 1"):
        HostLink(bus_bits=32, addr_bits=32, divisor=1)
