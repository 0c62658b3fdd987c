"""Latencies of `spec.timing`, counted in the core while it runs small programs, and in the leaves.

Engines alone, stalls and streaming rates have tests of their own (test_matrix, test_output, test_vector,
test_cell, test_sdram).
"""

import dataclasses
import random
from functools import lru_cache

import pytest
from amaranth.hdl import Module, Signal, signed

from systolith.hw.engine.transfer import RowWalker
from systolith.hw.leaf.beat_memory import ParamMemory, WeightMemory
from systolith.hw.leaf.delay import delayed
from systolith.hw.leaf.multiplier import registered_product
from systolith.hw.leaf.rounding import divide_round
from systolith.hw.leaf.table import Table
from systolith.spec import timing
from systolith.spec.arch import PRESETS
from systolith.spec.enums import Cell, Engine
from systolith.spec.isa import isa_for
from tests.hw.engine_bench import EQUAL, MIXED, TINY, WIDE
from tests.hw.event_log import event_logs
from tests.hw.kit import accepted, simulate

#: A wide bus, and a narrow one that needs twelve beats for an instruction; on one as narrow, a compact core.
CORES = {"tiny": TINY, "mixed": MIXED}
COMPACT = dataclasses.replace(PRESETS["icebreaker"], addr_bits=23)
each_core = pytest.mark.parametrize("core", CORES)

PRODUCT = "MATMUL height=1 row_bytes=64 final=1"
VECTOR = ["ADD a=9 b=64", "MUL a=9 b=64 table=1", "POOL height=1 row_bytes=9", "POOL table=1"]
CELL = "CELL kind=RNN state=300 state_high=400 dst=500 wide={wide} dst_low=600"
PROGRAMS = {
    "load": ["LOAD region=DATA bytes=1"],
    "store": ["STORE region=DATA bytes=1"],
    "product": [PRODUCT],
    "output": [PRODUCT, "OUTPUT dst=40"],
    "table": [PRODUCT, "OUTPUT dst=40 table=1"],
    "tokens": [f"{PRODUCT} signal=OUTPUT", "OUTPUT wait=MATRIX signal=VECTOR", "ADD wait=OUTPUT"],
    "chain": [PRODUCT, "OUTPUT dest=VECTOR", "ADD a_source=OUTPUT b=64"],
    "two": ["ADD", "ADD"],
    **{line: [line] for line in VECTOR},
    **{f"cell {wide}": [PRODUCT, "OUTPUT dest=CELL", CELL.format(wide=wide)] * 2 for wide in (0, 1)},
    "fetch": ["NOP"] * 9,
}


@lru_cache
def logs(core):
    """The events of every program."""
    return event_logs(CORES[core], PROGRAMS)


def latency(log, first, then):
    """Cycles from the first event of a name to the first of another."""
    return log[then][0] - log[first][0]


@each_core
@pytest.mark.parametrize(
    ("program", "engine", "request_"),
    [
        ("load", Engine.LOAD, "load burst"),
        ("store", Engine.STORE, "store burst"),
        ("product", Engine.MATRIX, "matrix vector"),
        ("two", Engine.VECTOR, "vector read"),
    ],
)
def test_from_the_instruction_to_the_engine_and_to_its_first_request(core, program, engine, request_):
    log, name = logs(core)[program], engine.name.lower()
    assert latency(log, "fetched", f"{name} queued") == timing.DISPATCH
    assert latency(log, f"{name} queued", f"{name} issued") == timing.QUEUE
    assert latency(log, f"{name} issued", request_) == timing.START[engine]


@each_core
def test_from_done_to_what_waits_for_it(core):
    log = logs(core)["tokens"]
    assert latency(log, "matrix done", "output issued") == timing.TOKEN
    # Its entry has been released, so it is read at once.
    assert latency(log, "output issued", "output entry") == timing.START[Engine.OUTPUT]
    assert latency(log, "output done", "vector issued") == timing.TOKEN
    log = logs(core)["two"]
    assert log["vector issued"][1] - log["vector done"][0] == timing.REDISPATCH


@each_core
@pytest.mark.parametrize(("program", "table"), [("output", 0), ("table", timing.TABLE - 1)])
def test_array_and_output_stage(core, program, table):
    log = logs(core)[program]
    assert latency(log, "matrix vector", "matrix sums") == timing.matrix_write(CORES[core])
    assert log["matrix done"] == log["matrix sums"]
    assert latency(log, "output entry", "output write") == timing.OUTPUT_WRITE + table
    assert log["output done"] == log["output write"]


