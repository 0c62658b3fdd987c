"""The machine behind the `Device` interface: registers, errors, and what survives a reset."""

import numpy as np
import pytest

from systolith.reference.machine_device import MachineDevice
from systolith.spec.regs import (
    CSRS,
    DEFAULT_WATCHDOG,
    MAGIC,
    Access,
    Control,
    ErrorCode,
    Status,
    config_values,
)
from tests.wrong_programs import ARCH, HALT, ISA, NOP, WRONG, execute, word

SIZE = ISA.word_bytes
COPY = [
    word("LOAD region=DATA bytes=64 signal=STORE"),
    word("STORE wait=LOAD region=DATA offset=128 bytes=64"),
    HALT,
]


@pytest.fixture
def device():
    return MachineDevice(ARCH, memory_bytes=1 << 18)


def copies(device, seed=0):
    """The next program runs correctly."""
    data = np.random.default_rng(seed).bytes(64)
    device.write(1 << 16, data + bytes(128))
    assert execute(device, COPY) == (Status.DONE, ErrorCode.NONE, 0)
    assert device.read((1 << 16) + 64, 128) == bytes(64) + data
    assert device.csr_read("INSTRUCTIONS") == len(COPY)


@pytest.mark.parametrize(("words", "code", "index"), WRONG.values(), ids=WRONG)
def test_a_wrong_program_stops_with_its_code_and_address(device, words, code, index):
    assert execute(device, words) == (Status.ERROR, code, index * SIZE)
    assert device.csr_read("INSTRUCTIONS") == index
    copies(device)


def test_constant_registers_tell_the_configuration(device):
    for name, value in config_values(ARCH).items():
        assert device.csr_read(name) == value
    assert device.csr_read("MAGIC").to_bytes(4, "little") == MAGIC.to_bytes(4, "little") == b"SYSL"
    assert device.csr_read("ROWS") == ARCH.rows
    assert device.csr_read("WATCHDOG") == DEFAULT_WATCHDOG


@pytest.mark.parametrize("name", CSRS)
def test_only_writable_registers_keep_what_is_written(device, name):
    before = device.csr_read(name)
    device.csr_write(name, 0x1_2345_6780)
    assert device.csr_read(name) == (0x2345_6780 if CSRS[name].access is Access.WRITE else before)


def test_control_starts_and_resets(device):
    assert device.csr_read("STATUS") == 0
    execute(device, [HALT])
    device.csr_write("CONTROL", Control.RESET)
    assert device.csr_read("STATUS") == 0
    device.csr_write("CONTROL", Control.START)
    assert device.csr_read("STATUS") == Status.DONE
    assert device.csr_read("CONTROL") == 0


def test_reset_clears_an_error_and_keeps_memories(device):
    device.write(1 << 16, b"\x05" * 64)
    assert execute(device, [word("LOAD region=DATA bytes=64"), NOP]) == (
        Status.ERROR,
        ErrorCode.REGION,
        2 * SIZE,
    )
    device.reset()
    assert [device.csr_read(name) for name in ("STATUS", "ERROR_CODE", "ERROR_ADDR")] == [0, 0, 0]
    assert execute(device, [word("STORE region=DATA offset=64 bytes=64"), HALT]) == (
        Status.DONE,
        ErrorCode.NONE,
        0,
    )
    assert device.read((1 << 16) + 64, 64) == b"\x05" * 64


@pytest.mark.parametrize("left", ["MATMUL final=1", "LOAD region=DATA signal=OUTPUT"])
def test_start_forgets_tokens_and_accumulators_of_the_last_stream(device, left):
    """Without a reset by the host, after an error and after HALT."""
    taker = "OUTPUT wait=LOAD" if "signal" in left else "OUTPUT"
    for end in (NOP, HALT):
        execute(device, [word(left), end])
        device.write(0, word(taker) + HALT)
        device.csr_write("PROGRAM_SIZE", 2 * SIZE)
        device.start()
        assert device.csr_read("ERROR_CODE") == ErrorCode.WATCHDOG


def test_entry_chooses_the_stream(device):
    execute(device, [NOP, NOP, NOP, HALT])
    device.csr_write("ENTRY", 2 * SIZE)
    device.start()
    assert device.csr_read("INSTRUCTIONS") == 2
    device.csr_write("ENTRY", 4 * SIZE)
    device.start()
    assert (device.csr_read("ERROR_CODE"), device.csr_read("ERROR_ADDR")) == (ErrorCode.REGION, 4 * SIZE)


def test_memory_outside_the_device_is_refused(device):
    for addr, size in ((-1, 1), ((1 << 18) - 1, 2), (1 << 40, 1)):
        with pytest.raises(ValueError, match="lie outside the memory of 262144 bytes"):
            device.read(addr, size)
    assert device.read((1 << 18) - 1, 1) == b"\0"
