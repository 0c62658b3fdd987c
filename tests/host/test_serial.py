"""The host's side of the link, over lines of every quality."""

import os
import random
import threading
import tty

import pytest

from systolith.host.device import DeviceError, DeviceReset
from systolith.host.serial import ATTEMPTS, LinkDown, SerialDevice, SerialPort
from systolith.spec.link import LINK_VERSION, Answer, LinkStatus, frame
from systolith.spec.regs import CSR_BYTES, CSRS, Control
from tests.link_model import DeviceModel, damage

MEMORY_BYTES = 4096


class ModelLine:
    """A transport to the model of a device; damages some of what passes, in both directions.

    Parameters
    ----------
    faults : float   probability that a frame is damaged, for each direction
    late : float     probability that an answer comes only with the next one
    """

    name, baud, latency = "model", 1_000_000, 0.001

    def __init__(self, model: DeviceModel, seed: int = 0, faults: float = 0.0, late: float = 0.0) -> None:
        self.model, self.rng, self.faults, self.late = model, random.Random(seed), faults, late
        self.time = 0.0
        self.waiting = b""
        self.held = b""
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.sent.append(data)
        for byte in self._pass(data):
            answer = self.model.push(byte)
            if answer and self.rng.random() < self.late:
                self.held += answer
            elif answer:
                self.waiting += self.held + self._pass(answer)
                self.held = b""

    def _pass(self, data: bytes) -> bytes:
        return damage(data, self.rng, self.rng.randint(1, 3)) if self.rng.random() < self.faults else data

    def read(self, timeout: float) -> bytes:
        count = self.rng.randint(1, 8)
        data, self.waiting = self.waiting[:count], self.waiting[count:]
        self.time += count / 100_000 if data else timeout
        return data

    def discard(self) -> None:
        self.waiting = self.held = b""

    def now(self) -> float:
        return self.time

    def close(self) -> None:
        self.closed = True


def model(payload_bytes: int = 64, bad: range = range(0)) -> DeviceModel:
    rng = random.Random(1)
    return DeviceModel(bytearray(rng.randbytes(MEMORY_BYTES)), bytearray(CSR_BYTES), payload_bytes, 4, bad)


@pytest.mark.parametrize("faults", [0.0, 0.15])
@pytest.mark.parametrize("seed", range(4))
def test_memory_reads_as_it_was_written_over_any_line(seed, faults):
    rng = random.Random(seed)
    device_model = model()
    device = SerialDevice(ModelLine(device_model, seed, faults, late=faults / 2))
    expected = bytearray(device_model.memory)
    for _ in range(60):
        addr, size = rng.randrange(MEMORY_BYTES), rng.choice((0, 1, 3, 64, 200))
        size = min(size, MEMORY_BYTES - addr)
        if rng.random() < 0.5:
            data = rng.randbytes(size)
            device.write(addr, data)
            expected[addr : addr + size] = data
        else:
            assert device.read(addr, size) == expected[addr : addr + size], f"seed {seed}"
    assert device_model.memory == expected, f"seed {seed}"
    assert (device.statistics.retries > 0) == (faults > 0)


@pytest.mark.parametrize("seed", range(4))
def test_every_write_to_a_csr_happens_once_over_a_bad_line(seed):
    device_model = model()
    device = SerialDevice(ModelLine(device_model, seed, faults=0.15, late=0.1))
    for value in range(40):
        device.csr_write("ENTRY", value)
        device.start()
        assert device.csr_read("ENTRY") == value
    address = CSRS["CONTROL"].address
    expected = [
        (at, 1 << i, byte << 8 * i)
        for value in range(40)
        for at, word in ((CSRS["ENTRY"].address, value), (address, Control.START))
        for i, byte in enumerate(int(word).to_bytes(4, "little"))
    ]
    assert device_model.csr_writes == expected, f"seed {seed}"
    assert device.statistics.retries > 10, "the line was better than it should be"


def test_a_reset_of_the_board_is_noticed_and_open_recovers():
    device_model = model()
    device = SerialDevice(ModelLine(device_model))
    device.write(0, b"abcd")
    device_model.reset()
    for action in (
        lambda: device.read(0, 4),
        lambda: device.write(0, b"x"),
        device.start,
        lambda: device.csr_read("STATUS"),
    ):
        with pytest.raises(
            DeviceReset, match="the board on 'model' was reset, and has lost what was loaded: load it again"
        ):
            action()
    device.open()
    assert device.read(0, 4) == b"abcd"


def test_requests_never_cross_the_boards_blocks():
    line = ModelLine(model(payload_bytes=64))
    device = SerialDevice(line)
    assert device.payload_bytes == 64
    line.sent.clear()
    device.read(60, 70)
    assert len(line.sent) == 3


