"""The frames of the host link."""

import random
import zlib

import pytest

from systolith.spec.link import (
    CRC_INIT,
    CRC_POLYNOMIAL,
    ESCAPE,
    FLIP,
    SYNC,
    Answer,
    LinkError,
    LinkStatus,
    Op,
    Request,
    Unframer,
    frame,
)
from tests.link_model import damage


def unframe(data: bytes) -> bytes | None:
    unframer = Unframer()
    for byte in data:
        unframer.push(byte)
    return unframer.body()


@pytest.mark.parametrize("size", [0, 1, 7, 300])
def test_a_body_comes_back_and_sync_is_nowhere_inside(size):
    rng = random.Random(size)
    body = bytes(
        rng.choice((SYNC, ESCAPE, SYNC ^ FLIP, ESCAPE ^ FLIP, rng.randrange(256))) for _ in range(size)
    )
    line = frame(body)
    assert line.count(SYNC) == 1 and line[0] == SYNC
    assert unframe(bytes((1, 2, ESCAPE)) + line) == body


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_frame_is_no_frame(seed):
    rng = random.Random(seed)
    for _ in range(500):
        body = rng.randbytes(rng.randrange(40))
        assert unframe(damage(frame(body), rng, rng.randint(1, 3))) in (None, body), f"seed {seed}"


def test_the_gatewares_polynomial_is_that_of_zlib():
    for data in (b"", b"123456789", bytes(range(256))):
        register = CRC_INIT
        for byte in data:
            for bit in range(8):
                register = register >> 1 ^ (CRC_POLYNOMIAL if (register ^ byte >> bit) & 1 else 0)
        assert register ^ 0xFFFF_FFFF == zlib.crc32(data)


@pytest.mark.parametrize(
    "request_",
    [
        Request(0, Op.HELLO, 0, 4),
        Request(15, Op.MEMORY_WRITE, 0xFFF_FFFF, 3, b"abc"),
        Request(7, Op.MEMORY_READ, 0x1234, 4096),
    ],
)
def test_requests_come_back(request_):
    assert Request.parse(request_.body()) == request_


def test_answers_come_back():
    for answer in (Answer(3, LinkStatus.OK, b"xyz"), Answer(15, LinkStatus.REFUSED)):
        assert Answer.parse(answer.body()) == answer


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Request(16, Op.HELLO, 0, 4).body(), "seq must be from 0 to 15, not 16"),
        (
            lambda: Request(0, Op.MEMORY_READ, 1 << 28, 4).body(),
            "addr must be from 0 to 268435455, not 268435456",
        ),
        (lambda: Request(0, Op.MEMORY_READ, 0, 4097).body(), "last must be from 0 to 4095, not 4096"),
        (lambda: Request(0, Op.MEMORY_WRITE, 0, 4, b"x"), "MEMORY_WRITE of 4 bytes cannot carry 1"),
        (lambda: Request.parse(b"abc"), "a frame of 3 bytes ends before its header of 6"),
        (lambda: Request.parse(b"\x50\0\0\0\0\0"), "there is no op 5"),
        (lambda: Answer.parse(b"\x90"), "there is no status 9"),
    ],
)
def test_what_is_no_frame_is_refused(make, text):
    with pytest.raises(LinkError, match=text):
        make()
