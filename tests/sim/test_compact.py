"""The compact core: random graphs and random transfers give the reference's bits, wrong programs stop it, and
it keeps to its cycles."""

import dataclasses
import random

import numpy as np
import pytest

from systolith.compiler.base.errors import CompileError
from systolith.compiler.driver import compile_graph
from systolith.host.driver import Driver
from systolith.reference.machine_device import MachineDevice
from systolith.sim.native import DECERR, RtlDevice
from systolith.sim.netlist import core_netlist
from systolith.spec.arch import PRESETS
from systolith.spec.isa import Engine, IsaError, Region, Space, isa_for
from systolith.spec.regs import WATCHDOG_BIT, ErrorCode, Status
from tests.graphs import CompactGraphs, GraphBuilder, assert_same_bits, random_inputs
from tests.wrong_programs import abort, execute

#: The board's, with room for a whole model, and a small one in which everything wraps, splits and streams.
ARCHS = {
    "icebreaker": dataclasses.replace(PRESETS["icebreaker"], addr_bits=20),
    "small": dataclasses.replace(
        PRESETS["icebreaker"],
        name="small",
        addr_bits=24,
        act_bytes=1 << 12,
        weight_bytes=1 << 9,
        acc_depth=16,
        param_rows=4,
    ),
}
ARCH = ARCHS["icebreaker"]
ISA = isa_for(ARCH)


@pytest.mark.parametrize("stalls", [0.0, 0.3])
@pytest.mark.parametrize("seed", [*range(5), 12, 21])
@pytest.mark.parametrize("name", ARCHS)
def test_random_graphs(name, seed, stalls):
    graph = CompactGraphs(seed).build()
    image = compile_graph(graph, ARCHS[name])
    with RtlDevice(ARCHS[name], stall_seed=seed, stall_probability=stalls, latency=4 * (seed % 3)) as device:
        assert_same_bits(Driver(device, image, max_cycles=5_000_000), graph, seed)


def random_transfers(rng: random.Random) -> list[bytes]:
    """Rows of any alignment go into the activation SRAM and out of it."""
    program = []
    for _ in range(rng.randint(2, 5)):
        common = {
            "region": 1,
            "bytes": rng.choice((1, 2, 3, 4, 5, rng.randint(1, 150))),
            "rows": rng.randint(1, 4),
            "planes": rng.randint(1, 3),
            "ext_row": rng.randrange(300),
            "ext_plane": rng.randrange(500),
            "row": rng.randrange(300),
            "plane": rng.randrange(500),
        }
        program.append(
            ISA.encode(
                ISA.make(
                    "LOAD", **common, space=0, offset=rng.randrange(1000), base=rng.randrange(5000), signal=2
                )
            )
        )
        program.append(
            ISA.encode(
                ISA.make(
                    "STORE",
                    **common,
                    wait=1,
                    signal=1,
                    offset=4000 + rng.randrange(9000),
                    base=rng.randrange(5000),
                )
            )
        )
        program.append(ISA.encode(ISA.make("LOAD", wait=2, region=1, bytes=1)))
    return [*program, ISA.encode(ISA.make("HALT"))]


@pytest.mark.parametrize("stalls", [0.0, 0.4])
def test_random_transfers(stalls):
    memories = []
    for seed in range(6):
        rng = random.Random(seed)
        words, data = random_transfers(rng), rng.randbytes(1 << 14)
        with RtlDevice(ARCH, stall_seed=seed, stall_probability=stalls, latency=seed) as rtl:
            machine = MachineDevice(ARCH)
            for device in (rtl, machine):
                # SRAM and DATA begin alike.
                device.write(1 << 16, data)
                everything = ISA.encode(ISA.make("LOAD", region=1, bytes=1 << 13, signal=2))
                assert (
                    execute(
                        device,
                        [
                            everything,
                            ISA.encode(ISA.make("STORE", wait=1, region=1)),
                            ISA.encode(ISA.make("HALT")),
                        ],
                        1 << 14,
                    )[0]
                    is Status.DONE
                )
                assert execute(device, words, 1 << 14) == (Status.DONE, ErrorCode.NONE, 0), f"seed {seed}"
            memories.append((device.read(1 << 16, 1 << 14), rtl.read(1 << 16, 1 << 14)))
            assert memories[-1][0] == memories[-1][1], f"seed {seed}"


