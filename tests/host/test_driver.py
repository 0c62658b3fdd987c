"""The host driver on the machine, and on devices that fail."""

import dataclasses
import re

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from systolith.compiler.driver import compile_graph
from systolith.host.codes import dequantise, quantise
from systolith.host.device import DeviceError
from systolith.host.driver import Driver
from systolith.host.inputs import InputError
from systolith.reference.machine_device import MachineDevice
from systolith.spec.arch import PRESETS
from systolith.spec.isa import isa_for
from systolith.spec.manifest import IoTensor
from systolith.spec.regs import MAGIC, VERSION, ErrorCode, Status
from tests.graphs import GraphBuilder, random_inputs

ARCH = PRESETS["array8"]


def two_inputs(dtype="int8"):
    """Two inputs, two outputs; the axes of the second are permuted."""
    b = GraphBuilder(7)
    x, y = b.input((1, 3, 4, 5)), b.input((1, 3, 4, 5))
    for name in (x, y):
        b.tensors[name] = dataclasses.replace(b.tensors[name], dtype=dtype)
    return b.finish(b.conv(x), b.binary(x, y))


@pytest.fixture(scope="module")
def graph():
    return two_inputs()


@pytest.fixture(scope="module")
def image(graph):
    return compile_graph(graph, ARCH)


class FaultyDevice(MachineDevice):
    """Answers some registers with other values; may refuse to finish."""

    def __init__(self, arch=ARCH, hangs=False, **registers):
        super().__init__(arch)
        self.registers, self.hangs = registers, hangs
        self.timeouts = []

    def csr_read(self, name):
        return self.registers.get(name, super().csr_read(name))

    def wait(self, timeout_cycles=None):
        self.timeouts.append(timeout_cycles)
        if self.hangs:
            raise DeviceError(f"the core still runs after {timeout_cycles} cycles")


def check(driver, graph, inputs):
    actual, expected = driver.run_int8(inputs), graph.run(inputs)
    assert list(actual) == list(graph.outputs)
    for name in graph.outputs:
        np.testing.assert_array_equal(actual[name], expected[name])


def test_inferences_one_after_another_do_not_see_each_other(graph, image):
    driver = Driver(MachineDevice(ARCH), image)
    for seed in (1, 2, 1):
        check(driver, graph, random_inputs(graph, seed))


class WatchedDevice(MachineDevice):
    """Its external memory holds garbage before anything is written; remembers DATA at the first START."""

    def __init__(self, arch):
        super().__init__(arch)
        self.memory[:] = 0xA5
        self.first = None

    def start(self):
        if self.first is None:
            self.first = self.read(self.csrs["DATA_LO"], self.csrs["DATA_SIZE"])
        super().start()


def test_data_is_zero_when_the_load_stream_starts(graph, image):
    device = WatchedDevice(ARCH)
    driver = Driver(device, image)
    assert device.first == bytes(image.data_bytes)
    # Nothing beyond the region is touched.
    assert set(device.read(driver.data_base + image.data_bytes, 1 << 12)) == {0xA5}
    check(driver, graph, random_inputs(graph, 4))


def test_drivers_share_a_memory_and_take_turns(graph, image):
    device = MachineDevice(ARCH)
    first, second = Driver(device, image), Driver(device, image, base=1 << 20)
    assert (second.program_base, first.program_base) == (1 << 20, 0)
    # Reloading `first` brings its constants back on chip; external memory of `second` is untouched by it.
    program = device.read(second.program_base, len(image.program))
    check(Driver(device, image), graph, random_inputs(graph, 3))
    assert device.read(second.program_base, len(image.program)) == program == image.program


@pytest.mark.parametrize("base", [0, 1, 4095, 4096, 100_000])
def test_regions_are_aligned_and_do_not_overlap(graph, image, base):
    device = MachineDevice(ARCH)
    device.write(0, b"\xa5" * base)
    driver = Driver(device, image, base=base)
    assert driver.program_base % 4096 == driver.data_base % 4096 == 0
    assert base <= driver.program_base < base + 4096
    assert driver.program_base + len(image.program) <= driver.data_base
    check(driver, graph, random_inputs(graph, 4))
    assert device.read(0, base) == b"\xa5" * base


def test_a_region_above_4_gib_uses_both_words(image):
    class High(FaultyDevice):
        """Memory from 5 GiB on."""

        START = 5 << 30

        @property
        def memory_bytes(self):
            return self.START + len(self.memory)

        def _range(self, addr, size):
            return super()._range(addr - self.START, size)

    device = High()
    driver = Driver(device, image, base=High.START)
    assert [device.csrs[name] for name in ("PROGRAM_LO", "PROGRAM_HI", "DATA_HI")] == [1 << 30, 1, 1]
    assert driver.data_base > High.START