@each_core
def test_output_stage_to_vector_unit(core):
    log = logs(core)["chain"]
    assert latency(log, "output entry", "output chunk") == timing.OUTPUT_CHAIN
    assert latency(log, "output chunk", "vector read") == timing.CHAIN_READ
    assert latency(log, "vector read", "vector write") == timing.VECTOR_WRITE
    assert log["vector done"] == log["vector write"]


@each_core
@pytest.mark.parametrize("line", VECTOR)
def test_vector_unit(core, line):
    log = logs(core)[line]
    assert log["vector write"][0] - log["vector read"][-1] == timing.VECTOR_WRITE


@each_core
@pytest.mark.parametrize("wide", [0, 1])
def test_cell(core, wide):
    log = logs(core)[f"cell {wide}"]
    for number in range(2):
        gate = log["vector chunk"][number]
        low, high = log["vector read"][2 * number : 2 * number + 2]
        assert low - log["vector issued"][number] == timing.CELL_START
        assert high == low + 1
        writes = log["vector write"][(3 + wide) * number : (3 + wide) * (number + 1)]
        assert writes[2] - gate == timing.CELL_HIDDEN[Cell.RNN]
        assert writes[-1] - gate == timing.cell_write(Cell.RNN, bool(wide))


def test_the_gate_of_a_cell_waits_for_its_state():
    log = logs("tiny")["cell 0"]
    gate = log["vector chunk"][1]
    assert gate - log["vector read"][3] == timing.ACT_READ + timing.CELL_STATE
    assert gate - log["vector done"][0] == timing.MODEL_STATE


@each_core
def test_load(core):
    log = logs(core)["load"]
    assert log["load burst"][0] + timing.BUS_ADDRESS in log["AR"]
    assert log["load beat"][0] - timing.BUS_BEAT in log["R"]
    assert latency(log, "load beat", "load write") == timing.LOAD_WRITE
    assert log["load done"] == log["load write"]


@each_core
def test_store(core):
    log = logs(core)["store"]
    assert log["AW"] == log["store burst"]
    assert latency(log, "store burst", "store read") == timing.STORE_READ
    assert latency(log, "store read", "W") == timing.STORE_BEAT
    assert log["store beat"] == log["W"] and log["store done"] == log["B"]


@pytest.mark.parametrize(("engine", "path"), [("load", timing.LOAD_PATH), ("store", timing.STORE_PATH)])
def test_a_transfer_takes_its_path_a_beat_and_the_latency_of_memory(engine, path):
    # On a narrow bus the end of the program is still being read.
    log, latency_of_memory = logs("tiny")[engine], 1
    begin = log[f"{engine} issued"][0] + timing.START[Engine.OUTPUT]
    assert log[f"{engine} done"][0] + timing.AFTER - begin == path + 1 + latency_of_memory


def test_bursts_of_fetch():
    first, second, *_ = logs("mixed")["fetch"]["fetch burst"]
    assert second - first == timing.FETCH_BURST


# -- compact core --------------------------------------------------------------------------------------------
TILES = "MATMUL height=1 row_bytes=64 kt=2 ox=2 ox_x=4"
COMPACT_PROGRAMS = {
    "tiles": [TILES, "MATMUL base=1 row_bytes=9 height=1"],
    "output": [PRODUCT, PRODUCT, "OUTPUT channels=4", "OUTPUT channels=4"],
    "load": ["LOAD region=DATA bytes=4"],
    "store": ["STORE region=DATA bytes=4"],
}


@pytest.fixture(scope="module")
def compact():
    """The events of every program of a compact core."""
    return event_logs(COMPACT, COMPACT_PROGRAMS)


def test_array_of_a_compact_core(compact):
    log = compact["tiles"]
    beats = isa_for(COMPACT).word_bytes // COMPACT.bus_bytes
    assert log["matrix begins"][0] - log["matrix beat"][beats - 1] == timing.COMPACT_BEGIN
    first, second, third, _, odd = log["matrix vector"]
    assert first - log["matrix begins"][0] == timing.COMPACT_MATRIX_START
    assert second == first + 1 and third == second + 1 + timing.COMPACT_TILE
    # The read of an odd address takes two accesses.
    assert odd - log["matrix begins"][1] == timing.COMPACT_MATRIX_START + 1
    assert [cycle + timing.matrix_write(COMPACT) for cycle in log["matrix vector"]] == log["matrix sums"]
    assert log["matrix done"][0] == log["matrix sums"][3]


