"""The cocotb benches: each on several configurations, and each finds a fault that is planted."""

import dataclasses

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systolith.compiler.driver import compile_graph
from systolith.hw.engine.matrix import MatrixEngine
from systolith.hw.engine.output import OutputEngine
from systolith.hw.engine.vector import VectorEngine
from systolith.sim.benches.run import BenchFailure, BenchSettings, run_bench
from systolith.sim.benches.tops import LoadTop, StoreTop, component_verilog
from systolith.spec.arch import PRESETS
from tests.graphs import ARCHS, random_graph

TINY = PRESETS["tiny"]
#: Two lanes, two rows of weights per cycle, half as wide a bus.
BUS64 = dataclasses.replace(TINY, name="bus64", rows=4, cols=4, lanes=2, bus_bits=64, weight_rows_per_cycle=2)
ENGINES = ["load", "store", "matrix", "output", "vector"]


@pytest.mark.parametrize("arch", [TINY, BUS64, PRESETS["array8"]], ids=lambda arch: arch.name)
@pytest.mark.parametrize("bench", ENGINES)
def test_engine(bench, arch):
    # Two tests in each bench: without and with random stalls.
    assert run_bench(bench, BenchSettings(arch, seed=7)) == 2


@pytest.mark.parametrize(
    "arch",
    [dataclasses.replace(TINY, name="bus32", bus_bits=32), pytest.param(TINY, marks=pytest.mark.slow)],
    ids=lambda arch: arch.name,
)
def test_sdram(arch):
    assert run_bench("sdram", BenchSettings(arch, seed=7)) == 2


def test_link():
    assert run_bench("link", BenchSettings(dataclasses.replace(TINY, name="bus32", bus_bits=32), seed=7)) == 2


def image_of(tmp_path, arch, seed):
    path = tmp_path / "image.sysl"
    path.write_bytes(compile_graph(random_graph(seed, largest=5, steps=3), arch).to_bytes())
    return str(path)


@pytest.mark.parametrize("seed", [2, 5])
@pytest.mark.parametrize("arch", ["tiny", "bus64", pytest.param("array8", marks=pytest.mark.slow)])
def test_core(arch, seed, tmp_path):
    image = image_of(tmp_path, ARCHS[arch], seed)
    assert run_bench("core", BenchSettings(ARCHS[arch], seed, count=2, image=image)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("arch", [TINY, BUS64, PRESETS["array8"]], ids=lambda arch: arch.name)
@pytest.mark.parametrize("bench", ENGINES)
def test_engine_with_many_instructions(bench, arch, seed):
    assert run_bench(bench, BenchSettings(arch, 100 + seed, count=150)) == 2


class Faulty(wiring.Component):
    """A design with one of its outputs inverted at bit 0."""

    def __init__(self, good, path):
        self._good, self._path = good, path
        super().__init__(dict(good.signature.members.items()))

    def elaborate(self, platform):
        m = Module()
        m.submodules.good = self._good
        outer = {path: value for path, _, value in self.signature.flatten(self)}
        for path, member, value in self._good.signature.flatten(self._good):
            value, port = (v.as_value() if hasattr(v, "as_value") else v for v in (value, outer[path]))
            if member.flow is Out:
                m.d.comb += port.eq(value ^ (".".join(map(str, path)) == self._path))
            else:
                assert member.flow is In
                m.d.comb += value.eq(port)
        return m


@pytest.mark.parametrize(
    ("bench", "top", "fault", "message"),
    [
        ("load", LoadTop, "act.data", r"act\[\d+\] is \d+, not \d+"),
        ("store", StoreTop, "axi.wlast", "AXI: wlast is 1 with"),
        pytest.param(
            "matrix",
            MatrixEngine,
            "acc.data",
            r"released entry 0 \(accumulator \d+\) is",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "output", OutputEngine, "chain.payload", r"effect \d+ is \('chain'", marks=pytest.mark.slow
        ),
        pytest.param("vector", VectorEngine, "engine.done", "is done too early", marks=pytest.mark.slow),
    ],
    ids=ENGINES,
)
def test_a_planted_fault_is_found_and_the_seed_is_named(bench, top, fault, message):
    design = component_verilog(Faulty(top(TINY), fault), f"faulty_{bench}")
    with pytest.raises(
        BenchFailure, match=rf"(?s)^bench {bench} at tiny, seed 7, failed:.*seed 7.*{message}"
    ):
        run_bench(bench, BenchSettings(TINY, seed=7), design=design)


def test_an_unknown_bench_is_refused():
    with pytest.raises(
        ValueError,
        match=r"^bench must be one of load, store, matrix, output, vector, sdram, link, core, not 'dma'$",
    ):
        run_bench("dma", BenchSettings(TINY, seed=0))
