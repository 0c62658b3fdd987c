"""The core: the project's own driver runs a compiled image, over a memory and a bus host that nobody here
wrote.

External memory is cocotbext-axi's `AxiRam`, CSRs are driven by its `AxiLiteMaster`; every channel of both
pauses at random. Outputs are compared bit for bit with the reference machine, run by the same driver.
"""

import random
from pathlib import Path

import cocotb
import numpy as np
from cocotb.task import bridge, resume
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam

from systolith.host.device import DeviceError
from systolith.host.driver import Driver
from systolith.reference.machine_device import MachineDevice
from systolith.sim.benches.kit import LIMIT, rest, start
from systolith.sim.benches.monitors import watch_axi
from systolith.sim.benches.run import BenchSettings
from systolith.spec.image import Image
from systolith.spec.regs import CSRS, Control, Status

#: Bytes of external memory; the images of benches are small.
MEMORY = 1 << 22


class CocotbDevice:
    """The simulated core as a `host.device.Device`, for code that runs in a `bridge`."""

    memory_bytes = MEMORY

    def __init__(self, dut, rng: random.Random, stall: float) -> None:
        self._clk = dut.clk
        self.memory = AxiRam(AxiBus.from_prefix(dut, "axi_"), dut.clk, dut.rst, size=MEMORY)
        self.host = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "csr_"), dut.clk, dut.rst)
        rest(rng, stall, self.memory, self.host)

    def write(self, addr: int, data: bytes) -> None:
        """Copy bytes into external memory; takes no simulated time."""
        self.memory.write(addr, data)

    def read(self, addr: int, size: int) -> bytes:
        """Bytes of external memory; takes no simulated time."""
        return bytes(self.memory.read(addr, size))

    @resume
    async def csr_read(self, name: str) -> int:
        """A register by name."""
        return int(await self.host.read_dword(CSRS[name].address))

    @resume
    async def csr_write(self, name: str, value: int) -> None:
        """Set a register by name."""
        await self.host.write_dword(CSRS[name].address, int(value))

    def start(self) -> None:
        """Begin executing at ENTRY."""
        self.csr_write("CONTROL", Control.START)

    @resume
    async def wait(self, timeout_cycles: int | None = None) -> None:
        """Until the core neither runs nor drains.

        Raises
        ------
        DeviceError   If it still runs after `timeout_cycles`.
        """
        limit = timeout_cycles or LIMIT
        for _ in range(0, limit, 64):
            if not await self.host.read_dword(CSRS["STATUS"].address) & (Status.RUNNING | Status.DRAINING):
                return
            for _ in range(64):
                await RisingEdge(self._clk)
        raise DeviceError(f"the core still runs after {limit} cycles")

    def reset(self) -> None:
        """CONTROL.RESET, and wait until the core is idle."""
        self.csr_write("CONTROL", Control.RESET)
        self.wait()


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.3])
async def inference_is_bit_exact(dut, stall):
    """Load stream, then `count` inferences on random inputs."""
    settings = BenchSettings.current()
    seed = settings.seed
    rng = random.Random(f"{seed} {stall}")
    image = Image.from_bytes(Path(settings.image).read_bytes())
    draws = np.random.default_rng(seed)
    inputs = [
        {
            name: draws.integers(-128, 128, image.formats[name].shape).astype(np.int8)
            for name in image.core.inputs
        }
        for _ in range(settings.count)
    ]
    machine = Driver(MachineDevice(settings.arch, MEMORY), image)
    device = CocotbDevice(dut, rng, stall)
    await start(dut)
    cocotb.start_soon(watch_axi(dut, settings.arch.bus_bytes, seed=seed))

    def session() -> list[dict[str, np.ndarray]]:
        driver = Driver(device, image)
        return [driver.run_int8(values) for values in inputs]

    for draw, actual in enumerate(await bridge(session)()):
        expected = machine.run_int8(inputs[draw])
        for name in expected:
            np.testing.assert_array_equal(
                actual[name], expected[name], err_msg=f"seed {seed}, input {draw}, output {name}"
            )
