"""Verilog generation: names, memories, cache."""

import os
import re
import time

import pytest
from amaranth.hdl import Module, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systolith.hw.build import RAM_VERILOG, BuildError, VerilogPlatform, generate
from systolith.spec.arch import PRESETS
from tests.hw.kit import verilog_text


def cpu_seconds() -> float:
    """Processor seconds of this process and those it waited for; a busy machine does not change them."""
    return sum(os.times()[:4])


def test_tiny_is_generated_within_budget_and_cached(tmp_path):
    begin = cpu_seconds()
    files = generate(PRESETS["tiny"], cache_dir=tmp_path)
    seconds = cpu_seconds() - begin
    text = files.sources["core.v"]
    assert re.search(r"^module core\(", text, re.MULTILINE)
    assert files.sources["systolith_ram.v"] == RAM_VERILOG
    for name, direction, bits in files.ports:
        width = rf"\[{bits - 1}:0\] " if bits > 1 else ""
        assert re.search(rf"^  {direction} {width}{name};", text, re.MULTILINE), name
    assert {"axi__awaddr", "csr__awaddr", "trace__output__valid", "clk", "rst"} <= {
        name for name, _, _ in files.ports
    }
    assert len(text) < 2_000_000 and seconds < 30, f"{len(text)} characters in {seconds:.1f} s"
    begin = time.monotonic()
    assert generate(PRESETS["tiny"], cache_dir=tmp_path) == files
    assert time.monotonic() - begin < 1, "the cache was not used"


def test_an_ecp5_gets_its_own_multipliers(tmp_path):
    arch = PRESETS["tiny"]
    text = generate(arch, cache_dir=tmp_path, device="LFE5U-85F").sources["core.v"]
    # Per lane two of the output stage, two of the vector unit, one of the cell.
    assert len(re.findall(r"^  MULT18X18D #\(", text, re.MULTILINE)) == arch.rows * arch.cols + 5 * arch.lanes
    assert "MULT18X18D" not in generate(arch, cache_dir=tmp_path).sources["core.v"]


class Small(wiring.Component):
    """One memory."""

    def __init__(self, depth, *, init=(), transparent=False):
        self._depth, self._init, self._transparent = depth, init, transparent
        super().__init__({"addr": In(range(depth)), "data": In(16), "en": In(2), "q": Out(16)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=16, depth=self._depth, init=self._init)
        write = memory.write_port(granularity=8)
        read = memory.read_port(transparent_for=(write,) if self._transparent else ())
        m.d.comb += [
            read.addr.eq(self.addr),
            write.addr.eq(self.addr),
            write.data.eq(self.data),
            write.en.eq(self.en),
            self.q.eq(read.data),
        ]
        return m


@pytest.mark.parametrize("transparent", [False, True])
def test_a_memory_becomes_one_ram_instance_with_its_lanes(transparent):
    text = verilog_text(Small(64, transparent=transparent))
    parameters = dict(re.findall(r"\.(\w+)\(32'd(\d+)\)", text))
    assert parameters == {
        "WIDTH": "16",
        "DEPTH": "64",
        "ADDR": "6",
        "LANE": "8",
        "TRANSPARENT": str(int(transparent)),
    }


class Rom(wiring.Component):
    """One memory without a write port."""

    def __init__(self, init):
        self._init = init
        super().__init__({"addr": In(range(len(init))), "q": Out(signed(6))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=signed(6), depth=len(self._init), init=self._init)
        read = memory.read_port()
        m.d.comb += [read.addr.eq(self.addr), self.q.eq(read.data)]
        return m


def test_memories_that_are_only_read_share_a_module_with_their_contents():
    platform = VerilogPlatform()
    texts = [verilog_text(Rom(init), platform) for init in ([1, -1, 5], [1, -1, 5], [1, -1, 4])]
    names = [re.search(r"systolith_rom_\w+", text)[0] for text in texts]
    assert names[0] == names[1] != names[2]
    assert set(platform.sources) == {"systolith_ram.v", f"{names[0]}.v", f"{names[2]}.v"}
    words = re.findall(r"memory\[(\d)\] = 6'h(\w+);", platform.sources[f"{names[0]}.v"])
    assert words == [("0", "1"), ("1", "3f"), ("2", "5")]


def test_a_large_memory_with_contents_is_refused():
    assert "systolith_ram" not in verilog_text(Small(64, init=[1]))
    with pytest.raises(BuildError, match="a memory of 4096 x 16 bits needs"):
        verilog_text(Small(4096, init=[1]))
