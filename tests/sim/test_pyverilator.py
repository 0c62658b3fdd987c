"""The PyVerilator adapter: a block, the core's registers, and a whole model on the core."""

import random
import re
import sys

import numpy as np
import pytest

from systolith.compiler.driver import compile_graph
from systolith.host.device import DeviceError
from systolith.host.driver import Driver
from systolith.hw.leaf.table import Table
from systolith.reference.machine_device import MachineDevice
from systolith.sim.benches.checks import signed8, split_bytes
from systolith.sim.benches.tops import component_verilog
from systolith.sim.pyverilator import PyVerilatorDevice, PyVerilatorModel, load_pyverilator
from systolith.spec.isa import isa_for
from systolith.spec.regs import MAGIC, VERSION, ErrorCode, Status, config_values
from systolith.tooling.process import ToolError
from tests.graphs import ARCHS, random_graph, random_inputs
from tests.hw.engine_bench import MIXED


@pytest.fixture(scope="module")
def device():
    return PyVerilatorDevice(ARCHS["tiny"])


def test_a_block_is_driven_port_by_port():
    rng = random.Random(3)
    model = PyVerilatorModel(*component_verilog(Table(MIXED), "table"))
    model.reset()
    contents = rng.randbytes(MIXED.table_bytes)
    model.write("write__valid", 1)
    for beat in range(MIXED.table_bytes // MIXED.bus_bytes):
        model.write("write__beat", beat)
        model.write(
            "write__data",
            int.from_bytes(contents[beat * MIXED.bus_bytes : (beat + 1) * MIXED.bus_bytes], "little"),
        )
        model.settle()
        while not model.read("write__ready"):
            model.tick()
        model.tick()
    model.write("write__valid", 0)
    for _ in range(100):
        slot, operands = rng.randrange(MIXED.table_slots), rng.randbytes(MIXED.lanes)
        model.write("slot", slot)
        model.write("i", int.from_bytes(operands, "little"))
        for _ in range(Table.LATENCY):
            model.tick()
        assert split_bytes(model.read("o"), MIXED.lanes) == tuple(
            signed8(contents[256 * slot + x]) for x in operands
        )


def test_a_value_that_does_not_fit_its_port_is_refused():
    model = PyVerilatorModel(*component_verilog(Table(MIXED), "table"))
    with pytest.raises(ValueError, match=r"^rst must be from 0 to 1, not 2$"):
        model.write("rst", 2)


def test_registers_identify_the_core(device):
    assert (device.csr_read("MAGIC"), device.csr_read("VERSION")) == (MAGIC, VERSION)
    assert {name: device.csr_read(name) for name in config_values(device.arch)} == config_values(device.arch)


def test_a_program_stops_at_halt_and_an_illegal_one_with_an_error(device):
    isa = isa_for(device.arch)
    device.reset()
    device.write(0, isa.encode(isa.make("NOP")) + isa.encode(isa.make("HALT")))
    device.csr_write("PROGRAM_SIZE", 2 * isa.word_bytes)
    device.csr_write("ENTRY", 0)
    device.start()
    device.wait(2000)
    assert device.csr_read("STATUS") == Status.DONE
    device.write(isa.word_bytes, b"\xff" * isa.word_bytes)
    device.start()
    device.wait(2000)
    assert device.csr_read("STATUS") == Status.ERROR
    assert (device.csr_read("ERROR_CODE"), device.csr_read("ERROR_ADDR")) == (
        ErrorCode.ILLEGAL_INSTRUCTION,
        isa.word_bytes,
    )
    device.reset()


@pytest.mark.parametrize("seed", [2, 5])
def test_a_model_gives_the_bits_of_the_reference(device, seed):
    graph = random_graph(seed, largest=5, steps=3)
    image = compile_graph(graph, device.arch)
    rtl, machine = Driver(device, image, max_cycles=200_000), Driver(MachineDevice(device.arch), image)
    inputs = random_inputs(graph, seed)
    expected, actual = machine.run_int8(inputs), rtl.run_int8(inputs)
    for name in graph.outputs:
        np.testing.assert_array_equal(actual[name], expected[name], err_msg=f"seed {seed}")


def test_memory_has_an_end(device):
    with pytest.raises(
        DeviceError, match=r"^bytes 4194300 to 4194308 lie outside the memory of 4194304 bytes$"
    ):
        device.read((1 << 22) - 4, 8)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    for name in [n for n in sys.modules if n.startswith("pyverilator")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyverilator", None)
    with pytest.raises(
        ToolError,
        match="^" + re.escape("PyVerilator is not installed: pip install 'systolith[pyverilator]'") + "$",
    ):
        load_pyverilator()
