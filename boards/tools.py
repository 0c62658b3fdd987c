"""The open tools that make a bitstream, per flow, for the scripts that Amaranth writes."""

from __future__ import annotations

from pathlib import Path

from systolith.tooling.process import tool_environment
from systolith.tooling.tools import Tool, find

__all__ = ["FLOW_TOOLS", "environment", "flow_tools"]

#: Programs of each flow, by their native names.
FLOW_TOOLS = {
    "ecp5": ("yosys", "nextpnr-ecp5", "ecppack"),
    "ice40": ("yosys", "nextpnr-ice40", "icepack"),
    "gowin": ("yosys", "nextpnr-himbaechel", "gowin_pack"),
    "xilinx": ("yosys",),
}


def flow_tools(flow: str) -> dict[str, Tool]:
    """The flow's programs by name.

    Raises
    ------
    ToolError   If one is missing or too old.
    """
    return {name: find(name) for name in FLOW_TOOLS[flow]}


def environment(flow: str, scratch: Path) -> dict[str, str]:
    """Environment in which Amaranth's build scripts find the flow's tools; temporary files go to `scratch`.

    Raises
    ------
    ToolError   see `flow_tools`
    """
    paths = {name: str(tool.path) for name, tool in flow_tools(flow).items()}
    named = {name.upper().replace("-", "_").replace("+", "X"): path for name, path in paths.items()}
    return {**tool_environment(scratch), **named}