def test_an_image_that_does_not_fit_is_refused_before_anything_is_written(image):
    device = MachineDevice(ARCH, memory_bytes=1 << 16)
    large = dataclasses.replace(image, data_bytes=1 << 31)
    with pytest.raises(
        DeviceError,
        match=r"^the image needs 2,147,\d{3},\d{3} bytes of external memory \([\d,]+ for its program, "
        r"2,147,483,648 for data\), and this device has 65,536: compile a smaller model, or run it on a "
        r"device with more$",
    ):
        Driver(device, large)
    assert not device.memory.any() and device.csrs["DATA_SIZE"] == 0


@pytest.mark.parametrize(
    ("registers", "message"),
    [
        (
            {"MAGIC": 0xFFFF_FFFF},
            f"the device is no Systolith core: MAGIC reads 0xffffffff instead of 0x{MAGIC:08x}",
        ),
        (
            {"VERSION": VERSION + (1 << 16)},
            "the core has version 2, this host speaks version 1: rebuild the bitstream",
        ),
        (
            {"DIGEST2": 0},
            f"the image was compiled for another core (digest [0-9a-f]{{12}}, architecture '{ARCH.name}') "
            f"than this device (digest [0-9a-f]{{12}}): compile the model for this device",
        ),
    ],
)
def test_a_device_that_is_not_the_right_core_is_refused_before_anything_is_written(image, registers, message):
    device = FaultyDevice(**registers)
    pattern = re.escape(message).replace(re.escape("[0-9a-f]{12}"), "[0-9a-f]{12}")
    with pytest.raises(DeviceError, match=f"^{pattern}$"):
        Driver(device, image)
    assert not device.memory.any()


def test_the_core_is_reset_before_its_memory_is_written(image):
    """It may still run what someone else has started."""
    calls = []

    class Recorder(MachineDevice):
        def reset(self):
            calls.append("reset")
            super().reset()

        def write(self, addr, data):
            calls.append("write")
            super().write(addr, data)

    Driver(Recorder(ARCH), image)
    assert calls[:2] == ["reset", "write"]


def test_another_minor_version_is_accepted(image):
    Driver(FaultyDevice(VERSION=VERSION + 1), image)


def test_an_image_for_another_architecture_is_refused(image):
    other = dataclasses.replace(ARCH, name="other", queue_depth=8)
    with pytest.raises(DeviceError, match="compiled for another core"):
        Driver(MachineDevice(other), image)


@pytest.mark.parametrize("code", [code for code in ErrorCode if code is not ErrorCode.NONE])
def test_an_error_names_code_offset_and_instruction(image, code):
    driver = Driver(FaultyDevice(), image)
    offset, instr = image.stream("run")[1]
    driver.device.registers = {"STATUS": Status.ERROR, "ERROR_CODE": code, "ERROR_ADDR": offset}
    text = isa_for(ARCH).disassemble(instr)
    with pytest.raises(
        DeviceError,
        match=f"^the core stopped with {code.name} at program offset {offset}: {re.escape(text)}$",
    ):
        driver.run_int8({name: np.zeros((1, 3, 4, 5), np.int8) for name in ("in0", "in1")})


def test_an_error_past_the_program_is_still_reported(image):
    driver = Driver(FaultyDevice(), image)
    driver.device.registers = {
        "STATUS": Status.ERROR,
        "ERROR_CODE": ErrorCode.REGION,
        "ERROR_ADDR": len(image.program),
    }
    with pytest.raises(
        DeviceError,
        match=f"^the core stopped with REGION at program offset {len(image.program)}: an instruction has 48 "
        f"bytes, not 0$",
    ):
        driver.run_int8({name: np.zeros((1, 3, 4, 5), np.int8) for name in ("in0", "in1")})


def test_a_damaged_program_stops_and_a_new_driver_recovers(graph, image):
    device = MachineDevice(ARCH)
    driver = Driver(device, image)
    device.write(driver.program_base + image.core.entry, b"\xff" * 16)
    with pytest.raises(DeviceError, match=f"ILLEGAL_INSTRUCTION at program offset {image.core.entry}: "):
        check(driver, graph, random_inputs(graph, 5))
    check(Driver(device, image), graph, random_inputs(graph, 5))


def test_a_core_that_never_ends_is_given_up(image):
    device = FaultyDevice(hangs=True)
    with pytest.raises(DeviceError, match="^the core still runs after 1234 cycles$"):
        Driver(device, image, max_cycles=1234)
    assert device.timeouts == [1234]


def test_cycles_are_both_words_of_the_counter(image):
    device = FaultyDevice(CYCLES_LO=7, CYCLES_HI=2)
    driver = Driver(device, image)
    assert (driver.load_cycles, driver.cycles) == (7 + (2 << 32), 0)
    device.registers = {"CYCLES_LO": 0xFFFF_FFFF}
    driver.run_int8({name: np.zeros((1, 3, 4, 5), np.int8) for name in ("in0", "in1")})
    assert (driver.load_cycles, driver.cycles) == (7 + (2 << 32), 0xFFFF_FFFF)