def test_output_stage_of_a_compact_core(compact):
    log = compact["output"]
    assert latency(log, "output begins", "output entry") == timing.COMPACT_OUTPUT_START
    assert latency(log, "output entry", "output sums") == timing.COMPACT_ACC_READ
    first = log["output entry"][0] + timing.COMPACT_OUTPUT_WRITE
    assert log["output result"][:4] == [first + timing.COMPACT_CHANNEL * channel for channel in range(4)]


def test_the_next_instruction_of_a_unit_of_a_compact_core(compact):
    log = compact["output"]
    # Its first beat is taken in the cycle in which the one before has ended.
    end = log["output done"][0] + timing.AFTER
    assert log["output beat"][isa_for(COMPACT).word_bytes // COMPACT.bus_bytes] == end
    assert log["output entry"][1] - end == timing.compact_issue(COMPACT) - 1


@pytest.mark.parametrize("line", ["load", "store"])
def test_transfers_of_a_compact_core(compact, line):
    assert latency(compact[line], "transfer begins", "transfer burst") == timing.COMPACT_TRANSFER_START


# -- leaves --------------------------------------------------------------------------------------------------
def pulse(make, value):
    """The cycle in which a pipeline shows what it was given in cycle 0 alone."""
    m, source, seen = Module(), Signal(signed(16)), []
    result = make(m, source)
    m.d.sync += Signal().eq(0)

    async def bench(ctx):
        idle = ctx.get(result)
        ctx.set(source, value)
        for _ in range(10):
            seen.append(ctx.get(result) != idle)
            await ctx.tick()
            ctx.set(source, 0)

    simulate(m, bench)
    assert seen.count(True) == 1
    return seen.index(True)


def test_leaf_pipelines():
    assert pulse(lambda m, x: registered_product(m, None, x, 3, "product"), 7) == timing.PRODUCT
    assert pulse(lambda m, x: divide_round(m, x, Signal(6, init=1), 0), 8) == timing.ROUND
    for cycles in (0, 1, 5):
        assert pulse(lambda m, x, n=cycles: delayed(m, x, n, "late"), 8) == cycles


@pytest.mark.parametrize("engine", [Engine.LOAD, Engine.STORE])
def test_walk_to_the_first_burst(engine):
    dut, cycles = RowWalker(TINY, engine), []

    async def bench(ctx):
        for region in (dut.regions.program, dut.regions.data):
            ctx.set(region.size, 64)
        ctx.set(dut.cmd.valid, 1)
        for cycle in range(9):
            _, _, valid = await ctx.tick().sample(dut.pieces.valid)
            ctx.set(dut.cmd.valid, 0)
            cycles.extend([cycle] * valid)

    simulate(dut, bench)
    assert cycles[0] == timing.ROW_WALK


def read_early(ctx, dut):
    """Address the first place, which the next cycle takes; cycles until it shows, and its value."""
    if isinstance(dut, Table):
        ctx.set(dut.i[0], 0)
        return timing.TABLE, dut.o[0].as_unsigned()
    ctx.set(dut.read.en, 1)
    if isinstance(dut, ParamMemory):
        return timing.PARAM_READ, dut.read.data[0].bias[:8]
    return timing.WEIGHT_READ, dut.read.data[0][0].as_unsigned()


@pytest.mark.parametrize("make", [ParamMemory, WeightMemory, Table])
@pytest.mark.parametrize("arch", [TINY, MIXED, EQUAL, WIDE], ids=lambda arch: arch.name)
def test_a_beat_is_read_soon_after_it_is_written(arch, make):
    rng, dut = random.Random(8), make(arch)

    async def bench(ctx):
        for _ in range(4):
            value = rng.randbytes(arch.bus_bytes)
            ctx.set(dut.write.data, int.from_bytes(value, "little"))
            ctx.set(dut.write.valid, 1)
            await accepted(ctx, dut.write)
            ctx.set(dut.write.valid, 0)
            await ctx.tick().repeat(timing.BEAT_WRITE - 1)
            cycles, shown = read_early(ctx, dut)
            await ctx.tick().repeat(cycles)
            assert ctx.get(shown) == value[0]

    simulate(dut, bench)
