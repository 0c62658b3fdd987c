"""Verilog of a core or a system: generation, memory lowering and cache."""

import hashlib
import json
import os
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

__all__ = ["RAM_VERILOG", "BuildError", "VerilogFiles", "VerilogPlatform", "generate", "generate_component"]

#: The one behavioural RAM: a write port with lane enables, a read port that delivers the old value on a collision.
RAM_VERILOG = """\
// One write port with one enable per lane, one registered read port. On a collision the read delivers the old value,
// or, with TRANSPARENT, the new one.
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
    reg [WIDTH-1:0] memory [0:DEPTH-1];
    reg [WIDTH-1:0] stored;
    integer lane;
    always @(posedge clk) begin
        for (lane = 0; lane < WIDTH / LANE; lane = lane + 1)
            if (w_en[lane]) memory[w_addr][lane*LANE +: LANE] <= w_data[lane*LANE +: LANE];
        if (r_en) stored <= memory[r_addr];
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

#: Memories up to this many bits may become plain registers where the behavioural RAM does not fit.
_REGISTER_BITS = 1 << 15


class BuildError(RuntimeError):
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
    """Platform-like object that lowers memories to `RAM_VERILOG`.

    `device` is the FPGA whose own cells may stand in the Verilog (see `hw.leaf.ice40`); '': none, and it can be simulated.
    """

    def __init__(self, device: str = "") -> None:
        self.device = device

    def get_memory(self, memory: Memory):
        """One RAM instance per read port, for a memory with one write port, registered reads, and no contents.

        Small memories that are otherwise (asynchronous reads, contents) become registers.

        Raises
        ------
        BuildError   If such a memory is large.
        """
        reads, writes = memory.read_ports, memory.write_ports
        width = Shape.cast(memory.shape).width
        fits = (len(writes) == 1 and writes[0].domain == "sync" and reads and width > 0 and memory.depth > 1
                and not any(memory.init._raw) and all(port.domain == "sync" for port in reads))
        if not fits:
            if width * memory.depth > _REGISTER_BITS:
                raise BuildError(f"a memory of {memory.depth} x {width} bits needs one write port, registered reads, and no contents")
            return memory.elaborate(None)
        m = Module()
        write = writes[0]
        lane = width // len(write.en)
        for index, read in enumerate(reads):
            m.submodules[f"ram_{index}"] = Instance(
                "systolith_ram", p_WIDTH=width, p_DEPTH=memory.depth, p_ADDR=len(write.addr), p_LANE=lane, p_TRANSPARENT=int(bool(read.transparent_for)),
                i_clk=ClockSignal("sync"), i_w_en=write.en, i_w_addr=write.addr, i_w_data=_bits(write.data),
                i_r_en=read.en, i_r_addr=read.addr, o_r_data=_bits(read.data),
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
            state.update(f"{folder.name}/{path.relative_to(folder).as_posix()}".encode() + b"\0" + path.read_bytes() + b"\0")
    return state.hexdigest()[:24]


def _ports(component: Component) -> tuple[tuple[str, str, int], ...]:
    """Ports of the top module, as the Verilog back end names them."""
    ports = [("clk", "input", 1), ("rst", "input", 1)]
    for path, member, value in component.signature.flatten(component):
        direction = "input" if member.flow is In else "output"
        ports.append(("__".join(map(str, path)), direction, Shape.cast(value.shape()).width))
    return tuple(ports)


def generate(arch: ArchConfig, *, build_dir: str | Path = "build") -> VerilogFiles:
    """The Verilog of one core, module ``core``; see `generate_component`."""
    return generate_component("core", lambda: core_for(arch), json.dumps(arch.to_dict()), build_dir=build_dir)


def generate_component(top: str, make: Callable[[], Component], parameters: str, *, build_dir: str | Path = "build", device: str = "") -> VerilogFiles:
    """The Verilog of a component, from the cache if it holds it.

    Parameters
    ----------
    top : str          name of its module
    make : function    makes the component; called only where the cache does not hold it
    parameters : str   all that the component depends on, but the sources of `hw` and `spec`
    build_dir : path   the cache; each entry is a folder named by its digest, with the sources and ``build.json``
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
        return VerilogFiles(sources, digest, tuple((name, direction, bits) for name, direction, bits in stored["ports"]))
    component = make()
    text = verilog.convert(component, name=top, platform=VerilogPlatform(device), emit_src=False, strip_internal_attrs=True)
    files = VerilogFiles({f"{top}.v": text, "systolith_ram.v": RAM_VERILOG}, digest, _ports(component))
    folder.mkdir(parents=True, exist_ok=True)
    contents = {**files.sources, "build.json": json.dumps({"parameters": parameters, "ports": files.ports,
                                                           "sources": list(files.sources)}, indent=1)}
    for name, content in contents.items():
        # Written aside and renamed, record last, so that a parallel build never sees half an entry.
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as file:
            file.write(content)
        os.chmod(file.name, 0o644)
        os.replace(file.name, folder / name)
    return files
