"""LOAD and STORE of a compact core against the reference machine, with stalls on the bus and on chip."""

import random

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from systolith.hw.compact.transfer import CompactTransfer
from systolith.hw.soc.axi import Axi4Signature
from systolith.sim.benches.stimulus import random_load, random_store
from systolith.spec.isa import Region, Space, isa_for
from systolith.spec.regs import ErrorCode
from tests.hw.axi_memory import AxiMemory
from tests.hw.compact.bench import SMALL, each_arch, give, random_machine
from tests.hw.kit import simulate

PROGRAM, DATA, SIZE = 0x1000, 0x3000, 0x2000


class Top(wiring.Component):
    """The unit alone on an AXI4 bus."""

    def __init__(self, arch):
        super().__init__({"axi": Out(Axi4Signature(arch.bus_bits, arch.addr_bits))})
        self.transfer = CompactTransfer(arch)

    def elaborate(self, platform):
        m = Module()
        m.submodules.transfer = self.transfer
        axi, reads, writes = self.axi, self.transfer.reads, self.transfer.writes
        for channel, bursts in (("ar", reads.bursts), ("aw", writes.bursts)):
            m.d.comb += [
                getattr(axi, f"{channel}valid").eq(bursts.valid),
                getattr(axi, f"{channel}addr").eq(bursts.payload.addr),
                getattr(axi, f"{channel}len").eq(bursts.payload.len),
                bursts.ready.eq(getattr(axi, f"{channel}ready")),
            ]
        m.d.comb += [
            reads.beats.valid.eq(axi.rvalid),
            reads.beats.payload.data.eq(axi.rdata),
            reads.beats.payload.error.eq(axi.rresp[1]),
            reads.beats.payload.last.eq(axi.rlast),
            axi.rready.eq(reads.beats.ready),
            axi.wvalid.eq(writes.beats.valid),
            axi.wdata.eq(writes.beats.payload.data),
            axi.wstrb.eq(writes.beats.payload.strobe),
            axi.wlast.eq(writes.beats.payload.last),
            writes.beats.ready.eq(axi.wready),
            axi.bready.eq(1),
            writes.response.eq(axi.bvalid),
            writes.error.eq(axi.bresp[1]),
        ]
        return m


