"""The host link: frames on a serial line, by which a host reads and writes a board's memory and CSRs.
Standard library only.

One request is under way at a time, and each is answered. A frame is SYNC, then a body with its CRC-32 behind
it, in which the bytes SYNC and ESCAPE are replaced by ESCAPE and the byte with `FLIP` inverted. So SYNC never
occurs inside a frame: whatever was lost, inserted or inverted, the next SYNC begins a good frame, and bytes
of a payload are never taken for one.

    request   SYNC  header (6 bytes)  payload (last + 1 bytes, for writes)  crc (4)
    answer    SYNC  header (1 byte)  payload (last + 1 bytes, for reads with status OK)  crc (4)

Numbers are little endian, the first field of a header in its lowest bits. A request takes effect only after
its CRC was verified.
"""

from __future__ import annotations

import enum
import zlib
from dataclasses import dataclass

from systolith.spec.errors import SystolithError

__all__ = [
    "ANSWER_FIELDS",
    "CRC_BYTES",
    "CRC_INIT",
    "CRC_POLYNOMIAL",
    "ESCAPE",
    "FLIP",
    "IDENTITY_BYTES",
    "LINK_VERSION",
    "MAX_PAYLOAD_BYTES",
    "MIN_DIVISOR",
    "MIN_PAYLOAD_BYTES",
    "PAYLOAD_BYTES",
    "REACH",
    "REQUEST_FIELDS",
    "SEQUENCE",
    "SYNC",
    "Answer",
    "LinkError",
    "LinkStatus",
    "Op",
    "Request",
    "Unframer",
    "frame",
    "identity",
]

#: Begins a frame. It and ESCAPE are rare in int8 weights, which crowd around 0.
SYNC = 0xA5
#: The next byte is sent with `FLIP` inverted. Differs from SYNC in the lowest bit, so the gateware finds both
#: with one comparison.
ESCAPE = SYNC ^ 1
FLIP = 0x80

#: Protocol version; the host refuses any other.
LINK_VERSION = 1
#: Bytes of payload at most, where a board does not choose another power of two.
PAYLOAD_BYTES = 512
#: A payload holds a beat of the widest bus.
MIN_PAYLOAD_BYTES = 16
MAX_PAYLOAD_BYTES = 4096
#: Clock cycles per bit at least: a byte must not arrive before the one before it is in the checksum.
MIN_DIVISOR = 2

#: CRC-32 of ISO 3309, Ethernet and `zlib.crc32`: reflected polynomial, initial value, bits inverted at the
#: end.
CRC_POLYNOMIAL = 0xEDB8_8320
CRC_INIT = 0xFFFF_FFFF
CRC_BYTES = 4


class LinkError(SystolithError, ValueError):
    """Bytes that are no frame of the link, or values that no frame can carry."""


class Op(enum.IntEnum):
    """What a request asks for. Bit 0: bytes are written, one after another. Bit 1: CSRs, in words of 4 bytes,
    instead of memory in beats of the bus."""

    #: Bytes of memory. Harmless when repeated.
    MEMORY_READ = 0
    #: Bytes of memory, of any alignment. Harmless when repeated.
    MEMORY_WRITE = 1
    #: Bytes of CSRs; those of one register are read at once. Harmless when repeated.
    CSR_READ = 2
    #: Bytes of CSRs, lowest first. With the seq of the request before it, it is answered as then and not
    #: executed: a START is never repeated.
    CSR_WRITE = 3
    #: Opens the link, which a reset closes, and reads the identity. So a host never goes on with a board that
    #: has forgotten everything.
    HELLO = 6

    @property
    def writes(self) -> bool:
        """The request carries the payload."""
        return bool(self & 1)

    @property
    def narrow(self) -> bool:
        """Words of 4 bytes."""
        return bool(self & 2)


class LinkStatus(enum.IntEnum):
    """How a request ended."""

    OK = 0
    #: The bus answered SLVERR or DECERR; a write may have taken effect in part.
    BUS_ERROR = 1
    #: No HELLO since the last reset; nothing was done.
    CLOSED = 2
    #: An unknown op, or more bytes than the board's limit; nothing was done.
    REFUSED = 3


#: Name, bits and meaning of the fields in front of the payload.
REQUEST_FIELDS: tuple[tuple[str, int, str], ...] = (
    ("seq", 4, "Chosen by the host, the next for each request; a retry has the same."),
    ("op", 4, "What is asked for."),
    ("last", 12, "Bytes to read or write, minus 1."),
    (
        "addr",
        28,
        "Address of the first byte. Inside a request, addresses count modulo the board's limit of bytes, so "
        "a host splits there.",
    ),
)
ANSWER_FIELDS: tuple[tuple[str, int, str], ...] = (
    ("seq", 4, "That of the request."),
    ("status", 4, "How it ended."),
)
#: Numbers for requests, and bytes of memory that they reach.
SEQUENCE = 1 << REQUEST_FIELDS[0][1]
REACH = 1 << REQUEST_FIELDS[-1][1]
#: Payload of the answer to HELLO: the letters SL, the version, log2 of the most bytes in a payload.
IDENTITY_BYTES = 4