def word(text: str) -> bytes:
    return ISA.encode(ISA.assemble(text))


NOP, HALT = word("NOP"), word("HALT")
WRONG = {
    "opcode": ([NOP, b"\x0f" + bytes(31), HALT], ErrorCode.ILLEGAL_INSTRUCTION, 1),
    "VECTOR": ([NOP, b"\x06" + bytes(31), HALT], ErrorCode.ILLEGAL_INSTRUCTION, 1),
    "reserved bit of HALT": ([NOP, NOP, HALT[:-1] + b"\x80"], ErrorCode.ILLEGAL_INSTRUCTION, 2),
    "reserved bit of OUTPUT": ([NOP, word("OUTPUT")[:-1] + b"\x80", HALT], ErrorCode.ILLEGAL_INSTRUCTION, 1),
    "space of STORE": (
        [word("LOAD region=DATA space=WEIGHT bytes=4").replace(b"\x02", b"\x03", 1), HALT],
        ErrorCode.ILLEGAL_INSTRUCTION,
        0,
    ),
    "NOP waits": ([NOP, word("NOP wait=LOAD"), HALT], ErrorCode.ILLEGAL_INSTRUCTION, 1),
    "HALT signals": ([word("HALT signal=STORE")], ErrorCode.ILLEGAL_INSTRUCTION, 0),
    "MATMUL accumulator": ([word("MATMUL acc=255 ox=2 final=1"), HALT], ErrorCode.OPERAND_RANGE, 0),
    "MATMUL tile": ([NOP, word("MATMUL tile=255 kt=2"), HALT], ErrorCode.OPERAND_RANGE, 1),
    "OUTPUT accumulator": (
        [word("MATMUL ox=2 final=1"), word("OUTPUT acc=255 nx=2"), HALT],
        ErrorCode.OPERAND_RANGE,
        1,
    ),
    "LOAD alignment": (
        [NOP, word("LOAD space=WEIGHT region=DATA bytes=6"), HALT],
        ErrorCode.OPERAND_RANGE,
        1,
    ),
    "LOAD to TABLE": ([NOP, word("LOAD space=TABLE region=DATA bytes=4"), HALT], ErrorCode.OPERAND_RANGE, 1),
    "LOAD past SRAM": ([NOP, word("LOAD region=DATA base=32767 bytes=2"), HALT], ErrorCode.OPERAND_RANGE, 1),
    "LOAD past PARAM": (
        [NOP, word("LOAD region=DATA space=PARAM base=1020 bytes=8"), HALT],
        ErrorCode.OPERAND_RANGE,
        1,
    ),
    "LOAD past region": ([NOP, word("LOAD region=DATA offset=4095 bytes=2"), HALT], ErrorCode.REGION, 1),
    "STORE past SRAM": ([word("STORE region=DATA base=32767 bytes=2"), HALT], ErrorCode.OPERAND_RANGE, 0),
    "STORE past region": ([NOP, word("STORE region=DATA offset=4095 bytes=2"), HALT], ErrorCode.REGION, 1),
    "second row of STORE": (
        [NOP, word("STORE region=DATA offset=4000 bytes=2 rows=2 ext_row=95"), HALT],
        ErrorCode.REGION,
        1,
    ),
    "STORE to PROGRAM": ([NOP, word("STORE region=PROGRAM bytes=1"), HALT], ErrorCode.REGION, 1),
    "no HALT, then a good one": ([NOP, NOP], ErrorCode.REGION, 2),
    "too many tokens": ([NOP, *[word("LOAD signal=STORE region=DATA")] * 16, HALT], ErrorCode.SEMAPHORE, 16),
    "OUTPUT without MATMUL": ([NOP, word("OUTPUT"), HALT], ErrorCode.WATCHDOG, 1),
    "token never given": (
        [NOP, NOP, word("LOAD wait=STORE region=DATA bytes=1"), HALT],
        ErrorCode.WATCHDOG,
        2,
    ),
}


