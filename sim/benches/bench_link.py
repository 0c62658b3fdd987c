"""The host link over its line, bit by bit: random requests, damaged ones too, to a memory and registers that
nobody here wrote (cocotbext-axi's `AxiRam` and `AxiLiteRam`).

Every answer is the one that the host expects, in bits of the right length; in the end memory and registers
hold what was written.
"""

from __future__ import annotations

import random

import cocotb
from cocotb.queue import Queue
from cocotb.triggers import ClockCycles, FallingEdge, with_timeout
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteRam, AxiRam

from systolith.sim.benches.kit import rest, start
from systolith.sim.benches.monitors import watch_axi
from systolith.sim.benches.run import BenchSettings
from systolith.sim.benches.tops import LINK_DIVISOR
from systolith.spec.link import PAYLOAD_BYTES, Answer, LinkStatus, Op, Request, frame, identity

#: Bytes of memory and of registers.
MEMORY, REGISTERS = 0x2000, 0x80
#: Longest time for an answer, in nanoseconds; a cycle has ten.
PATIENCE = 4_000_000


async def send(dut, data: bytes) -> None:
    """Bytes to the board, back to back."""
    for byte in data:
        for level in (0, *(byte >> bit & 1 for bit in range(8)), 1):
            dut.rx.value = level
            await ClockCycles(dut.clk, LINK_DIVISOR)


async def receive(dut, queue: Queue[int]) -> None:
    """For ever: bytes from the board, each bit in its middle."""
    while True:
        await FallingEdge(dut.tx)
        await ClockCycles(dut.clk, LINK_DIVISOR // 2)
        bits = []
        for _ in range(10):
            bits.append(int(dut.tx.value))
            if len(bits) < 10:
                await ClockCycles(dut.clk, LINK_DIVISOR)
        assert bits[0] == 0 and bits[9] == 1, f"bits {bits} are no byte"
        queue.put_nowait(sum(bit << index for index, bit in enumerate(bits[1:9])))


class Host:
    """What the board must answer, by arrays of bytes."""

    def __init__(self, rng: random.Random, memory: bytearray, registers: bytearray) -> None:
        self._rng, self._memory, self._registers = rng, memory, registers
        self._seq = 0

    def draw(self) -> tuple[bytes, bytes]:
        """A request and its answer, both as they go over the line; what it writes is written here."""
        rng = self._rng
        self._seq = (self._seq + 1) % 16
        op = rng.choice((Op.MEMORY_READ, Op.MEMORY_WRITE, Op.CSR_READ, Op.CSR_WRITE, Op.HELLO))
        target = self._registers if op.narrow else self._memory
        if op is Op.HELLO:
            addr, size = 0, 4
        else:
            size = rng.choice((1, 4, rng.randint(1, 9), rng.randint(1, 8 if op.narrow else 70)))
            addr = rng.randrange(len(target) - size if op.narrow else len(target))
        payload = rng.randbytes(size) if op.writes else b""
        read = identity(PAYLOAD_BYTES)
        if op is not Op.HELLO:
            # Addresses count modulo the limit of bytes.
            base = addr - addr % PAYLOAD_BYTES
            places = [base + (addr + index) % PAYLOAD_BYTES for index in range(size)]
            for place, byte in zip(places, payload, strict=False):
                target[place] = byte
            read = b"" if op.writes else bytes(target[place] for place in places)
        request = Request(self._seq, op, addr, size, payload).body()
        return frame(request), frame(Answer(self._seq, LinkStatus.OK, read).body())


def damaged(request: bytes, rng: random.Random) -> bytes:
    """A request that ends as it should, with a bit of its checksum inverted."""
    at = len(request) - 1
    flip = next(1 << bit for bit in rng.sample(range(8), 8) if request[at] ^ 1 << bit not in (0xA4, 0xA5))
    return request[:at] + bytes((request[at] ^ flip,))


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.4])
async def requests_are_answered(dut, stall):
    """`count` requests, then the contents."""
    settings = BenchSettings.current()
    seed = settings.seed
    rng = random.Random(f"{seed} {stall}")
    memory = AxiRam(AxiBus.from_prefix(dut, "memory_"), dut.clk, dut.rst, size=MEMORY)
    registers = AxiLiteRam(AxiLiteBus.from_prefix(dut, "csr_"), dut.clk, dut.rst, size=REGISTERS)
    rest(rng, stall, memory, registers)
    contents, values = bytearray(rng.randbytes(MEMORY)), bytearray(rng.randbytes(REGISTERS))
    memory.write(0, bytes(contents))
    registers.write(0, bytes(values))
    dut.rx.value = 1
    await start(dut)
    queue: Queue[int] = Queue()
    cocotb.start_soon(receive(dut, queue))
    cocotb.start_soon(watch_axi(dut, settings.arch.bus_bytes, prefix="memory", seed=seed, data_first=True))
    host = Host(rng, contents, values)
    hello = Request(0, Op.HELLO, 0, 4).body(), Answer(0, LinkStatus.OK, identity(PAYLOAD_BYTES)).body()
    exchanges = [tuple(map(frame, hello)), *(host.draw() for _ in range(settings.count))]
    for index, (request, answer) in enumerate(exchanges):
        if rng.random() < 0.2:
            await send(dut, damaged(request, rng))
            await ClockCycles(dut.clk, 20 * LINK_DIVISOR)
            assert queue.empty(), f"seed {seed}: a damaged request {index} is answered"
        await send(dut, request)
        got = bytes([await with_timeout(queue.get(), PATIENCE, "ns") for _ in answer])
        assert got == answer, (
            f"seed {seed}: request {index}, {request.hex()}, is answered {got.hex()}, not {answer.hex()}"
        )
    assert queue.empty(), f"seed {seed}: an answer too many"
    for name, ram, expected in (("memory", memory, contents), ("CSRs", registers, values)):
        assert bytes(ram.read(0, len(expected))) == expected, f"seed {seed}: {name} differ"