# -- the model's own types
# -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float32", "uint8", "int8"])
def test_run_takes_and_gives_the_types_of_the_model(dtype):
    graph = two_inputs(dtype)
    image = compile_graph(graph, ARCH)
    codes = random_inputs(graph, 6)
    inputs = {io.name: dequantise(codes[io.name], image.formats[io.name]) for io in image.inputs}
    assert {value.dtype for value in inputs.values()} == {np.dtype(dtype)}
    actual, expected = Driver(MachineDevice(ARCH), image).run(inputs), graph.run(codes)
    for io in image.outputs:
        right = dequantise(expected[io.name], image.formats[io.name])
        np.testing.assert_array_equal(actual[io.name], right, strict=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in1": None}, "input 'in1' is missing: give an array of float32 [1, 3, 4, 5]"),
        ({"in2": np.zeros(1, np.float32)}, "the model has no input 'in2'; its inputs are 'in0', 'in1'"),
        ({"in1": np.zeros((3, 4, 5), np.float32)}, "input 'in1' must have shape [1, 3, 4, 5], not [3, 4, 5]"),
        ({"in1": np.zeros((1, 3, 4, 5))}, "input 'in1' must be of type float32, not float64"),
        (
            {"in1": np.full((1, 3, 4, 5), np.nan, np.float32)},
            "input 'in1' holds NaN: give numbers, as int8 has nothing else",
        ),
    ],
)
def test_inputs_that_do_not_match_are_refused_by_name(change, message):
    driver = Driver(MachineDevice(ARCH), compile_graph(two_inputs("float32"), ARCH))
    inputs = {name: np.zeros((1, 3, 4, 5), np.float32) for name in ("in0", "in1")} | change
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        driver.run({name: value for name, value in inputs.items() if value is not None})


def test_infinities_saturate():
    driver = Driver(MachineDevice(ARCH), compile_graph(two_inputs("float32"), ARCH))
    inputs = {name: np.zeros((1, 3, 4, 5), np.float32) for name in ("in0", "in1")}
    for extreme in (np.inf, -np.inf):
        inputs["in1"][0, 1] = extreme
        found = driver.run(inputs)
        inputs["in1"][0, 1] = np.copysign(np.float32(3e38), extreme)
        for name, value in driver.run(inputs).items():
            np.testing.assert_array_equal(found[name], value, strict=True)


def io_tensor(scale=0.1, zero=0, dtype="float32", shape=(1,)):
    return IoTensor(
        name="x",
        shape=shape,
        dtype=dtype,
        scale=scale,
        zero_point=zero,
        offset=0,
        order=tuple(range(len(shape))),
    )


def onnx_quantise(values, scale, zero):
    """ONNX Runtime's QuantizeLinear and the DequantizeLinear of its result."""
    constants = [
        numpy_helper.from_array(np.float32(scale), "scale"),
        numpy_helper.from_array(np.int8(zero), "zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, values.shape) for name in "xy")
    q = helper.make_tensor_value_info("q", TensorProto.INT8, values.shape)
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [q, y], constants),
        ir_version=8,
        opset_imports=[helper.make_opsetid("", 13)],
    )
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": values})


@pytest.mark.parametrize("scale", [0.25, 0.1, 1 / 3, 2.0**-20, 1e-30, 3e8])
@pytest.mark.parametrize("zero", [-128, -1, 0, 127])
def test_float_quantises_as_onnx_runtime_does(scale, zero):
    rng = np.random.default_rng(8)
    steps = np.arange(-520, 520) / 2
    values = np.concatenate(
        [steps * np.float32(scale), rng.normal(0, 90 * scale, 500), [0, -0.0, 1e38, -1e38]]
    ).astype(np.float32)
    q, back = onnx_quantise(values, scale, zero)
    io = io_tensor(scale, zero)
    np.testing.assert_array_equal(quantise(values, io), q, strict=True)
    np.testing.assert_array_equal(dequantise(q, io), back, strict=True)


def test_ties_go_to_the_even_neighbour_before_the_zero_point():
    ties = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.5, -128.5], np.float32)
    np.testing.assert_array_equal(quantise(ties, io_tensor(1.0, 0)), [0, 2, 2, 0, -2, 126, 127, -128])
    np.testing.assert_array_equal(quantise(ties, io_tensor(1.0, 1)), [1, 3, 3, 1, -1, 127, 127, -127])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float32"])
@pytest.mark.parametrize("zero", [-128, 0, 127])
def test_every_code_survives_the_way_to_the_model_and_back(dtype, zero):
    codes = np.arange(-128, 128).astype(np.int8)
    io = io_tensor(0.037, zero, dtype)
    value = dequantise(codes, io)
    assert value.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(quantise(value, io), codes, strict=True)


def test_uint8_is_held_minus_128():
    io = io_tensor(dtype="uint8")
    np.testing.assert_array_equal(
        quantise(np.array([0, 128, 255], np.uint8), io), np.array([-128, 0, 127], np.int8), strict=True
    )
