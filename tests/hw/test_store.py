"""STORE against a plain loop over bytes."""

import random

import pytest

from systolith.sim.benches.stimulus import random_store
from systolith.sim.benches.tops import StoreTop
from systolith.spec.isa import Region, isa_for
from systolith.spec.regs import ErrorCode
from tests.hw.axi_memory import AxiMemory
from tests.hw.engine_bench import SramReads
from tests.hw.kit import Held
from tests.hw.transfer_bench import ARCHS, DATA, SIZE, TINY, execute, first_difference, rows_about_a_page

EACH = pytest.mark.parametrize("arch", ARCHS, ids=lambda arch: arch.name)


class Stored:
    """A run of instructions on STORE: `run` (see `transfer_bench`), the SRAM, DATA before and after, the
    memory.

    At each `done`, all that its instruction writes must be in DATA.
    """

    def __init__(self, arch, instrs, *, stall=0.0, latency=1, seed=0, bad=None, stop_at=None):
        rng = random.Random(f"store {seed}")
        self.arch, self.instrs, self.dut = arch, instrs, StoreTop(arch)
        self.after = bytearray(rng.randbytes(SIZE))
        self.before = bytes(self.after)
        self.sram = rng.randbytes(arch.act_bytes)
        # Every write outside DATA is refused.
        self.memory = AxiMemory(
            self.dut.axi, self.after, base=DATA, latency=latency, stall=stall, seed=seed, bad=bad
        )
        self._random, self._stall = rng, stall
        #: DATA after each instruction.
        self._expected = [expected(self, instrs[: index + 1]) for index in range(len(instrs))]
        self.run = execute(
            arch,
            self.dut,
            instrs,
            processes=[self.memory.run, self._serve],
            stall=stall,
            seed=seed,
            stop_at=stop_at,
            on_done=self._done,
        )

    async def _serve(self, ctx):
        """A process: the SRAM behind the read port."""
        read = self.dut.read
        reads = SramReads(self.arch, self.sram, self._random)
        held = Held("a read")
        while True:
            grant = self._random.random() >= self._stall
            ctx.set(read.ready, grant)
            ctx.set(read.data.as_value(), reads.word())
            _, _, valid, addr = await ctx.tick().sample(read.valid, read.addr)
            held.check(valid, grant, addr)
            reads.grant(addr if valid and grant else None)

    def _done(self, index):
        after = self._expected[index]
        later = [row for instr in self.instrs[index + 1 :] for row in rows(self, instr)]
        for start, row in rows(self, self.instrs[index]):
            for at in range(start, start + len(row)):
                # A later instruction may have begun, so that a byte may be its already.
                allowed = {after[at], *(data[at - to] for to, data in later if to <= at < to + len(data))}
                assert self.after[at] in allowed, (
                    f"instruction {index} is done, and byte {at} is {self.after[at]}"
                )


def rows(stored, instr):
    """Offset and bytes of each row of an instruction."""
    for p in range(instr.planes):
        for r in range(instr.rows):
            source = instr.base + p * instr.plane + r * instr.row
            target = (instr.offset + p * instr.ext_plane + r * instr.ext_row) % 2**32
            yield target, stored.sram[source : source + instr.bytes]


def expected(stored, instrs):
    """DATA after instructions."""
    memory = bytearray(stored.before)
    for instr in instrs:
        for start, row in rows(stored, instr):
            memory[start : start + len(row)] = row
    return memory


def whole(stored):
    """All instructions are done without an error, and nothing else of DATA was touched."""
    assert stored.run.error is None and stored.run.done == len(stored.instrs)
    assert not (where := first_difference(stored.after, expected(stored, stored.instrs))), where
    return stored


