"""After synthesis, blocks and a small core do what their Verilog does, in the same cycles."""

import dataclasses
import re

import numpy as np
import pytest

from systolith import api, verifying
from systolith.boards.board import BOARDS
from systolith.compiler.driver import compile_graph
from systolith.host.driver import Driver
from systolith.session import Session
from systolith.sim.benches.run import BenchFailure, BenchSettings, run_bench
from systolith.sim.benches.tops import PIN_CYCLES, SDRAM, bench_verilog
from systolith.sim.native import RtlDevice
from systolith.sim.netlist import core_netlist, netlist
from systolith.sim.twins import side_by_side
from systolith.sim.verilator import SimulationError
from systolith.spec.arch import PRESETS
from systolith.tooling.process import ToolError
from tests.graphs import random_graph, random_inputs
from tests.tooling.fakes import Fakes

TINY = PRESETS["tiny"]
BUS32 = dataclasses.replace(TINY, name="bus32", bus_bits=32)
#: The smallest core: its netlist takes a minute, and as long again to compile.
GATES = dataclasses.replace(
    BUS32, name="gates", act_bytes=1 << 11, act_blocks=1, weight_bytes=1 << 9, acc_depth=16, param_rows=16
)


def pair(bench, arch, family="ecp5"):
    """A bench's design beside what synthesis makes of it."""
    sources, top = bench_verilog(bench, arch)
    return side_by_side(sources, netlist(sources, top, family=family), top)


def test_the_sdram_controller_of_a_board_after_synthesis():
    """The design of bench `sdram` is the ULX3S's, pin for pin and cycle for cycle."""
    board = BOARDS["ulx3s_85f"]
    assert (board.memory, board.pin_cycles) == (SDRAM, PIN_CYCLES)
    assert (board.arch.bus_bits, board.arch.addr_bits) == (BUS32.bus_bits, BUS32.addr_bits)
    assert run_bench("sdram", BenchSettings(BUS32, seed=7, count=6), design=pair("sdram", BUS32)) == 2


@pytest.mark.parametrize(
    ("board", "family"),
    [("ulx3s_85f", "ecp5"), pytest.param("icebreaker", "ice40", marks=pytest.mark.slow)],
)
def test_the_host_link_of_a_board_after_synthesis(board, family):
    """The link with its line; only the rate of the line is not the board's."""
    arch = BOARDS[board].arch
    assert run_bench("link", BenchSettings(arch, seed=7, count=6), design=pair("link", arch, family)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("bench", ["load", "store", "matrix", "output", "vector"])
def test_an_engine_after_synthesis(bench):
    assert run_bench(bench, BenchSettings(TINY, seed=7), design=pair(bench, TINY)) == 2


def wrong_bit(sources, port):
    """A netlist with the table behind a port inverted."""
    ((name, text),) = sources.items()
    pin = re.search(rf"INIT\(16'h(\w{{4}})\)\s*\) \\?\S*{port}\S*\s*\(", text)
    assert pin is not None
    return {name: text[: pin.start(1)] + f"{int(pin[1], 16) ^ 0xFFFF:04x}" + text[pin.end(1) :]}


@pytest.mark.slow
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "beside the RTL"])
def test_one_wrong_bit_of_a_netlist_is_found(alone):
    sources, top = bench_verilog("sdram", BUS32)
    wrong = wrong_bit(netlist(sources, top), "pins__we")
    design = (wrong, top) if alone else side_by_side(sources, wrong, top)
    message = "SDRAM" if alone else r"differ in pins__we, \d+ cycles after reset"
    with pytest.raises(BenchFailure, match=f"(?s)seed 7.*{message}"):
        run_bench("sdram", BenchSettings(BUS32, seed=7, count=12), design=design)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 11])
def test_a_core_after_synthesis_gives_the_same_bits_in_the_same_cycles(seed):
    graph = random_graph(seed, largest=4, steps=3)
    image, results = compile_graph(graph, GATES), []
    for sources in (None, core_netlist(GATES)):
        with RtlDevice(GATES, sources=sources) as device:
            driver = Driver(device, image, max_cycles=1_000_000)
            runs = [(driver.run_int8(random_inputs(graph, draw)), driver.cycles) for draw in range(2)]
            results.append((driver.load_cycles, runs))
    (load, rtl), (gate_load, gate) = results
    assert load == gate_load
    for (outputs, cycles), (gate_outputs, gate_cycles) in zip(rtl, gate, strict=True):
        assert cycles == gate_cycles, f"seed {seed}"
        for output in outputs:
            np.testing.assert_array_equal(
                gate_outputs[output], outputs[output], err_msg=f"seed {seed}, output {output}"
            )


def test_verify_compares_the_cycles_of_rtl_and_netlist(monkeypatch):
    class Late(Session):
        """The RTL as both; as a netlist it says that it takes one cycle more."""

        def __init__(self, backend, *rest):
            super().__init__("rtl" if backend == "netlist" else backend, *rest)
            self.late = backend == "netlist"

        def run(self, arrays, **options):
            result = super().run(arrays, **options)
            (step,) = result.steps
            later = dataclasses.replace(step, cycles=step.cycles + self.late)
            return dataclasses.replace(result, steps=(later,))

    graph = random_graph(3, largest=4, steps=2)
    monkeypatch.setattr(verifying, "Session", Late)
    result = api.verify(graph, TINY, on=("rtl", "netlist"))
    (difference,) = result.differences
    cycles = {name: result.backends[name].cycles for name in ("rtl", "netlist")}
    assert cycles["netlist"] == cycles["rtl"] + 1
    assert str(difference).startswith("netlist: takes ") and str(difference).endswith(f"{cycles['rtl']}")


def test_a_native_yosys_without_its_files_is_refused(tmp_path, monkeypatch):
    path = Fakes(tmp_path / "bin", monkeypatch).version("yosys", "0.99")
    with pytest.raises(
        ToolError, match=rf"^{re.escape(str(path))} has no models of cells in .*--tools pypi$"
    ):
        netlist({"a.v": "module a; endmodule\n"}, "a")


def test_what_yosys_refuses_is_said(tmp_path):
    with pytest.raises(SimulationError, match=r"^Yosys failed: .*ERROR"):
        netlist({"a.v": "module a; no_such_thing x(; endmodule\n"}, "a", tmp_path)