class Run:
    """Instructions on the unit, one after the other.

    After it: `act`, `weight`, `param` (the SRAMs), `memory` (the bus's), `done`, `errors`, `stopped` (writes
    on chip after `stop`).

    Parameters
    ----------
    machine : Machine   its memories are the initial contents
    stop_at : int       cycle in which the core stops the unit
    """

    def __init__(self, machine, instrs, *, seed, stall, latency=1, bad=None, stop_at=None, limit=20_000):
        self.arch, self.instrs, self.rng, self.stall = machine.arch, instrs, random.Random(seed), stall
        self.stop_at, self.limit = stop_at, limit
        self.top = Top(self.arch)
        self.dut = self.top.transfer
        contents = bytearray(DATA + SIZE - PROGRAM)
        for at, region in ((0, Region.PROGRAM), (DATA - PROGRAM, Region.DATA)):
            contents[at : at + SIZE] = machine.regions[region].tobytes()
        self.memory = AxiMemory(
            self.top.axi, contents, base=PROGRAM, latency=latency, stall=stall, seed=seed, bad=bad
        )
        self.act, self.weight, self.param = (
            bytearray(memory.tobytes()) for memory in (machine.act, machine.weight, machine.param)
        )
        self.done, self.errors, self.stopped, self.cycle = 0, [], 0, 0
        simulate(self.top, self._bench, beside=[self.memory.run, self._srams])

    @property
    def data(self):
        """The DATA region."""
        return bytes(self.memory.data[DATA - PROGRAM :])

    async def _srams(self, ctx):
        dut, rng = self.dut, self.rng
        word, stopping = None, False
        while True:
            ctx.set(dut.act_write.ready, rng.random() >= self.stall)
            ctx.set(dut.act_read.ready, rng.random() >= self.stall)
            ctx.set(dut.vector, rng.getrandbits(32) if word is None else word)
            _, _, *values = await ctx.tick().sample(
                dut.act_write.valid,
                dut.act_write.ready,
                dut.act_write.word,
                dut.act_write.data,
                dut.act_write.mask,
                dut.written.valid,
                dut.written.addr,
                dut.written.data,
                dut.act_read.valid,
                dut.act_read.ready,
                dut.act_read.addr,
                *(
                    signal
                    for port in (dut.weights, dut.params)
                    for signal in (port.valid, port.beat, port.data)
                ),
                dut.unit.done,
                dut.unit.error,
                dut.unit.error_code,
                dut.stop,
            )
            valid, ready, at, data, mask, shown, shown_at, shown_data = values[:8]
            read, read_ready, address = values[8:11]
            done, error, code, stop = values[17:]
            assert shown == (valid and ready), "`written` shows each byte that is written"
            if valid and ready:
                assert mask == 1 << shown_at % 4 and at == shown_at // 4
                assert data >> 8 * (shown_at % 4) & 255 == shown_data
                self.act[shown_at] = shown_data
            word = None
            if read and read_ready:
                word = int.from_bytes(
                    bytes(self.act[(address + i) % len(self.act)] for i in range(4)), "little"
                )
            beats = 0
            for target, (enabled, beat, value) in ((self.weight, values[11:14]), (self.param, values[14:17])):
                if enabled:
                    target[4 * beat : 4 * beat + 4] = value.to_bytes(4, "little")
                    beats += 1
            # What was accepted before the stop may end.
            self.stopped += stopping * ((valid and ready) + beats)
            stopping |= stop
            self.done += done
            if error:
                self.errors.append(ErrorCode(code))
            self.cycle += 1

    async def _bench(self, ctx):
        dut = self.dut
        for region, base in ((dut.regions.program, PROGRAM), (dut.regions.data, DATA)):
            ctx.set(region.base, base)
            ctx.set(region.size, SIZE)
        for number, instr in enumerate(self.instrs):
            # What is being executed stands until its end.
            ctx.set(dut.store, instr.mnemonic == "STORE")
            await give(ctx, dut.unit, self.arch, instr, self.rng, self.stall)
            while self.done == number and not self.errors:
                if self.stop_at is not None and self.cycle >= self.stop_at:
                    await self._stop(ctx)
                    return
                await ctx.tick()
                assert self.cycle < self.limit, f"hangs: {self.done} of {len(self.instrs)} done"
            if self.errors:
                break
        # After an error, the beats that are still under way come and go.
        for _ in range(60):
            await ctx.tick()
        assert ctx.get(dut.idle)

    async def _stop(self, ctx):
        """No burst begins any more, those under way end."""
        dut = self.dut
        ctx.set(dut.stop, 1)
        waited = 0
        while not ctx.get(dut.idle):
            await ctx.tick()
            waited += 1
            assert waited < 2000, "the bus does not come to rest"
        bursts = self.memory.bursts
        for _ in range(50):
            await ctx.tick()
            assert ctx.get(dut.idle)
        assert self.memory.bursts == bursts, "a burst began after the stop"


def compare(run, machine, message):
    """All memories are as the machine's."""
    for name in ("act", "weight", "param"):
        assert getattr(run, name) == getattr(machine, name).tobytes(), f"{message}: {name} differs"
    assert run.data == machine.regions[Region.DATA].tobytes(), f"{message}: DATA differs"