@pytest.fixture
def device():
    with RtlDevice(ARCH) as device:
        yield device


def good_program_runs(device):
    graph = CompactGraphs(3).build()
    assert_same_bits(Driver(device, compile_graph(graph, ARCH), max_cycles=500_000), graph, seed=3, runs=1)


@pytest.mark.parametrize(("words", "code", "index"), WRONG.values(), ids=WRONG)
def test_a_wrong_program_stops_with_its_code_and_address(device, words, code, index):
    expected = (Status.ERROR, code, index * ISA.word_bytes)
    machine = MachineDevice(ARCH)
    assert execute(machine, words) == expected
    # The compact core's watchdog has one period.
    assert execute(device, words, watchdog=1 << 20, limit=2_000_000) == expected


def test_bus_errors_stop_the_core(device):
    device.inject(1 << 16, (1 << 16) + 15, DECERR)
    size = ISA.word_bytes
    assert execute(device, [NOP, word("LOAD region=DATA bytes=64"), HALT]) == (
        Status.ERROR,
        ErrorCode.BUS_READ,
        size,
    )
    assert execute(device, [word("STORE region=DATA bytes=64"), NOP, HALT]) == (
        Status.ERROR,
        ErrorCode.BUS_WRITE,
        0,
    )
    device.inject(0, size - 1, DECERR)
    assert execute(device, [NOP, HALT]) == (Status.ERROR, ErrorCode.BUS_READ, 0)
    device.clear_faults()
    good_program_runs(device)


def test_reset_in_mid_flight_recovers(device):
    transfers = [word(f"{name} region=DATA rows=100 bytes=16") for name in ("LOAD", "STORE")]
    for cycles in (20, 45, 60, 90, 200, 500):
        abort(device, [*transfers, HALT], cycles)
        good_program_runs(device)


def test_the_watchdog_rests_while_the_core_idles(device):
    """Its one period is 2**20 cycles."""
    good_program_runs(device)
    device.run((1 << WATCHDOG_BIT) + 1000)
    good_program_runs(device)


def random_layers(arch, rng: random.Random) -> list[bytes]:
    """Products of anything in memory, each drained to anywhere, and all of the activation SRAM in the end.

    Windows, steps and coordinates are drawn from their whole range, so that addresses and coordinates wrap.
    """
    isa = isa_for(arch)
    load, matrix, output = (1 << engine for engine in (Engine.LOAD, Engine.MATRIX, Engine.OUTPUT))

    def drawn(mnemonic, **fixed):
        fields = isa.by_mnemonic[mnemonic].fields
        return isa.make(mnemonic, **{f.name: rng.randint(f.min, f.max) for f in fields} | fixed)

    everything = {"region": Region.DATA, "bytes": arch.act_bytes}
    small = {"region": Region.DATA, "offset": 4 * rng.randrange(99)}
    program = [
        isa.make("LOAD", **everything),
        isa.make("LOAD", **small, space=Space.WEIGHT, bytes=arch.weight_bytes),
        isa.make("LOAD", **small, space=Space.PARAM, bytes=arch.param_bytes, signal=matrix),
    ]
    wait = load
    for _ in range(12):
        oy, ox, kt = rng.randint(1, 3), rng.randint(1, 5), rng.randint(1, 5)
        at = {
            "acc": rng.randrange(arch.acc_depth - oy * ox + 1),
            "tile": rng.randrange(arch.weight_tiles - 4 * kt + 1),
        }
        sizes = {"ky": rng.randint(1, 2), "kx": rng.randint(1, 2), "kt": kt, "oy": oy, "ox": ox}
        # A compact core has no `high`.
        program.append(drawn("MATMUL", **at, **sizes, wait=wait, signal=0, final=1, high=0))
        program.append(
            drawn("OUTPUT", acc=at["acc"], ny=oy, nx=ox, wait=0, signal=matrix, low=-128, high=127)
        )
        wait = output
    program[-1] = isa.make("OUTPUT", **program[-1].operands | {"signal": 1 << Engine.STORE})
    store = isa.make("STORE", **everything, wait=output)
    return [isa.encode(instr) for instr in (*program, store, isa.make("HALT"))]


