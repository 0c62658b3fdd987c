"""What goes wrong on a running core stops it with the documented code, and the next program runs
correctly."""

import dataclasses

import pytest

from systolith.compiler.driver import compile_graph
from systolith.host.device import DeviceError
from systolith.host.driver import Driver
from systolith.sim.native import DECERR, SLVERR, RtlDevice
from systolith.spec.arch import PRESETS
from systolith.spec.regs import ErrorCode, Status
from tests.graphs import assert_same_bits, random_graph
from tests.wrong_programs import ARCH, HALT, ISA, NOP, WRONG, abort, execute, word


@pytest.fixture
def device():
    with RtlDevice(ARCH) as device:
        yield device


def good_program_runs(device):
    graph = random_graph(1)
    assert_same_bits(Driver(device, compile_graph(graph, ARCH), max_cycles=500_000), graph, seed=1, runs=1)


SIZE = ISA.word_bytes


@pytest.mark.parametrize(("words", "code", "index"), WRONG.values(), ids=WRONG)
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
    transfers = [word(f"{name} region=DATA rows=100 bytes=16") for name in ("LOAD", "STORE")]
    for cycles in (20, 45, 60, 90, 200):
        abort(device, [*transfers, HALT], cycles)
        good_program_runs(device)


def test_an_image_for_another_architecture_is_refused(device):
    other = dataclasses.replace(PRESETS["array8"], name="other")
    with pytest.raises(DeviceError, match="compiled for another core"):
        Driver(device, compile_graph(random_graph(1), other))
    good_program_runs(device)
