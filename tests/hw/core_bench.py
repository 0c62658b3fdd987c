"""Runs programs on the simulated core."""

from systolith.hw.cores import core_for
from systolith.spec.isa import isa_for
from systolith.spec.regs import CSRS, Control, Status
from tests.hw.axi_memory import AxiMemory, csr_read, csr_write
from tests.hw.kit import simulate

__all__ = ["DATA", "DATA_SIZE", "PROGRAM", "CoreBench"]

PROGRAM, DATA, DATA_SIZE = 0x10000, 0x20000, 0x2000


class CoreBench:
    """A core with a memory that holds one program after the other.

    Parameters
    ----------
    body : async (bench, ctx) -> None   the test
    """

    def __init__(self, arch, body, *, latency=3, stall=0.0, seed=0, bad=None):
        self.arch = arch
        self.core = core_for(arch)
        self.isa = isa_for(arch)
        self.seed = seed
        self.memory = AxiMemory(
            self.core.axi,
            bytearray(DATA + DATA_SIZE - PROGRAM),
            base=PROGRAM,
            latency=latency,
            stall=stall,
            seed=seed,
            bad=bad,
        )
        self.bytes = self.memory.data
        self.finished = False

        async def testbench(ctx):
            await body(self, ctx)
            self.finished = True

        simulate(self.core, testbench, processes=[self.memory.run], seed=seed)
        assert self.finished

    async def read(self, ctx, name):
        value, response = await csr_read(ctx, self.core.csr, CSRS[name].address)
        assert response == 0
        return value

    async def write(self, ctx, name, value):
        assert await csr_write(ctx, self.core.csr, CSRS[name].address, value) == 0

    async def start(self, ctx, program, *, data=b"", size=None, watchdog=2000, entry=0):
        """Writes a program (instructions, lines of assembly or raw words), and starts it."""
        code = b"".join(
            self.isa.encode(self.isa.assemble(i))
            if isinstance(i, str)
            else i
            if isinstance(i, bytes)
            else self.isa.encode(i)
            for i in program
        )
        self.bytes[entry : entry + len(code)] = code
        at = DATA - PROGRAM
        self.bytes[at : at + len(data)] = data
        for name, value in (
            ("PROGRAM_LO", PROGRAM),
            ("PROGRAM_SIZE", entry + len(code) if size is None else size),
            ("DATA_LO", DATA),
            ("DATA_SIZE", DATA_SIZE),
            ("ENTRY", entry),
            ("WATCHDOG", watchdog),
        ):
            await self.write(ctx, name, value)
        await self.write(ctx, "CONTROL", Control.START)

    async def wait(self, ctx):
        """Waits for the end; returns STATUS, ERROR_CODE and ERROR_ADDR."""
        for _ in range(5000):
            status = await self.read(ctx, "STATUS")
            if not status & (Status.RUNNING | Status.DRAINING):
                break
        else:
            raise AssertionError(f"the core hangs with {Status(status)!r}, seed {self.seed}")
        return Status(status), await self.read(ctx, "ERROR_CODE"), await self.read(ctx, "ERROR_ADDR")

    def data(self, offset, count):
        at = DATA - PROGRAM + offset
        return bytes(self.bytes[at : at + count])