def beat_load(arch, rng):
    """LOAD of up to two planes of up to three rows of whole beats to the weights or the parameters."""
    space = rng.choice((Space.WEIGHT, Space.PARAM))
    size = {Space.WEIGHT: arch.weight_bytes, Space.PARAM: arch.param_bytes}[space] // 4
    planes, rows = rng.randint(1, 2), rng.randint(1, 3)
    length = rng.randint(1, min(40, size // (planes * rows)))
    operands = {
        "offset": rng.randrange(60),
        "bytes": length,
        "ext_row": rng.randrange(9),
        "ext_plane": rng.randrange(20),
        "base": rng.randint(0, size - planes * rows * length),
        "row": length,
        "plane": rows * length,
    }
    return isa_for(arch).make(
        "LOAD",
        space=space,
        region=rng.choice(list(Region)),
        planes=planes,
        rows=rows,
        **{name: 4 * value for name, value in operands.items()},
    )


def random_transfer(arch, rng):
    """LOAD to any SRAM, or STORE; the rows lie inside their regions and SRAMs."""
    draw = rng.choice((random_load, random_store, beat_load))
    instr = draw(arch, rng)
    if draw is beat_load:
        return instr
    # The smaller core has fewer bytes on chip than the stimulus takes for granted.
    room = (arch.act_bytes - instr.bytes) // 3
    inside = {"base": instr.base % room, "row": instr.row % room // instr.rows}
    inside["plane"] = instr.plane % room // instr.planes
    return isa_for(arch).make(instr.mnemonic, **{**instr.operands, **inside})


@each_arch
@pytest.mark.parametrize("seed", range(4))
def test_random_transfers_equal_the_machine(arch, seed):
    rng = random.Random(f"{arch.name} {seed}")
    machine = random_machine(arch, rng, SIZE)
    instrs = [random_transfer(arch, rng) for _ in range(3)]
    run = Run(machine, instrs, seed=seed, stall=(0.0, 0.4)[seed % 2], latency=(1, 9)[seed // 2])
    for instr in instrs:
        machine.execute(instr)
    message = f"seed {seed} of {arch.name}"
    assert not run.errors and run.done == len(instrs), message
    compare(run, machine, message)


@each_arch
def test_addresses_wrap_and_rows_end_with_their_memories(arch):
    """The last byte of SRAM and of region may be moved; steps are modulo the width of an address."""
    isa, rng = isa_for(arch), random.Random(40)
    external = 1 << min(32, arch.addr_bits)
    sram = 1 << next(f.bits for f in isa.by_mnemonic["LOAD"].fields if f.name == "base")
    instrs = [
        isa.make("LOAD", region=1, offset=SIZE - 37, bytes=37, base=arch.act_bytes - 37),
        isa.make(
            "LOAD",
            region=1,
            offset=600,
            bytes=21,
            planes=3,
            rows=2,
            ext_row=external - 51,
            ext_plane=77,
            base=arch.act_bytes - 21,
            row=sram - 100,
            plane=sram - 43,
        ),
        isa.make("STORE", region=1, offset=SIZE - 300, bytes=300, base=arch.act_bytes - 300),
        isa.make("STORE", region=1, offset=SIZE - 1, rows=2, ext_row=external - 5, base=3, row=sram - 2),
        isa.make("LOAD", region=0, space=Space.WEIGHT, offset=64, bytes=64, base=arch.weight_bytes - 64),
        isa.make("LOAD", region=0, space=Space.PARAM, offset=SIZE - 8, bytes=8, base=arch.param_bytes - 8),
    ]
    machine = random_machine(arch, rng, SIZE)
    run = Run(machine, instrs, seed=40, stall=0.2)
    for instr in instrs:
        machine.execute(instr)
    assert not run.errors and run.done == len(instrs)
    compare(run, machine, arch.name)


#: Operands of a transfer that the first or a later row makes wrong, on `SMALL`.
WRONG = {
    "past the SRAM": ({"base": SMALL.act_bytes - 5, "bytes": 6}, ErrorCode.OPERAND_RANGE),
    "second row past the SRAM": (
        {"base": SMALL.act_bytes - 12, "bytes": 6, "rows": 2, "row": 7},
        ErrorCode.OPERAND_RANGE,
    ),
    "past the region": ({"offset": SIZE - 5, "bytes": 6}, ErrorCode.REGION),
    "second plane past the region": (
        {"offset": SIZE - 12, "bytes": 6, "planes": 2, "ext_plane": 7},
        ErrorCode.REGION,
    ),
}
WRONG_LOADS = {
    "past the weights": ({"space": 1, "base": SMALL.weight_bytes - 4, "bytes": 8}, ErrorCode.OPERAND_RANGE),
    "past the parameters": ({"space": 2, "base": SMALL.param_bytes - 4, "bytes": 8}, ErrorCode.OPERAND_RANGE),
    "to a table": ({"space": 3, "bytes": 4}, ErrorCode.OPERAND_RANGE),
    **{
        f"{name} not in whole beats": (
            {"space": 1, "offset": 8, "base": 8, "bytes": 8, name: 8 + extra},
            ErrorCode.OPERAND_RANGE,
        )
        for name in ("offset", "base", "bytes")
        for extra in (1, 2)
    },
}


@pytest.mark.parametrize(
    ("mnemonic", "operands", "code"),
    [
        *(pytest.param("LOAD", *case, id=f"LOAD {name}") for name, case in (WRONG | WRONG_LOADS).items()),
        *(pytest.param("STORE", *case, id=f"STORE {name}") for name, case in WRONG.items()),
        pytest.param("STORE", {"region": Region.PROGRAM}, ErrorCode.REGION, id="STORE to PROGRAM"),
    ],
)
def test_a_wrong_row_is_an_error_before_it_begins(mnemonic, operands, code):
    """Rows before it are moved; of the one at fault nothing is."""
    machine = random_machine(SMALL, random.Random(41), SIZE)
    instr = isa_for(SMALL).make(mnemonic, **{"region": Region.DATA, **operands})
    run = Run(machine, [instr], seed=41, stall=0.2)
    assert run.errors == [code] and run.done == 0
    one = {**instr.operands, "planes": 1, "rows": 1}
    if instr.planes * instr.rows > 1:
        machine.execute(isa_for(SMALL).make(mnemonic, **one))
    compare(run, machine, mnemonic)


@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_bus_errors_stop_the_unit(stall):
    isa, bad = isa_for(SMALL), range(DATA + 100, DATA + 104)
    for mnemonic, code in (("LOAD", ErrorCode.BUS_READ), ("STORE", ErrorCode.BUS_WRITE)):
        machine = random_machine(SMALL, random.Random(42), SIZE)
        instr = isa.make(mnemonic, region=1, offset=3, bytes=400, base=500)
        run = Run(machine, [instr], seed=42, stall=stall, latency=4, bad=bad)
        assert run.errors == [code] and run.done == 0, mnemonic
        # Nothing behind the burst of the error is asked for.
        assert run.memory.bursts == 2
        if mnemonic == "LOAD":
            before, after = machine.act.tobytes(), bytes(run.act)
            assert after[500:597] == machine.regions[Region.DATA][3:100].tobytes()
            assert after[:500] == before[:500] and after[597:] == before[597:]


@pytest.mark.parametrize("mnemonic", ["LOAD", "STORE"])
def test_a_stop_at_any_cycle_leaves_the_bus_at_rest(mnemonic):
    machine = random_machine(SMALL, random.Random(43), SIZE)
    instr = isa_for(SMALL).make(mnemonic, region=1, offset=1, bytes=150, rows=2, ext_row=200, row=200)
    for stop_at in (8, 11, 12, 13, 18, 23, 60, 113):
        run = Run(machine, [instr], seed=stop_at, stall=0.3, latency=5, stop_at=stop_at)
        assert not run.errors and run.done == 0, f"stop at {stop_at}"
        # A STORE's burst under way is written to its end.
        assert run.stopped == 0, f"stop at {stop_at}: {run.stopped} writes on chip came after it"