@EACH
@pytest.mark.parametrize("seed", range(4))
def test_transfers_of_every_shape_and_alignment_arrive(arch, seed):
    rng = random.Random(200 + seed)
    instrs = [random_store(arch, rng) for _ in range(6)]
    whole(Stored(arch, instrs, stall=(0.0, 0.4)[seed % 2], latency=(1, 9)[seed // 2], seed=seed))


@EACH
def test_later_rows_overwrite_earlier_ones(arch):
    make = isa_for(arch).make
    instrs = [
        make(
            "STORE", region=Region.DATA, offset=100 + step, rows=4, bytes=40, ext_row=7, row=50, base=9 * step
        )
        for step in range(5)
    ]
    whole(Stored(arch, instrs, stall=0.3, seed=11))


@EACH
def test_a_long_row_splits_at_pages_and_ends_with_the_region(arch):
    instrs = [
        isa_for(arch).make(
            "STORE", region=Region.DATA, offset=SIZE - 6001, bytes=6001, base=arch.act_bytes - 6001
        )
    ]
    whole(Stored(arch, instrs, stall=0.2, seed=7))


@EACH
def test_rows_about_the_end_of_a_page(arch):
    instrs = rows_about_a_page(arch, "STORE", random.Random(8))
    stored = whole(Stored(arch, instrs, stall=0.1, seed=8))
    assert stored.memory.bursts > len(instrs)


@pytest.mark.parametrize(
    ("operands", "code"),
    [
        ({"region": Region.PROGRAM, "bytes": 16}, ErrorCode.REGION),
        ({"region": Region.PROGRAM, "offset": SIZE, "bytes": 16}, ErrorCode.REGION),
        ({"region": Region.DATA, "offset": SIZE - 32, "bytes": 33}, ErrorCode.REGION),
        ({"region": Region.DATA, "offset": SIZE, "bytes": 1}, ErrorCode.REGION),
        ({"region": Region.DATA, "offset": 2**32 - 1, "bytes": 1}, ErrorCode.REGION),
        ({"region": Region.DATA, "bytes": 33, "base": TINY.act_bytes - 32}, ErrorCode.OPERAND_RANGE),
    ],
)
def test_a_row_at_fault_is_an_error_after_all_older_work(operands, code):
    isa = isa_for(TINY)
    good = isa.make("STORE", region=Region.DATA, offset=3, bytes=100)
    late = isa.make("STORE", region=Region.DATA, offset=300, bytes=50)
    stored = Stored(TINY, [good, isa.make("STORE", **operands), late], latency=20)
    assert (stored.run.error, stored.run.done) == (code, 1)
    assert stored.after == expected(stored, [good])


def test_a_later_row_past_the_end_stops_there():
    def part(count):
        return isa_for(TINY).make(
            "STORE", region=Region.DATA, rows=count, ext_row=SIZE // 2, bytes=16, row=16
        )

    stored = Stored(TINY, [part(3)])
    assert (stored.run.error, stored.run.done) == (ErrorCode.REGION, 0)
    assert stored.after == expected(stored, [part(2)])


@pytest.mark.parametrize("beat", [0, 15, 16, 31])
def test_a_bus_error_is_reported_for_its_instruction(beat):
    instrs = [
        isa_for(TINY).make("STORE", region=Region.DATA, offset=o, bytes=512, base=o) for o in (0, 512, 1024)
    ]
    at = DATA + 512 + 16 * beat
    stored = Stored(TINY, instrs, bad=range(at, at + 16), latency=12, stall=0.2, seed=beat)
    assert (stored.run.error, stored.run.done) == (ErrorCode.BUS_WRITE, 1)
    assert stored.after[:512] == expected(stored, instrs)[:512]


@pytest.mark.parametrize("stop_at", [4, 9, 25, 60])
def test_stop_finishes_the_bursts_under_way(stop_at):
    instrs = [isa_for(TINY).make("STORE", region=Region.DATA, bytes=4096)]
    stored = Stored(TINY, instrs, latency=20, stop_at=stop_at)
    bursts = stored.memory.bursts
    assert stored.run.done == (bursts == 16) and (bursts > 0 or stop_at < 9)
    assert bursts < 16 or stop_at > 25
    assert len(stored.memory.written) == bursts * 256
    assert stored.after[: bursts * 256] == stored.sram[: bursts * 256]
    assert stored.after[bursts * 256 :] == stored.before[bursts * 256 :]


def test_done_comes_after_the_last_response():
    instrs = [isa_for(TINY).make("STORE", region=Region.DATA, bytes=16)]
    assert Stored(TINY, instrs, latency=50).run.cycles > 50


def test_one_beat_per_cycle_with_a_slow_memory():
    instrs = [isa_for(TINY).make("STORE", region=Region.DATA, bytes=4096)]
    assert whole(Stored(TINY, instrs, latency=32)).run.cycles <= 256 + 50
