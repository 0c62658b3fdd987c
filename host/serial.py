"""A board as a `Device`, over the host link of `spec.link`. A transport carries the bytes: a serial port, or
a simulation."""

from __future__ import annotations

import contextlib
import secrets
import time
from dataclasses import dataclass
from typing import Protocol

from systolith.host.device import DeviceReset
from systolith.spec.errors import DeviceError, OutOfCyclesError
from systolith.spec.link import (
    CRC_BYTES,
    IDENTITY_BYTES,
    LINK_VERSION,
    MIN_PAYLOAD_BYTES,
    REACH,
    SEQUENCE,
    Answer,
    LinkError,
    LinkStatus,
    Op,
    Request,
    Unframer,
    frame,
    identity,
)
from systolith.spec.regs import CSRS, Control, Status

__all__ = ["ATTEMPTS", "LinkDown", "LinkStatistics", "SerialDevice", "SerialPort", "Transport"]

#: How often a request is sent before the host gives up.
ATTEMPTS = 10
#: Bits on the line per byte: start, eight, stop.
_BITS = 10
#: STATUS is read so often between two looks at CYCLES.
_POLLS = 8
#: Seconds that the bus transactions of a core under RESET may take.
_DRAIN_SECONDS = 0.05


class LinkDown(DeviceError):
    """A port that cannot be used, or a board that does not answer on it."""


class Transport(Protocol):
    """A serial line.

    Members
    -------
    name : str        for messages
    baud : int        bits per second, of the time that `now` tells
    latency : float   seconds that an answer may come later than its bits on the line, at most
    """

    name: str
    baud: int
    latency: float

    def write(self, data: bytes) -> None:
        """Send."""

    def read(self, timeout: float) -> bytes:
        """What has come, as soon as there is something; empty after `timeout` seconds."""

    def discard(self) -> None:
        """Forget what has come, until the line is quiet."""

    def now(self) -> float:
        """Seconds since any moment."""

    def close(self) -> None:
        """Release the line."""


class SerialPort:
    """A port of the operating system, by pyserial.

    Raises
    ------
    LinkDown   If pyserial is missing, or the port is, or is in use, or may not be used.
    """

    #: Answers of a USB adapter wait for its timer, and for a busy host.
    latency = 0.2
    #: `read` looks at its deadline this often: changing pyserial's own timeout would reconfigure the port.
    _SLICE = 0.01

    def __init__(self, port: str, baud: int) -> None:
        try:
            import serial
        except ImportError as error:
            raise LinkDown(
                "a board needs pyserial, which is not installed: pip install 'systolith[boards]'"
            ) from error
        self.name, self.baud = port, baud
        self._error = serial.SerialException
        try:
            self._serial = serial.Serial(port, baud, timeout=self._SLICE, exclusive=True)
        except (serial.SerialException, ValueError, OSError) as error:
            raise LinkDown(
                f"cannot open the port {port!r} at {baud:,} baud ({_reason(error)}): is the board connected, "
                "is the name right, may this user use it, and does no other program?"
            ) from error
        self._ask_for_low_latency()

    def _ask_for_low_latency(self) -> None:
        """FTDI adapters keep short answers back for 16 ms otherwise. Where it cannot be had, the link is
        slower and just as right."""
        # Only speed depends on it, so no way of not having it is an error: pyserial on Windows lacks the
        # method, that on other systems than Linux refuses, and so do some adapters, in two ways.
        with contextlib.suppress(AttributeError, NotImplementedError, ValueError, OSError):
            self._serial.set_low_latency_mode(True)

    def write(self, data: bytes) -> None:
        """Send."""
        try:
            self._serial.write(data)
        except (self._error, OSError) as error:
            raise self._lost(error) from error

    def read(self, timeout: float) -> bytes:
        """What has come, as soon as there is something; empty after `timeout` seconds."""
        deadline = self.now() + timeout
        try:
            while not (data := self._serial.read(max(1, self._serial.in_waiting))) and self.now() < deadline:
                pass
        except (self._error, OSError) as error:
            raise self._lost(error) from error
        return bytes(data)

    def discard(self) -> None:
        """Forget what has come, until the line is quiet."""
        for _ in range(100):
            if not self.read(2 * self._SLICE):
                return
        raise LinkDown(
            f"the port {self.name!r} never falls silent: something else than a Systolith board is sending "
            f"on it; choose another"
        )

    def now(self) -> float:
        """Seconds since any moment."""
        return time.monotonic()

    def close(self) -> None:
        """Release the port."""
        self._serial.close()

    def _lost(self, error: Exception) -> LinkDown:
        return LinkDown(f"the port {self.name!r} failed ({_reason(error)}): was the board unplugged?")


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())


