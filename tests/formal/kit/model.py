"""A proof's design as formulas: Amaranth to RTLIL to SMT-LIB by yosys."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import Module

from systolith.spec.errors import SystolithError
from systolith.tooling.cache import Cache
from systolith.tooling.process import run_tool
from systolith.tooling.tools import find
from tests.formal.kit.claims import Claims

__all__ = ["Model", "ModelError", "yosys"]

#: Memories become registers; each check becomes a cell of its own.
_PREPARE = (
    "read_rtlil top.il; prep -top top -flatten; async2sync; chformal -lower; dffunmap; memory_map -formal; "
)
#: The one clock becomes the step of the transition relation; a state is one bit vector.
_WRITE = "formalff -clk2ff -ff2anyinit; opt -fast; write_smt2 -stbv -wires top.smt2"


class ModelError(SystolithError):
    """Yosys refused the design, or lost a condition; the text is what it said."""


def yosys(m: Module, claims: Claims, script: str, folder: Path) -> None:
    """Runs a script over a module with its claims, prepared, in a folder.

    Raises
    ------
    ToolError    If there is no yosys, or only one that is too old.
    ModelError   If yosys refuses it.
    """
    # Amaranth writes the name of a cell as a user's; this one is yosys's own.
    source = rtlil.convert(m, ports=claims.ports, name="top").replace("cell \\$any", "cell $any")
    (folder / "top.il").write_text(source, encoding="utf-8")
    command = (str(find("yosys").path), "-q", "-p", _PREPARE + script)
    run_tool(command, "yosys", folder, failure=ModelError)


@dataclass(frozen=True)
class Model:
    """The transition system of one proof.

    Parameters
    ----------
    text : str   SMT-LIB of yosys's `write_smt2`: ``top_i`` (initial), ``top_t`` (step), ``top_u``
                 (assumptions) and ``top_n NAME`` (wires) are functions of states ``top_s``
    conditions : tuple   names of assumptions, claims, invariants and covers, in the order of the proof
    """

    text: str
    conditions: tuple[str, ...]

    @classmethod
    def of(cls, m: Module, claims: Claims) -> "Model":
        """The model of a module with its claims.

        Raises
        ------
        ModelError   If yosys refuses it, or loses a condition.
        """
        with Cache().scratch("formal") as folder:
            yosys(m, claims, _WRITE, folder)
            text = (folder / "top.smt2").read_text(encoding="utf-8")
        model = cls(text, tuple(claims.names))
        if lost := set(model.conditions) - set(model.wires):
            raise ModelError(f"yosys lost {', '.join(sorted(lost))}")
        return model

    @cached_property
    def wires(self) -> dict[str, int]:
        """Name and width of every wire."""
        found = re.findall(r"^; yosys-smt2-wire (\S+) (\d+)$", self.text, re.M)
        return {name: int(bits) for name, bits in found}

    def named(self, kind: str) -> list[str]:
        """Conditions of a kind, without it."""
        return [name.removeprefix(kind) for name in self.conditions if name.startswith(kind)]
