"""A bench for the host link: bytes in and out, memory and CSRs that stall, beside the model that says what is
right."""

import random

from amaranth.hdl import ResetInserter, Signal

from systolith.hw.soc.link import LinkEngine
from tests.hw.axi_memory import AxiMemory
from tests.hw.kit import Held, simulate
from tests.link_model import DeviceModel

__all__ = ["BASE", "CSR_BYTES", "MEMORY_BYTES", "LiteRegisters", "run"]

BASE, MEMORY_BYTES, CSR_BYTES = 0x0, 0x400, 0x80


class LiteRegisters:
    """Serves one `Axi4LiteSignature` from a bytearray; every handshake may stall, and answers come when they
    like.

    Parameters
    ----------
    joint : bool   address and data of a write are taken together only, as `CsrBlock` does
    """

    def __init__(self, bus, data: bytearray, *, stall: float, seed: int, joint: bool) -> None:
        self.bus, self.data, self.stall, self.joint = bus, data, stall, joint
        self.random = random.Random(seed)
        self.writes: list[tuple[int, int, int]] = []

    async def run(self, ctx) -> None:
        bus = self.bus
        address = value = read = None
        bvalid = rvalid = False
        held = {channel: Held(f"csr {channel}") for channel in ("aw", "w", "ar")}
        while True:
            pick = [self.random.random() >= self.stall for _ in range(5)]
            both = self.joint and not (ctx.get(bus.awvalid) and ctx.get(bus.wvalid))
            take_address = pick[0] and address is None and not bvalid and not both
            take_value = (take_address if self.joint else pick[1]) and value is None and not bvalid
            take_read = pick[2] and read is None and not rvalid
            ctx.set(bus.awready, take_address)
            ctx.set(bus.wready, take_value)
            ctx.set(bus.arready, take_read)
            if address is not None and value is not None and pick[3]:
                word, strobe = value
                bad = address + 4 > len(self.data)
                if not bad:
                    mask = sum(0xFF << 8 * i for i in range(4) if strobe >> i & 1)
                    old = int.from_bytes(self.data[address : address + 4], "little")
                    self.data[address : address + 4] = (old & ~mask | word & mask).to_bytes(4, "little")
                    self.writes.append((address, strobe, word & mask))
                ctx.set(bus.bresp, 2 if bad else 0)
                address = value = None
                bvalid = True
            if read is not None and pick[4]:
                bad = read + 4 > len(self.data)
                ctx.set(
                    bus.rdata, 0xDEAD_BEEF if bad else int.from_bytes(self.data[read : read + 4], "little")
                )
                ctx.set(bus.rresp, 2 if bad else 0)
                read = None
                rvalid = True
            ctx.set(bus.bvalid, bvalid)
            ctx.set(bus.rvalid, rvalid)
            names = ("awvalid", "awaddr", "wvalid", "wdata", "wstrb", "arvalid", "araddr", "bready", "rready")
            _, _, *values = await ctx.tick().sample(*(getattr(bus, name) for name in names))
            v = dict(zip(names, values, strict=True))
            for channel, taken, payload in (
                ("aw", take_address, ("awaddr",)),
                ("w", take_value, ("wdata", "wstrb")),
                ("ar", take_read, ("araddr",)),
            ):
                held[channel].check(v[f"{channel}valid"], taken, tuple(v[name] for name in payload))
            if v["awvalid"] and take_address:
                address = v["awaddr"]
            if v["wvalid"] and take_value:
                value = v["wdata"], v["wstrb"]
            if v["arvalid"] and take_read:
                read = v["araddr"]
            if bvalid and v["bready"]:
                bvalid = False
            if rvalid and v["rready"]:
                rvalid = False


def run(
    chunks,
    *,
    bus_bits: int = 32,
    payload_bytes: int = 32,
    stall: float = 0.0,
    seed: int = 0,
    latency: int = 1,
    bad: range = range(0),
    joint: bool = True,
    addr_bits: int = 34,
) -> list[bytes]:
    """Feed bytes; compare every answer, memory and CSRs with the model's. Returns the answers, as they went
    over the line.

    Each item of `chunks` is bytes, or None for a reset of the link. Bytes come every 11 cycles, and none
    while an answer is due.
    """
    dut = LinkEngine(bus_bits=bus_bits, addr_bits=addr_bits, payload_bytes=payload_bytes)
    reset = Signal()
    rng = random.Random(seed)
    contents, registers = bytearray(rng.randbytes(MEMORY_BYTES)), bytearray(rng.randbytes(CSR_BYTES))
    model = DeviceModel(bytearray(contents), bytearray(registers), payload_bytes, bus_bits // 8, bad)
    memory = AxiMemory(dut.memory, contents, latency=latency, stall=stall, seed=seed, bad=bad)
    lite = LiteRegisters(dut.csr, registers, stall=stall, seed=seed + 1, joint=joint)
    answers: list[bytes] = []

    async def feed(ctx) -> None:
        for chunk in chunks:
            if chunk is None:
                model.reset()
                ctx.set(reset, 1)
                await ctx.tick()
                ctx.set(reset, 0)
                continue
            for byte in chunk:
                expected = model.push(byte)
                ctx.set(dut.i.payload, byte)
                ctx.set(dut.i.valid, 1)
                await ctx.tick()
                ctx.set(dut.i.valid, 0)
                if not expected:
                    for _ in range(10):
                        assert not ctx.get(dut.o.valid), (
                            f"an answer where none is due, after {chunk.hex()} (seed {seed})"
                        )
                        await ctx.tick()
                    continue
                got = bytearray()
                for _ in range(40_000):
                    ready = rng.random() >= stall
                    ctx.set(dut.o.ready, ready)
                    _, _, valid, payload = await ctx.tick().sample(dut.o.valid, dut.o.payload)
                    if ready and valid:
                        got.append(payload)
                    if len(got) == len(expected):
                        break
                ctx.set(dut.o.ready, 0)
                assert got == expected, f"answer {got.hex()} instead of {expected.hex()} (seed {seed})"
                answers.append(bytes(got))
        await ctx.tick().repeat(12)
        assert not ctx.get(dut.o.valid), f"an answer where none is due (seed {seed})"

    simulate(ResetInserter(reset)(dut), feed, beside=[memory.run, lite.run], seed=seed)
    assert contents == model.memory, f"memory differs (seed {seed})"
    assert registers == model.csrs and lite.writes == model.csr_writes, f"CSRs differ (seed {seed})"
    return answers