def identity(payload_bytes: int) -> bytes:
    """What a board with this limit answers to HELLO.

    Raises
    ------
    LinkError   If the limit is not a power of two that a request can ask for.
    """
    if not MIN_PAYLOAD_BYTES <= payload_bytes <= MAX_PAYLOAD_BYTES or payload_bytes & (payload_bytes - 1):
        raise LinkError(
            f"the payload must hold a power of two of bytes, from {MIN_PAYLOAD_BYTES} to "
            f"{MAX_PAYLOAD_BYTES}, not {payload_bytes!r}"
        )
    return b"SL" + bytes((LINK_VERSION, payload_bytes.bit_length() - 1))


def frame(body: bytes) -> bytes:
    """A body as it goes over the line: SYNC in front, CRC behind, escaped."""
    body += zlib.crc32(body).to_bytes(CRC_BYTES, "little")
    out = bytearray((SYNC,))
    for byte in body:
        out += bytes((ESCAPE, byte ^ FLIP)) if byte in (SYNC, ESCAPE) else bytes((byte,))
    return bytes(out)


def _pack(fields: tuple[tuple[str, int, str], ...], values: tuple[int, ...]) -> bytes:
    word = shift = 0
    for (name, bits, _), value in zip(fields, values, strict=True):
        if not 0 <= value < 1 << bits:
            raise LinkError(f"{name} must be from 0 to {(1 << bits) - 1}, not {value}")
        word |= value << shift
        shift += bits
    return word.to_bytes(shift // 8, "little")


def _unpack(fields: tuple[tuple[str, int, str], ...], body: bytes) -> tuple[list[int], bytes]:
    """Values of the fields, and what follows them."""
    size = sum(bits for _, bits, _ in fields) // 8
    if len(body) < size:
        raise LinkError(f"a frame of {len(body)} bytes ends before its header of {size}")
    word = int.from_bytes(body[:size], "little")
    values = []
    for _, bits, _ in fields:
        values.append(word & (1 << bits) - 1)
        word >>= bits
    return values, body[size:]


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Parameters
    ----------
    size : int        bytes to read or write
    payload : bytes   `size` of them for a write, else none

    Raises
    ------
    LinkError   If payload and size disagree.
    """

    seq: int
    op: Op
    addr: int
    size: int
    payload: bytes = b""

    def __post_init__(self) -> None:
        if len(self.payload) != (self.size if Op(self.op).writes else 0):
            raise LinkError(f"{Op(self.op).name} of {self.size} bytes cannot carry {len(self.payload)}")

    def body(self) -> bytes:
        """Without SYNC and CRC.

        Raises
        ------
        LinkError   If a value does not fit its field.
        """
        return _pack(REQUEST_FIELDS, (self.seq, int(self.op), self.size - 1, self.addr)) + self.payload

    @classmethod
    def parse(cls, body: bytes) -> Request:
        """The inverse of `body`.

        Raises
        ------
        LinkError   If it is none.
        """
        (seq, op, last, addr), payload = _unpack(REQUEST_FIELDS, body)
        if op not in tuple(Op):
            raise LinkError(f"there is no op {op}")
        return cls(seq, Op(op), addr, last + 1, payload)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer."""

    seq: int
    status: LinkStatus
    payload: bytes = b""

    def body(self) -> bytes:
        """Without SYNC and CRC."""
        return _pack(ANSWER_FIELDS, (self.seq, int(self.status))) + self.payload

    @classmethod
    def parse(cls, body: bytes) -> Answer:
        """The inverse of `body`.

        Raises
        ------
        LinkError   If it is none.
        """
        (seq, status), payload = _unpack(ANSWER_FIELDS, body)
        if status not in tuple(LinkStatus):
            raise LinkError(f"there is no status {status}")
        return cls(seq, LinkStatus(status), payload)


class Unframer:
    """Bytes of the line in, bodies out, for frames whose length the receiver knows.

    A body is complete as soon as it is as long as it can be and its CRC holds; what follows it before the
    next SYNC is dropped.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Wait for the next SYNC."""
        self._body: bytearray | None = None
        self._escaped = False

    def push(self, byte: int) -> None:
        """Take one byte of the line."""
        if byte == SYNC:
            self._body, self._escaped = bytearray(), False
        elif self._body is not None:
            if byte == ESCAPE:
                self._escaped = True
            else:
                self._body.append(byte ^ FLIP if self._escaped else byte)
                self._escaped = False

    @property
    def raw(self) -> bytes:
        """What came since SYNC, CRC included; empty while there was none."""
        return bytes(self._body or b"")

    def body(self) -> bytes | None:
        """What came since SYNC, without its CRC; None if that does not hold."""
        if self._body is None or self._escaped or len(self._body) < CRC_BYTES:
            return None
        body, crc = bytes(self._body[:-CRC_BYTES]), bytes(self._body[-CRC_BYTES:])
        return body if zlib.crc32(body).to_bytes(CRC_BYTES, "little") == crc else None
