"""What goes wrong on a running core stops it with the documented code, and the next program runs correctly."""

import dataclasses

import numpy as np
import pytest

from systolith.compiler.driver import compile_graph
from systolith.host.device import DeviceError
from systolith.host.driver import Driver
from systolith.sim.native import DECERR, SLVERR, RtlDevice
from systolith.spec.arch import PRESETS
from systolith.spec.isa import isa_for
from systolith.spec.regs import ErrorCode, Status
from tests.compiler.test_compile import ARCHS, random_inputs
from tests.graphs import random_graph

ARCH = ARCHS["tiny"]
ISA = isa_for(ARCH)


@pytest.fixture
def device():
    with RtlDevice(ARCH) as device:
        yield device


def good_program_runs(device):
    graph = random_graph(1)
    inputs = random_inputs(graph, 1)
    actual, expected = Driver(device, compile_graph(graph, ARCH), timeout_cycles=500_000).run_int8(inputs), graph.run(inputs)
    for name in graph.outputs:
        np.testing.assert_array_equal(actual[name], expected[name])


def execute(device, words, data_size=4096, watchdog=2000):
    """Run raw instruction words at PROGRAM offset 0; returns (status, code, offset)."""
    device.reset()
    program = b"".join(words)
    device.write(0, program + bytes(64))
    for name, value in (("PROGRAM_LO", 0), ("PROGRAM_HI", 0), ("PROGRAM_SIZE", len(program)), ("DATA_LO", 1 << 16), ("DATA_HI", 0),
                        ("DATA_SIZE", data_size), ("ENTRY", 0), ("WATCHDOG", watchdog)):
        device.csr_write(name, value)
    device.start()
    device.wait(100_000)
    status = Status(device.csr_read("STATUS"))
    result = (status & (Status.DONE | Status.ERROR), ErrorCode(device.csr_read("ERROR_CODE")), device.csr_read("ERROR_ADDR"))
    device.csr_write("WATCHDOG", 1 << 20)
    return result


def word(text):
    return ISA.encode(ISA.assemble(text))


NOP, HALT = word("NOP"), word("HALT")
SIZE = ISA.word_bytes


@pytest.mark.parametrize(("words", "code", "index"), [
    ([NOP, b"\x0f" + bytes(SIZE - 1), HALT], ErrorCode.ILLEGAL_INSTRUCTION, 1),
    ([NOP, NOP, word("HALT")[:-1] + b"\x80"], ErrorCode.ILLEGAL_INSTRUCTION, 2),
    ([NOP, word("MATMUL mode=DEPTHWISE kt=2"), HALT], ErrorCode.ILLEGAL_INSTRUCTION, 1),
    ([word(f"MATMUL acc={ARCH.acc_depth - 1} ox=2 final=1"), HALT], ErrorCode.OPERAND_RANGE, 0),
    ([NOP, word(f"MATMUL tile={ARCH.weight_tiles - 1} kt=2"), HALT], ErrorCode.OPERAND_RANGE, 1),
    ([NOP, word("LOAD space=WEIGHT region=DATA bytes=8"), HALT], ErrorCode.OPERAND_RANGE, 1),
    ([NOP, word(f"LOAD region=DATA base={ARCH.act_bytes - 1} bytes=2"), HALT], ErrorCode.OPERAND_RANGE, 1),
    ([NOP, word("STORE region=DATA offset=4095 bytes=2"), HALT], ErrorCode.REGION, 1),
    ([NOP, word("STORE region=PROGRAM bytes=1"), HALT], ErrorCode.REGION, 1),
    ([NOP, NOP], ErrorCode.REGION, 2),
    ([NOP, word("OUTPUT"), HALT], ErrorCode.WATCHDOG, 1),
    ([NOP, NOP, word("LOAD wait=STORE region=DATA bytes=1"), HALT], ErrorCode.WATCHDOG, 2),
])
def test_a_wrong_program_stops_with_its_code_and_address(device, words, code, index):
    assert execute(device, words) == (Status.ERROR, code, index * SIZE)
    good_program_runs(device)


@pytest.mark.parametrize("response", [SLVERR, DECERR])
def test_bus_errors_stop_the_core(device, response):
    device.inject(1 << 16, (1 << 16) + 15, response)
    load, store = word("LOAD region=DATA bytes=64"), word("STORE region=DATA bytes=64")
    assert execute(device, [NOP, load, HALT]) == (Status.ERROR, ErrorCode.BUS_READ, SIZE)
    assert execute(device, [store, NOP, HALT]) == (Status.ERROR, ErrorCode.BUS_WRITE, 0)
    device.clear_faults()
    good_program_runs(device)


def test_reset_in_mid_flight_recovers(device):
    for cycles in (20, 45, 60, 90, 200):
        device.write(0, word("LOAD region=DATA rows=100 bytes=16") + word("STORE region=DATA rows=100 bytes=16") + HALT)
        for name, value in (("PROGRAM_SIZE", 3 * SIZE), ("DATA_SIZE", 4096), ("DATA_LO", 1 << 16), ("ENTRY", 0)):
            device.csr_write(name, value)
        device.start()
        device.run(cycles)
        device.reset()
        assert device.csr_read("STATUS") == 0, f"after {cycles} cycles"
        good_program_runs(device)


def test_an_image_for_another_architecture_is_refused(device):
    other = dataclasses.replace(PRESETS["array8"], name="other")
    with pytest.raises(DeviceError, match="compiled for another core"):
        Driver(device, compile_graph(random_graph(1), other))
    good_program_runs(device)
