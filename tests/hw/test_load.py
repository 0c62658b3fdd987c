"""LOAD against a plain loop over bytes."""

import random

import pytest

from systolith.sim.benches.stimulus import aligned_load, random_load
from systolith.sim.benches.tops import LoadTop
from systolith.spec.isa import Region, Space, isa_for
from systolith.spec.regs import ErrorCode
from tests.hw.axi_memory import AxiMemory
from tests.hw.kit import Held
from tests.hw.transfer_bench import (
    ARCHS,
    DATA,
    PROGRAM,
    SIZE,
    TINY,
    execute,
    first_difference,
    rows_about_a_page,
    srams,
)

EACH = pytest.mark.parametrize("arch", ARCHS, ids=lambda arch: arch.name)


class Loaded:
    """A run of instructions on LOAD: `run` (see `transfer_bench`), the SRAMs, the contents of both regions,
    the memory.

    At each `done`, all that the instructions up to it write must be in the SRAMs.
    """

    def __init__(self, arch, instrs, *, stall=0.0, latency=1, seed=0, bad=None, stop_at=None):
        rng = random.Random(f"load {seed}")
        self.arch, self.instrs, self.dut = arch, instrs, LoadTop(arch)
        self.contents = bytearray(rng.randbytes(SIZE + DATA - PROGRAM))
        self.memory = AxiMemory(
            self.dut.axi, self.contents, base=PROGRAM, latency=latency, stall=stall, seed=seed, bad=bad
        )
        self.srams, self._expected = srams(arch), srams(arch)
        self._random, self._stall = rng, stall
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
        """A process: the SRAMs behind the write ports."""
        dut, arch = self.dut, self.arch
        ports = {
            Space.ACT: dut.act,
            Space.WEIGHT: dut.weights,
            Space.PARAM: dut.params,
            Space.TABLE: dut.tables,
        }
        signals = [dut.act.valid, dut.act.addr, dut.act.mask, dut.act.data.as_value()]
        for space in (Space.WEIGHT, Space.PARAM, Space.TABLE):
            signals += [ports[space].valid, ports[space].beat, ports[space].data]
        held = {space: Held(space.name) for space in ports}
        while True:
            grants = {space: self._random.random() >= self._stall for space in ports}
            for space, port in ports.items():
                ctx.set(port.ready, grants[space])
            _, _, valid, addr, mask, data, *beats = await ctx.tick().sample(*signals)
            held[Space.ACT].check(valid, grants[Space.ACT], (addr, mask, data))
            if valid and grants[Space.ACT]:
                for lane in range(arch.act_width):
                    if mask >> lane & 1:
                        self.srams[Space.ACT][(addr + lane) % arch.act_bytes] = data >> 8 * lane & 255
            for index, space in enumerate((Space.WEIGHT, Space.PARAM, Space.TABLE)):
                valid, beat, data = beats[3 * index : 3 * index + 3]
                held[space].check(valid, grants[space], (beat, data))
                if valid and grants[space]:
                    at = beat * arch.bus_bytes
                    self.srams[space][at : at + arch.bus_bytes] = data.to_bytes(arch.bus_bytes, "little")

    def _done(self, index):
        apply(self._expected, self.instrs[index], self.contents)
        for space, found in self.srams.items():
            where = first_difference(found, self._expected[space])
            assert not where, f"instruction {index} is done, and in {space.name} {where}"


def apply(memories, instr, contents):
    """What an instruction does to the SRAMs."""
    start = 0 if instr.region == Region.PROGRAM else DATA - PROGRAM
    for p in range(instr.planes):
        for r in range(instr.rows):
            source = start + (instr.offset + p * instr.ext_plane + r * instr.ext_row) % 2**32
            target = instr.base + p * instr.plane + r * instr.row
            memories[instr.space][target : target + instr.bytes] = contents[source : source + instr.bytes]


