"""The SDRAM controller: random reads and writes by cocotbext-axi's manager, which nobody here wrote, on the
chip's model.

The model checks every rule of the chip; the bytes are compared with an array.
"""

import random

import cocotb
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiBus, AxiMaster

from systolith.sim.benches.kit import Ports, rest, start
from systolith.sim.benches.run import BenchSettings
from systolith.sim.benches.tops import PIN_CYCLES, SDRAM
from systolith.sim.sdram import PINS, SdramChip
from systolith.spec.memory import BURST_BEATS

#: Where each of the streams that run at the same time reads and writes: over rows, banks, and the end of the
#: chip.
PLACES = (0x3F80, SDRAM.bytes // 2 - 0x200, SDRAM.bytes - 0x1000)
SIZE = 0x1000


async def serve(dut, chip: SdramChip) -> None:
    """For ever: the chip at the controller's pins."""
    pins = Ports(dut, "pins")
    while True:
        await RisingEdge(dut.clk)
        pins.dq_i = chip.step(**{name: getattr(pins, name) for name in PINS})


async def stream(
    master: AxiMaster, base: int, contents: bytearray, count: int, rng: random.Random, seed: int
) -> None:
    """Accesses of any length and alignment in `contents`, which lies at `base`."""
    for _ in range(count):
        at = rng.randrange(SIZE)
        size = min(rng.choice((1, 4, rng.randint(1, 64), rng.randint(1, 600))), SIZE - at)
        if rng.random() < 0.5:
            contents[at : at + size] = rng.randbytes(size)
            await master.write(base + at, bytes(contents[at : at + size]), awid=0)
        else:
            got = bytes((await master.read(base + at, size, arid=0)).data)
            assert got == contents[at : at + size], (
                f"seed {seed}: {size} bytes at {base + at:#x} are {got.hex()}, not "
                f"{contents[at : at + size].hex()}"
            )


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.4])
async def reads_give_what_was_written(dut, stall):
    """Three streams at the same time; in the end the chip holds what they wrote."""
    settings = BenchSettings.current()
    seed = settings.seed
    rng = random.Random(f"{seed} {stall}")
    chip = SdramChip(SDRAM, PIN_CYCLES)
    master = AxiMaster(AxiBus.from_prefix(dut, "axi_"), dut.clk, dut.rst, max_burst_len=BURST_BEATS)
    rest(rng, stall, master)
    contents = [bytearray(rng.randbytes(SIZE)) for _ in PLACES]
    for base, data in zip(PLACES, contents, strict=True):
        chip.write(base, data)
    cocotb.start_soon(serve(dut, chip))
    await start(dut)
    tasks = [
        cocotb.start_soon(stream(master, base, data, settings.count, rng, seed))
        for base, data in zip(PLACES, contents, strict=True)
    ]
    for task in tasks:
        await task
    for _ in range(32):
        await RisingEdge(dut.clk)
    for base, data in zip(PLACES, contents, strict=True):
        assert chip.read(base, SIZE) == data, (
            f"seed {seed}: the chip does not hold what was written from {base:#x} on"
        )
