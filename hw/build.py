"""Verilog of a core or a system: generation, memory lowering and cache."""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import amaranth
from amaranth.back import verilog
from amaranth.hdl import ClockSignal, Instance, Module, Shape
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In

from systolith import spec
from systolith.hw.cores import core_for
from systolith.spec.arch import ArchConfig
from systolith.spec.errors import SystolithError

__all__ = ["RAM_VERILOG", "BuildError", "VerilogFiles", "VerilogPlatform", "generate", "generate_component"]

#: The one behavioural RAM: a write port with lane enables, a read port. With the macro
#: ``SYSTOLITH_COLLISIONS`` a collision delivers what nobody wants, for the test that nothing depends on it.
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


def _digest(top: str, parameters: str) -> str:
    """Names a build: the parameters and every source that the Verilog depends on."""
    root = Path(__file__).parent
    state = hashlib.sha256(f"{top} {parameters} {amaranth.__version__}".encode())
    for folder in (root, Path(spec.__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            state.update(
                f"{folder.name}/{path.relative_to(folder).as_posix()}".encode()
                + b"\0"
                + path.read_bytes()
                + b"\0"
            )
    return state.hexdigest()[:24]


def _ports(component: Component) -> tuple[tuple[str, str, int], ...]:
    """Ports of the top module, as the Verilog back end names them."""
    ports = [("clk", "input", 1), ("rst", "input", 1)]
    for path, member, value in component.signature.flatten(component):
        direction = "input" if member.flow is In else "output"
        ports.append(("__".join(map(str, path)), direction, Shape.cast(value.shape()).width))
    return tuple(ports)


def generate(arch: ArchConfig, *, build_dir: str | Path = "build", device: str = "") -> VerilogFiles:
    """The Verilog of one core, module ``core``; see `generate_component`."""
    return generate_component(
        "core", lambda: core_for(arch), json.dumps(arch.to_dict()), build_dir=build_dir, device=device
    )


def generate_component(
    top: str,
    make: Callable[[], Component],
    parameters: str,
    *,
    build_dir: str | Path = "build",
    device: str = "",
) -> VerilogFiles:
    """The Verilog of a component, from the cache if it holds it.

    Parameters
    ----------
    top : str          name of its module
    make : function    makes the component; called only where the cache does not hold it
    parameters : str   all that the component depends on, but the sources of `hw` and `spec`
    build_dir : path   the cache; each entry is a folder named by its digest, with the sources and
                ``build.json``
    device : str       see `VerilogPlatform`

    Raises
    ------
    BuildError   If a memory cannot be lowered.
    """
    digest = _digest(top, parameters + device)
    folder = Path(build_dir) / digest
    record = folder / "build.json"
    if record.is_file():
        stored = json.loads(record.read_text(encoding="utf-8"))
        sources = {name: (folder / name).read_text(encoding="utf-8") for name in stored["sources"]}
        return VerilogFiles(
            sources, digest, tuple((name, direction, bits) for name, direction, bits in stored["ports"])
        )
    component = make()
    platform = VerilogPlatform(device)
    text = verilog.convert(component, name=top, platform=platform, emit_src=False, strip_internal_attrs=True)
    # yosys takes a name with brackets for a bit of another, and then fails in its ABC9 pass.
    text = re.sub(r"\\\S+", lambda match: match[0].replace("[", "<").replace("]", ">"), text)
    files = VerilogFiles({f"{top}.v": text, **platform.sources}, digest, _ports(component))
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        **files.sources,
        "build.json": json.dumps(
            {"parameters": parameters, "ports": files.ports, "sources": list(files.sources)}, indent=1
        ),
    }
    for name, content in contents.items():
        # Written aside and renamed, record last, so that a parallel build never sees half an entry.
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as file:
            file.write(content)
        os.chmod(file.name, 0o644)
        os.replace(file.name, folder / name)
    return files