def test_a_dead_line_is_given_up_with_a_remedy():
    class Dead(ModelLine):
        def write(self, data):
            self.sent.append(data)

    line = Dead(model())
    with pytest.raises(
        LinkDown,
        match=f"no board answers on 'model': {ATTEMPTS} attempts at 1,000,000 baud gave nothing; is it the "
        f"right port",
    ):
        SerialDevice(line)
    assert len(line.sent) == ATTEMPTS and line.closed


def test_a_hopeless_line_is_given_up_with_its_count():
    class Hopeless(ModelLine):
        def _pass(self, data):
            return data if data in self.sent else data[:5] + bytes((data[5] ^ 1,)) + data[6:]

    with pytest.raises(
        LinkDown,
        match=f"too many errors on the line 'model': {ATTEMPTS} attempts gave {ATTEMPTS} damaged answers "
        f"and 0 times none",
    ):
        SerialDevice(Hopeless(model()))


def test_a_device_that_was_given_up_must_be_opened_again():
    line = ModelLine(model())
    device = SerialDevice(line)
    line.write, write = (lambda data: None), line.write
    with pytest.raises(LinkDown, match="no board answers"):
        device.start()
    line.write = write
    with pytest.raises(LinkDown, match="the link to 'model' was given up"):
        device.start()
    device.open()
    device.start()


def test_another_protocol_is_refused():
    class Other(ModelLine):
        def write(self, data):
            self.waiting += frame(
                Answer((data[1] if data[1] != 0xA4 else data[2]) & 15, LinkStatus.OK, b"SL\x63\x09").body()
            )

    with pytest.raises(LinkDown, match=f"speaks version 99 of the link, this host version {LINK_VERSION}"):
        SerialDevice(Other(model()))


def test_errors_of_the_bus_and_of_addresses_name_the_place():
    device = SerialDevice(ModelLine(model(bad=range(256, 260))))
    with pytest.raises(DeviceError, match="answered a memory read at 0x100 with an error: is there memory"):
        device.read(256, 4)
    with pytest.raises(DeviceError, match="answered a memory write at 0x1000 with an error"):
        device.write(MEMORY_BYTES, b"x")
    with pytest.raises(DeviceError, match="the link reaches 256 MiB of memory, not 8 bytes at 0xffffffc"):
        device.read(0xFFF_FFFC, 8)


def test_wait_counts_the_cores_own_cycles():
    device_model = model()
    device_model.csrs[CSRS["STATUS"].address] = 1
    device_model.csrs[CSRS["CYCLES_LO"].address :][:2] = b"\xff\xff"
    device_model.csrs[CSRS["CYCLES_LO"].address + 1] = 0x10
    device = SerialDevice(ModelLine(device_model))
    with pytest.raises(DeviceError, match="the core still runs after 4,000 cycles"):
        device.wait(4000)
    device_model.csrs[CSRS["STATUS"].address] = 2
    device.wait(4000)


def test_a_core_that_does_not_come_to_rest_is_reported():
    device_model = model()
    device_model.csrs[CSRS["STATUS"].address] = 8
    with pytest.raises(
        DeviceError, match="does not come to rest after RESET: its memory does not answer; reset the board"
    ):
        SerialDevice(ModelLine(device_model)).reset()


@pytest.fixture
def terminal():
    """The name of a pseudo terminal, with a model of a device on its other end."""
    master, slave = os.openpty()
    tty.setraw(slave)
    device_model = model()

    def serve() -> None:
        while data := _read(master):
            for byte in data:
                if answer := device_model.push(byte):
                    os.write(master, answer)

    thread = threading.Thread(target=serve)
    thread.start()
    yield os.ttyname(slave)
    os.close(slave)
    thread.join(10)
    os.close(master)
    assert not thread.is_alive()


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 256)
    except OSError:
        # The other side was closed.
        return b""


def test_a_port_of_the_operating_system(terminal):
    device = SerialDevice(SerialPort(terminal, 115_200))
    data = random.Random(3).randbytes(300)
    device.write(5, data)
    assert device.read(5, 300) == data
    with pytest.raises(
        LinkDown, match=f"cannot open the port {terminal!r} at 115,200 baud .*does no other program"
    ):
        SerialPort(terminal, 115_200)
    device.close()


def test_a_port_that_is_not_there():
    with pytest.raises(
        LinkDown,
        match="cannot open the port '/dev/nowhere' at 9,600 baud .*: is the board connected, is the name "
        "right",
    ):
        SerialPort("/dev/nowhere", 9600)