@dataclass(slots=True)
class LinkStatistics:
    """What became of the requests so far.

    Parameters
    ----------
    requests : int   answered
    retries : int    sent again
    damaged : int    answers with a wrong checksum; requests that the board could not read are only seen as
              silence
    silent : int     attempts without any answer in time
    """

    requests: int = 0
    retries: int = 0
    damaged: int = 0
    silent: int = 0


class SerialDevice:
    """One core and its memory, behind a transport.

    Every request is repeated until its answer came undamaged; writes to CSRs take effect once however often
    they are sent. A board that was reset says so, and the device raises `DeviceReset` until `open` is called
    again; so it is with `LinkDown` after too many attempts.

    Parameters
    ----------
    transport : Transport   closed with the device
    memory_bytes : int      the board's external memory; by default all that the link addresses

    Members
    -------
    statistics : LinkStatistics
    payload_bytes : int           most bytes of a request, as the board says

    Raises
    ------
    LinkDown   If no board answers.
    """

    def __init__(self, transport: Transport, memory_bytes: int = 1 << 32) -> None:
        self._transport = transport
        self.memory_bytes = memory_bytes
        self.statistics = LinkStatistics()
        self.payload_bytes = MIN_PAYLOAD_BYTES
        self._open = False
        self._seq = secrets.randbelow(SEQUENCE)
        try:
            self.open()
        except BaseException:
            self.close()
            raise

    def open(self) -> None:
        """Say hello; what the board holds is unknown from here on.

        Raises
        ------
        LinkDown   If no board answers, or one with another protocol.
        """
        self._transport.discard()
        self._open = True
        payload = self._request(Op.HELLO, 0, IDENTITY_BYTES)
        name, version, exponent = payload[:2], payload[2], payload[3]
        if name != identity(MIN_PAYLOAD_BYTES)[:2] or version != LINK_VERSION:
            raise LinkDown(
                f"{self._transport.name!r} speaks version {version} of the link, this host version "
                f"{LINK_VERSION}: build the bitstream again"
            )
        self.payload_bytes = 1 << exponent

    def close(self) -> None:
        """Release the transport."""
        self._transport.close()

    @property
    def transport(self) -> Transport:
        """What carries the bytes."""
        return self._transport

    # -- memory and registers
    # -------------------------------------------------------------------------------------------
    def write(self, addr: int, data: bytes) -> None:
        """Copy bytes into external memory.

        Raises
        ------
        DeviceError   If the link fails, the board was reset, or its memory refuses an address.
        """
        view = memoryview(data)
        for at, size in self._blocks(addr, len(data)):
            self._request(Op.MEMORY_WRITE, at, size, bytes(view[at - addr : at - addr + size]))

    def read(self, addr: int, size: int) -> bytes:
        """Bytes of external memory.

        Raises
        ------
        DeviceError   As `write`.
        """
        return b"".join(self._request(Op.MEMORY_READ, at, count) for at, count in self._blocks(addr, size))

    def csr_read(self, name: str) -> int:
        """A register of `spec.regs` by name."""
        return int.from_bytes(self._request(Op.CSR_READ, CSRS[name].address, 4), "little")

    def csr_write(self, name: str, value: int) -> None:
        """Set a register by name."""
        self._request(Op.CSR_WRITE, CSRS[name].address, 4, value.to_bytes(4, "little"))

    def start(self) -> None:
        """Begin executing at ENTRY."""
        self.csr_write("CONTROL", Control.START)

    def wait(self, timeout_cycles: int | None = None) -> None:
        """Ask until the core neither runs nor drains.

        Raises
        ------
        OutOfCyclesError   If it still runs after `timeout_cycles` of its own.
        DeviceError        If the link fails, or the board was reset.
        """
        polls = 0
        while self.csr_read("STATUS") & (Status.RUNNING | Status.DRAINING):
            polls += 1
            # CYCLES takes three requests more.
            if timeout_cycles is not None and polls % _POLLS == 0 and self._cycles() > timeout_cycles:
                raise OutOfCyclesError(timeout_cycles)

    def watch(self) -> None:
        """Nothing to watch: a board does not tell when instructions are done."""

    def dones(self) -> None:
        """None: see `watch`."""
        return None

    def reset(self) -> None:
        """CONTROL.RESET, and wait until the core is idle.

        Raises
        ------
        DeviceError   If its bus transactions do not end, or the link fails.
        """
        self.csr_write("CONTROL", Control.RESET)
        deadline = self._transport.now() + _DRAIN_SECONDS
        while self.csr_read("STATUS") & (Status.RUNNING | Status.DRAINING):
            if self._transport.now() > deadline:
                raise DeviceError(
                    "the core does not come to rest after RESET: its memory does not answer; reset the board"
                )

    def _cycles(self) -> int:
        # The high word may change between the two reads; then the low one is read again.
        high = self.csr_read("CYCLES_HI")
        low = self.csr_read("CYCLES_LO")
        again = self.csr_read("CYCLES_HI")
        return again << 32 | (low if again == high else self.csr_read("CYCLES_LO"))

    # -- the link
    # -------------------------------------------------------------------------------------------------------
    def _blocks(self, addr: int, size: int) -> list[tuple[int, int]]:
        """A range, split where the addresses of a request would wrap."""
        if not 0 <= addr <= addr + size <= REACH:
            raise DeviceError(f"the link reaches {REACH >> 20} MiB of memory, not {size} bytes at 0x{addr:x}")
        blocks = []
        while size:
            count = min(size, self.payload_bytes - addr % self.payload_bytes)
            blocks.append((addr, count))
            addr, size = addr + count, size - count
        return blocks

    def _request(self, op: Op, addr: int, size: int, payload: bytes = b"") -> bytes:
        """One request, repeated until it is answered; returns the payload of its answer."""
        if not self._open:
            # What became of the last request is unknown, and the next one might be taken for it.
            raise LinkDown(f"the link to {self._transport.name!r} was given up: open it again")
        self._seq = (self._seq + 1) % SEQUENCE
        line = frame(Request(self._seq, op, addr, size, payload).body())
        before = (self.statistics.damaged, self.statistics.silent)
        for attempt in range(ATTEMPTS):
            self.statistics.retries += attempt > 0
            self._transport.write(line)
            answer = self._answer(len(line), 0 if op.writes else size)
            if answer is not None:
                self.statistics.requests += 1
                return self._accept(answer, op, addr)
        self._open = False
        damaged, silent = self.statistics.damaged - before[0], self.statistics.silent - before[1]
        if damaged:
            raise LinkDown(
                f"too many errors on the line {self._transport.name!r}: {ATTEMPTS} attempts gave {damaged} "
                f"damaged answers and {silent} times none; use a shorter cable or a lower rate than "
                f"{self._transport.baud:,} baud"
            )
        raise LinkDown(
            f"no board answers on {self._transport.name!r}: {ATTEMPTS} attempts at {self._transport.baud:,} "
            "baud gave nothing; is it the right port, is the bitstream loaded, and is it built for this "
            "rate?"
        )

    def _answer(self, sent: int, size: int) -> Answer | None:
        """The answer to the last request, or None if it does not come in time or is damaged."""
        transport, unframer = self._transport, Unframer()
        header = len(Answer(0, LinkStatus.OK).body())
        # Every byte of an answer may need an escape.
        bits = _BITS * (sent + 2 * (header + size + CRC_BYTES) + 1)
        deadline = transport.now() + bits / transport.baud + transport.latency
        damaged = False
        while not damaged and (left := deadline - transport.now()) > 0:
            for byte in transport.read(left):
                unframer.push(byte)
                raw = unframer.raw
                if len(raw) < header + CRC_BYTES:
                    continue
                if len(raw) < header + CRC_BYTES + (size if raw[0] >> 4 == LinkStatus.OK else 0):
                    continue
                body = unframer.body()
                unframer.clear()
                answer = None if body is None else _parse(body)
                if answer is None:
                    damaged = True
                elif answer.seq == self._seq:
                    return answer
                # An answer to an earlier attempt at something else is of no interest any more.
        if damaged or unframer.raw:
            self.statistics.damaged += 1
        else:
            self.statistics.silent += 1
        return None

    def _accept(self, answer: Answer, op: Op, addr: int) -> bytes:
        if answer.status is LinkStatus.OK:
            return answer.payload
        if answer.status is LinkStatus.CLOSED:
            raise DeviceReset(
                f"the board on {self._transport.name!r} was reset, and has lost what was loaded: load it "
                f"again"
            )
        what = f"{op.name.lower().replace('_', ' ')} at 0x{addr:x}"
        if answer.status is LinkStatus.BUS_ERROR:
            raise DeviceError(
                f"the board's bus answered a {what} with an error: is there memory at this address?"
            )
        raise DeviceError(
            f"the board refused a {what}: its bitstream is older than this host; build it again"
        )


def _parse(body: bytes) -> Answer | None:
    try:
        return Answer.parse(body)
    except LinkError:
        return None