def expected(arch, instrs, contents):
    """The SRAMs after instructions."""
    memories = srams(arch)
    for instr in instrs:
        apply(memories, instr, contents)
    return memories


def whole(loaded):
    """All instructions are done, each of which was compared at its end, without an error."""
    assert loaded.run.error is None and loaded.run.done == len(loaded.instrs)
    return loaded


@EACH
@pytest.mark.parametrize("seed", range(4))
def test_transfers_of_every_shape_and_alignment_arrive(arch, seed):
    rng = random.Random(100 + seed)
    instrs = [(aligned_load if i % 3 == 2 else random_load)(arch, rng) for i in range(9)]
    whole(Loaded(arch, instrs, stall=(0.0, 0.4)[seed % 2], latency=(1, 9)[seed // 2], seed=seed))


@EACH
def test_each_space_takes_rows_from_both_regions_with_stalls(arch):
    b = arch.bus_bytes
    sizes = {space: len(memory) for space, memory in srams(arch).items()}
    instrs = [
        isa_for(arch).make(
            "LOAD",
            space=space,
            region=region,
            offset=7 * b,
            planes=2,
            rows=2,
            bytes=b,
            ext_row=3 * b,
            ext_plane=5 * b,
            row=b,
            plane=2 * b,
            # The last beat is the SRAM's last.
            base=sizes[space] - 4 * b,
        )
        for space in Space
        for region in Region
    ]
    whole(Loaded(arch, instrs, stall=0.6, latency=4, seed=21))


@EACH
def test_long_rows_split_at_pages_and_reach_every_memory(arch):
    isa, b = isa_for(arch), arch.bus_bytes
    instrs = [
        isa.make("LOAD", space=Space.ACT, region=Region.DATA, offset=3 * b + 1, bytes=6001, base=77),
        isa.make("LOAD", space=Space.WEIGHT, region=Region.PROGRAM, offset=b, bytes=40 * b, base=2 * b),
        isa.make(
            "LOAD",
            space=Space.PARAM,
            region=Region.DATA,
            offset=0,
            rows=2,
            ext_row=5 * b,
            bytes=b,
            row=2 * b,
            base=b,
        ),
        isa.make("LOAD", space=Space.TABLE, region=Region.DATA, offset=64, bytes=256, base=256),
    ]
    whole(Loaded(arch, instrs, stall=0.2, seed=5))


@EACH
def test_rows_about_the_end_of_a_page(arch):
    instrs = rows_about_a_page(arch, "LOAD", random.Random(6))
    loaded = whole(Loaded(arch, instrs, stall=0.1, seed=6))
    assert loaded.memory.bursts > len(instrs)


@EACH
def test_a_row_that_ends_at_the_end_of_sram_and_region_is_moved(arch):
    instrs = [
        isa_for(arch).make(
            "LOAD",
            space=Space.ACT,
            region=region,
            offset=size - 33,
            bytes=33,
            base=arch.act_bytes - 33,
        )
        for region, size in ((Region.DATA, SIZE), (Region.PROGRAM, DATA - PROGRAM))
    ]
    whole(Loaded(arch, instrs))


@pytest.mark.parametrize(
    ("operands", "code"),
    [
        ({"space": Space.ACT, "offset": SIZE - 32, "bytes": 33}, ErrorCode.REGION),
        ({"space": Space.ACT, "offset": 2**32 - 1, "bytes": 1}, ErrorCode.REGION),
        (
            {"space": Space.ACT, "region": Region.PROGRAM, "offset": DATA - PROGRAM, "bytes": 1},
            ErrorCode.REGION,
        ),
        ({"space": Space.ACT, "bytes": 33, "base": TINY.act_bytes - 32}, ErrorCode.OPERAND_RANGE),
        ({"space": Space.WEIGHT, "bytes": 32, "base": TINY.weight_bytes - 16}, ErrorCode.OPERAND_RANGE),
        ({"space": Space.PARAM, "bytes": 32, "base": TINY.param_bytes - 16}, ErrorCode.OPERAND_RANGE),
        ({"space": Space.TABLE, "bytes": 32, "base": TINY.table_bytes - 16}, ErrorCode.OPERAND_RANGE),
        ({"space": Space.WEIGHT, "bytes": 32, "base": 8}, ErrorCode.OPERAND_RANGE),
        ({"space": Space.PARAM, "bytes": 24}, ErrorCode.OPERAND_RANGE),
        ({"space": Space.TABLE, "bytes": 32, "offset": 4}, ErrorCode.OPERAND_RANGE),
    ],
)
def test_a_row_at_fault_is_an_error_after_all_older_work(operands, code):
    isa = isa_for(TINY)
    good = isa.make("LOAD", space=Space.ACT, region=Region.DATA, offset=3, bytes=100)
    wrong = isa.make("LOAD", **{"region": Region.DATA, **operands})
    late = isa.make("LOAD", space=Space.ACT, region=Region.DATA, bytes=50, base=400)
    loaded = Loaded(TINY, [good, wrong, late], latency=20)
    assert (loaded.run.error, loaded.run.done) == (code, 1)
    assert loaded.srams == expected(TINY, [good], loaded.contents)


def test_a_later_row_past_the_end_stops_there():
    def rows(count):
        return isa_for(TINY).make(
            "LOAD", space=Space.ACT, region=Region.DATA, rows=count, ext_row=SIZE // 2, bytes=16, row=16
        )

    loaded = Loaded(TINY, [rows(3)])
    assert (loaded.run.error, loaded.run.done) == (ErrorCode.REGION, 0)
    assert loaded.srams == expected(TINY, [rows(2)], loaded.contents)


@pytest.mark.parametrize("space", Space)
@pytest.mark.parametrize("beat", [0, 5, 31])
def test_a_bus_error_is_reported_and_the_bus_drains(beat, space):
    """What came before it is written, and nothing after it; the bench ends when nothing is under way."""
    count = min(512, len(srams(TINY)[space]) // 3 // 32 * 32)
    beat = min(beat, count // 16 - 1)
    instrs = [
        isa_for(TINY).make("LOAD", space=space, region=Region.DATA, offset=o, bytes=count, base=o)
        for o in (0, count, 2 * count)
    ]
    at = DATA + count + 16 * beat
    loaded = Loaded(TINY, instrs, bad=range(at, at + 16), latency=12, stall=0.2, seed=beat)
    assert (loaded.run.error, loaded.run.done) == (ErrorCode.BUS_READ, 1)
    before = [instrs[0]]
    if beat:
        before.append(isa_for(TINY).make("LOAD", **{**instrs[1].operands, "bytes": 16 * beat}))
    assert loaded.srams == expected(TINY, before, loaded.contents)


@pytest.mark.parametrize("stop_at", [4, 12, 25, 40])
def test_stop_drains_what_is_under_way(stop_at):
    instrs = [isa_for(TINY).make("LOAD", space=Space.ACT, region=Region.DATA, bytes=4096)]
    loaded = Loaded(TINY, instrs, latency=20, stop_at=stop_at)
    # All bursts are on their way within 40 cycles.
    assert loaded.run.done == 0 and loaded.run.error is None
    assert stop_at != 12 or 0 < loaded.memory.bursts < 16


@pytest.mark.parametrize(
    ("operands", "most"),
    [
        ({"bytes": 4096}, 256 + 45),
        ({"rows": 200, "bytes": 16, "ext_row": 16, "row": 16}, 200 + 45),
    ],
    ids=["long row", "small rows"],
)
def test_latency_of_memory_is_hidden(operands, most):
    instrs = [isa_for(TINY).make("LOAD", space=Space.ACT, region=Region.DATA, **operands)]
    assert whole(Loaded(TINY, instrs, latency=32)).run.cycles <= most