@pytest.mark.parametrize("name", ARCHS)
@pytest.mark.parametrize("stalls", [0.0, 0.3])
def test_random_programs_equal_the_machine(name, stalls):
    arch = ARCHS[name]
    for seed in range(8):
        rng = random.Random(f"{name} {seed}")
        words, data = random_layers(arch, rng), rng.randbytes(arch.act_bytes)
        memories = []
        with RtlDevice(arch, stall_seed=seed, stall_probability=stalls, latency=3 * (seed % 4)) as rtl:
            for device in (rtl, MachineDevice(arch)):
                device.write(1 << 16, data)
                ended = execute(device, words, arch.act_bytes)
                assert ended == (Status.DONE, ErrorCode.NONE, 0), f"seed {seed}"
                memories.append(device.read(1 << 16, arch.act_bytes))
        assert memories[0] == memories[1], f"seed {seed} of {name}"


def test_a_pointwise_layer_keeps_the_array_busy():
    """64 channels to 64: two cycles between tiles, one for each pixel that OUTPUT takes, and little at each
    end of a block."""
    rng = np.random.default_rng(1)
    graph = CompactGraphs(1)
    x = graph.input((1, 64, 5, 25))
    window = {"kernel": (1, 1), "dilations": (1, 1), "strides": (1, 1), "pads": (0, 0, 0, 0)}
    graph = graph.finish(graph.convolve(x, window, 64, 1))
    with RtlDevice(PRESETS["icebreaker"], latency=2) as device:
        image = compile_graph(graph, PRESETS["icebreaker"])
        driver = Driver(device, image, max_cycles=200_000)
        driver.run({"in0": rng.integers(-128, 128, (1, 64, 5, 25)).astype(np.int8)})
        # Input and output go byte by byte, before and after.
        moved = 8000 + 2000 * 4 + 3000
        assert 32_000 < driver.cycles < 32_000 + 16 * (2 * 16 + 125 + 40) + moved + 2500, driver.cycles
        assert abs(image.cycles / driver.cycles - 1) < 0.03, (image.cycles, driver.cycles)


@pytest.mark.slow
def test_the_cells_of_the_ice40_give_the_same_bits_in_the_same_cycles():
    """Its DSP blocks, single-port and block RAM, with Yosys's models."""
    graphs = [CompactGraphs(seed).build() for seed in range(6)]
    images, results = [compile_graph(graph, ARCH) for graph in graphs], []
    for sources in (None, core_netlist(ARCH)):
        with RtlDevice(ARCH, sources=sources, latency=4) as device:
            results.append([])
            for graph, image in zip(graphs, images, strict=True):
                driver = Driver(device, image, max_cycles=1_000_000)
                results[-1].append((driver.run_int8(random_inputs(graph, 1)), driver.cycles))
    for seed, ((outputs, cycles), (gate_outputs, gate_cycles)) in enumerate(zip(*results, strict=True)):
        assert cycles == gate_cycles, f"seed {seed}"
        for output in outputs:
            np.testing.assert_array_equal(
                gate_outputs[output], outputs[output], err_msg=f"seed {seed}, output {output}"
            )


def test_what_a_compact_core_lacks_is_refused_in_one_sentence():
    graph = GraphBuilder(1)
    x = graph.input((1, 8))
    graph = graph.finish(graph.lookup(graph.matmul(x)))
    with pytest.raises(
        CompileError,
        match=r"node 'lookup1': it needs the vector unit .*, which architecture 'icebreaker' does not have; "
        r"use an architecture",
    ):
        compile_graph(graph, ARCH)
    graph = GraphBuilder(2)
    x = graph.input((1, 2, 5, 5))
    graph = graph.finish(graph.block(x))
    with pytest.raises(CompileError, match="it needs the vector unit"):
        compile_graph(graph, ARCH)
    with pytest.raises(IsaError, match="MATMUL.mode must be 0 on this core, not 1"):
        ISA.make("MATMUL", mode=1)
