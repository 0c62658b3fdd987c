"""The device's side of the host link in plain Python: the reference of the gateware, and a stand-in for it in
tests of the host."""

from __future__ import annotations

import random

from systolith.spec.link import (
    CRC_BYTES,
    Answer,
    LinkError,
    LinkStatus,
    Op,
    Request,
    Unframer,
    frame,
    identity,
)

__all__ = ["DeviceModel", "damage"]

_HEADER_BYTES = 6


class DeviceModel:
    """Bytes in, bytes out.

    Parameters
    ----------
    memory, csrs : bytearray   contents; addresses outside answer an error
    bad : range                addresses of memory that answer an error
    """

    def __init__(
        self, memory: bytearray, csrs: bytearray, payload_bytes: int, bus_bytes: int, bad: range = range(0)
    ) -> None:
        self.memory, self.csrs, self.payload_bytes, self.bus_bytes, self.bad = (
            memory,
            csrs,
            payload_bytes,
            bus_bytes,
            bad,
        )
        #: Every write to a CSR that was executed: address of the word, strobe of one byte, and that byte at
        #: its place.
        self.csr_writes: list[tuple[int, int, int]] = []
        self.unframer = Unframer()
        self.reset()

    def reset(self) -> None:
        """What power-up does; memory and CSRs keep their contents here."""
        self.unframer.clear()
        self.open = False
        self.last: tuple[int, LinkStatus] | None = None

    def push(self, byte: int) -> bytes:
        """One byte of the line; what the device sends in return."""
        self.unframer.push(byte)
        raw = self.unframer.raw
        if len(raw) < self._expected(raw):
            return b""
        body = self.unframer.body()
        self.unframer.clear()
        return b"" if body is None else frame(self._execute(body).body())

    def _expected(self, raw: bytes) -> int:
        """Bytes of the frame, by its header."""
        if len(raw) < _HEADER_BYTES:
            return _HEADER_BYTES
        last = (int.from_bytes(raw[1:3], "little") & 0xFFF) % self.payload_bytes
        return _HEADER_BYTES + (last + 1 if raw[0] & 0x10 else 0) + CRC_BYTES

    def _execute(self, body: bytes) -> Answer:
        seq = body[0] & 15
        try:
            request = Request.parse(body)
        except LinkError:
            return self._remember(Answer(seq, LinkStatus.REFUSED))
        if request.size > self.payload_bytes:
            return self._remember(Answer(seq, LinkStatus.REFUSED))
        if request.op is Op.HELLO:
            self.open = True
            data = identity(self.payload_bytes)
            return self._remember(
                Answer(seq, LinkStatus.OK, bytes(data[(request.addr + i) % 4] for i in range(request.size)))
            )
        if not self.open:
            return self._remember(Answer(seq, LinkStatus.CLOSED))
        if request.op is Op.CSR_WRITE and self.last is not None and self.last[0] == seq:
            return Answer(seq, self.last[1])
        return self._remember(self._access(request))

    def _remember(self, answer: Answer) -> Answer:
        self.last = answer.seq, answer.status
        return answer

    def _access(self, request: Request) -> Answer:
        """Beat by beat; the first error ends it."""
        target, beat_bytes = (self.csrs, 4) if request.op.narrow else (self.memory, self.bus_bytes)
        base = request.addr - request.addr % self.payload_bytes
        beats: dict[int, list[tuple[int, int]]] = {}
        for i in range(request.size):
            addr = base + (request.addr + i) % self.payload_bytes
            beats.setdefault((request.addr % self.payload_bytes + i) // beat_bytes, []).append((i, addr))
        read = bytearray(request.size)
        for lanes in beats.values():
            first = lanes[0][1] - lanes[0][1] % beat_bytes
            if not 0 <= first <= len(target) - beat_bytes or (not request.op.narrow and first in self.bad):
                return Answer(request.seq, LinkStatus.BUS_ERROR)
            for i, addr in lanes:
                if request.op.writes:
                    target[addr] = request.payload[i]
                read[i] = target[addr]
                if request.op is Op.CSR_WRITE:
                    self.csr_writes.append((first, 1 << addr % 4, request.payload[i] << 8 * (addr % 4)))
        return Answer(request.seq, LinkStatus.OK, b"" if request.op.writes else bytes(read))


def damage(data: bytes, rng: random.Random, faults: int) -> bytes:
    """Bytes as a bad line delivers them: bits inverted, bytes lost, inserted or repeated, a run of them
    gone."""
    out = bytearray(data)
    for _ in range(faults):
        at = rng.randrange(len(out)) if out else 0
        kind = rng.randrange(5)
        if kind == 0 and out:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and out:
            del out[at]
        elif kind == 2:
            out.insert(at, rng.randrange(256))
        elif kind == 3 and out:
            out.insert(at, out[at])
        else:
            del out[at : at + rng.randrange(1, 8)]
    return bytes(out)
